"""A small simulated cloud, made by the command line alone."""

import json
from typing import Any

from tests.support.wait import until_now
from tests.unit.cli.conftest import Cli, Result


def ok(result: Result) -> Result:
    assert result.code == 0, result.err
    return result


def ask(cli: Cli, *words: object) -> Any:  # noqa: ANN401 - JSON
    return json.loads(ok(cli(*words, "-o", "json")).out)


def new(cli: Cli, line: str, *more: object) -> str:
    """Make an object; return its id."""
    noun, *words = line.split()
    return ok(cli(noun, "create", *words, *more, "-q")).out.strip()


def build_region(cli: Cli) -> None:
    new(cli, "region eu --domain eu.example.org")
    new(cli, "zone eu-a --region eu")


def build_host(cli: Cli, agent: str) -> None:
    """Give the zone a host that has told what it is."""
    new(cli, f"kaktus host-1 --zone eu-a --agent {agent} --cpu-price 120")
    until_now(lambda: bool(ask(cli, "kaktus", "caps", "host-1")["memory"]), "the host reports")


def build_project(cli: Cli) -> None:
    new(cli, "vnet tenants --region eu --interface br0 --vlan 7")
    new(cli, "subnet net-1 --vnet tenants --cidr 10.1.0.0/24 --gateway 10.1.0.1"
        " --gw-pool 10.1.0.2-10.1.0.5")  # fmt: skip
    new(cli, "pool ssd --region eu --pool rbd --agent k1")
    new(cli, "template debian --pool ssd --source https://images.example.org/debian.qcow2")
    new(cli, "team infra")
    new(cli, "project shop --team infra --region eu --quota-memory 64GiB")
    ok(cli("pool", "default", "ssd", "--region", "eu"))
    ok(cli("template", "default", "debian", "--pool", "ssd"))


def build_cloud(cli: Cli) -> None:
    build_region(cli)
    new(cli, "agent k1 --type Kaktus")
    build_host(cli, "k1")
    build_project(cli)
