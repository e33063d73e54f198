"""From an empty directory to a machine by the command line alone, with names only.

Real processes: one that simulates a cloud, and one for each command.
"""

import json
import signal
import subprocess
import sys

import pytest

from tests.e2e.kahuna.conftest import Place
from tests.e2e.kahuna.test_walk import free_port
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(600)

_WAY = """
region create eu-west --domain eu-west.example.org
zone create eu-west-a --region eu-west
agent create k1 --type Kaktus
agent create w1 --type Kiwi
kiwi create routers --region eu-west --agent w1
kaktus create host-1 --zone eu-west-a --agent k1 --cpu-price 120 --memory-price 80
vnet create tenants --region eu-west --vlan 201 --interface br201
subnet create net-1 --vnet tenants --cidr 10.1.0.0/24 --gateway 10.1.0.1 --gw-pool 10.1.0.2-10.1.0.5
subnet default net-1 --vnet tenants
pool create ssd --region eu-west --pool rbd --agent k1 --price 50
pool default ssd --region eu-west
"""
_PROJECT = """
template create debian-13 --pool ssd --source https://images.example.org/debian-13.qcow2
template default debian-13 --pool ssd
team create infra
project create shop --team infra --region eu-west --quota-vcpus 8 --quota-memory 16GiB
kompute create web --project shop --zone eu-west-a --vcpus 2 --memory 4GiB --disk 20G --data-disk 5G
"""
_BACK = """
kompute delete web
project delete shop
team delete infra
template delete debian-13
pool delete ssd
subnet delete net-1
vnet delete tenants
kaktus delete host-1
kiwi delete routers
agent delete k1 w1
zone delete eu-west-a
region delete eu-west
"""


def go(place: Place, commands: str) -> None:
    for line in commands.strip().splitlines():
        place.cli(*line.split())


def test_from_nothing_to_a_machine_and_back_with_names_only(place: Place) -> None:
    port, key = free_port(), place.directory / "master.key"
    first = place.simulation(f"127.0.0.1:{port}", key)
    go(place, _WAY)
    until_now(lambda: place.ask("kaktus", "caps", "host-1")["memory"] > 0, "the host reports")
    go(place, _PROJECT)
    assert place.ask("kompute", "state", "web")["state"] == "Running"
    machine = place.ask("kompute", "show", "web")
    assert (machine["data_disk"], machine["ip"]) == (5 * 2**30, "10.1.0.6")
    for noun in (
        "region", "zone", "agent", "kiwi", "kaktus", "vnet", "subnet", "pool", "template", "team",
        "project", "volume", "adapter", "instance", "kompute",
    ):  # fmt: skip
        table = place.cli(noun, "list").splitlines()
        assert len(table) > 1, noun
        assert all(len(line) <= 80 for line in table), noun
    place.cli("kompute", "set", "web", "--memory", "8GiB", "--plan", code=8)
    place.cli("kompute", "set", "web", "--memory", "4GiB", "--plan")
    place.cli("kompute", "set", "web", "--memory", "17GiB", code=7)
    place.cli("kompute", "shutdown", "web")

    first.stop(signal.SIGKILL)
    second = place.simulation(f"127.0.0.1:{port}", key)
    assert place.ask("kompute", "show", "web") == machine
    until_now(
        lambda: all(place.connected(name) for name in ("k1", "w1")), "the agents are played again"
    )
    assert place.ask("kompute", "state", "web")["state"] == "Shutoff"
    remote = ("--url", f"http://127.0.0.1:{port}", "--api-key-file", key)
    assert place.ask("kompute", "list", *remote) == [machine]
    place.cli("state", "verify")
    go(place, _BACK)
    assert place.ask("volume", "list") == []
    assert second.stop() == 0
    assert not second.says("Traceback")


def test_data_goes_to_standard_output_and_everything_else_to_standard_error(place: Place) -> None:
    place.simulation(f"127.0.0.1:{free_port()}", place.directory / "master.key")
    made = subprocess.run(
        [
            sys.executable, "-m", "appliance", "region", "create", "eu", "--domain", "a.example",
            "-o", "json", "--debug", "--socket", str(place.socket),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert json.loads(made.stdout)["name"] == "eu"
    assert made.stderr.startswith("debug: POST /api/v1/region: request ")
