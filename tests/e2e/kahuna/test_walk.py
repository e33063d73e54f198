"""From an empty directory to agents at work, with real processes and real sockets."""

import json
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.e2e.kahuna.conftest import Place
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(600)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_simulated_cloud_survives_a_kill_and_keeps_everything(place: Place) -> None:
    port, key = free_port(), place.directory / "master.key"
    url = f"http://127.0.0.1:{port}"
    first = place.simulation(f"127.0.0.1:{port}", key)
    assert httpx.get(f"{url}/healthz", timeout=60).json() == {"status": "ok", "store": "ok"}
    place.cli("settings", "set", "smtp.host", "smtp.example.org")
    agent_id = place.ask("agent", "enrol", "k1", "--type", "Kaktus")["id"]
    until_now(lambda: place.connected(agent_id), "the agent is played")
    credential = place.directory / "k1.json"
    place.cli("agent", "credential", agent_id, "--output", credential)
    late = place.cli("agent", "credential", agent_id, "--output", place.directory / "x", code=5)
    assert "handed over already" in late
    place.cli("secret", "rotate", "--wait")

    first.stop(signal.SIGKILL)
    second = place.simulation(f"127.0.0.1:{port}", key)
    assert place.ask("settings", "get", "smtp.host")["value"] == "smtp.example.org"
    until_now(lambda: place.connected(agent_id), "the agent is played again")
    (operation,) = place.ask("operation", "list")
    assert (operation["kind"], operation["state"]) == ("data_key_rotate", "done")
    place.cli("agent", "list", "--url", url, "--api-key-file", key)
    place.cli("state", "verify")

    assert second.stop() == 0
    assert not second.says("Traceback")


def test_an_agent_of_the_same_node_enrols_itself_over_tls_and_is_revoked(place: Place) -> None:
    agent = place.agent("Kaktus")  # before its Kahuna: it waits
    kahuna = place.kahuna()
    agent.until("agent is up")
    (listed,) = place.ask("agent", "list")
    assert (listed["name"], listed["credential"]) == ("n1-kaktus", "ed25519")
    (session,) = listed["sessions"]
    assert session["address"].startswith("127.0.0.1:")
    assert "kahuna_connected" in place.cli("agent", "log", listed["id"])

    agent.stop(signal.SIGKILL)
    again = place.agent("Kaktus")
    again.until("agent is up")
    assert [one["id"] for one in place.ask("agent", "list")] == [listed["id"]]

    place.cli("agent", "revoke", listed["id"])
    again.until("4411")
    kahuna.until("the credential was revoked")  # at once: a later look finds it "changed"
    assert not place.connected(listed["id"])
    assert again.stop() == 0
    assert kahuna.stop() == 0


def test_an_agent_of_the_same_node_finds_its_kahuna_again_at_another_port(place: Place) -> None:
    first = place.kahuna()
    agent = place.agent("Kaktus")
    agent.until("agent is up")
    assert first.stop() == 0
    place.kahuna().until("agent_connected")
    agent.until("local_kahuna_moved")


def test_an_agent_with_a_key_connects_from_elsewhere(place: Place, tmp_path: Path) -> None:
    port = free_port()
    place.kahuna(port)
    agent_id = place.ask("agent", "enrol", "kiwi-1", "--type", "Kiwi")["id"]
    credential = tmp_path / "kiwi.json"
    place.cli("agent", "credential", agent_id, "--output", credential)
    (tmp_path / "elsewhere").mkdir()
    with closing(Place(tmp_path / "elsewhere")) as elsewhere:
        agent = elsewhere.agent("Kiwi", credential=credential, url=f"wss://127.0.0.1:{port}/ws")
        agent.until("agent is up")
        assert place.connected(agent_id)
        wrong = elsewhere.agent("Kaktus", credential=credential, url=f"wss://127.0.0.1:{port}/ws")
        assert wrong.process.wait(60) != 0
        assert "is the credential of a Kiwi" in wrong.log.read_text()


def test_only_the_cluster_authority_vouches_for_a_kahuna(place: Place) -> None:
    port = free_port()
    place.kahuna(port)
    url = f"https://127.0.0.1:{port}"
    key = place.state / "master.key"
    ca = place.state / "tls/ca.pem"
    place.cli("agent", "list", "--url", url, "--api-key-file", key, "--ca-file", ca)
    refused = place.cli("agent", "list", "--url", url, "--api-key-file", key, code=6)
    assert "--ca-file" in refused


def test_a_second_kahuna_on_the_same_state_is_refused(place: Place) -> None:
    place.kahuna()
    second = subprocess.run(
        [
            sys.executable, "-m", "appliance", "serve", "--simulate",
            "--listen", "127.0.0.1:0", "--state", str(place.state),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert second.returncode == 5
    assert "held by process" in second.stderr
    assert json.loads(place.cli("agent", "list", "-o", "json")) == []


def test_stopping_with_open_sockets_and_endless_answers_is_quick_and_clean(place: Place) -> None:
    port = free_port()
    kahuna, agent = place.kahuna(port), place.agent("Kaktus")
    agent.until("agent is up")
    (agent_id,) = place.cli("agent", "list", "-o", "name").split()
    with (
        httpx.Client(transport=httpx.HTTPTransport(uds=str(place.socket)), timeout=60) as client,
        client.stream(
            "GET", f"http://localhost/api/ext/v1/agents/{agent_id}/log?follow=true"
        ) as following,
    ):
        lines = following.iter_lines()
        assert "agent_enrolled" in next(lines)
        assert kahuna.stop() == 0
        assert all("Traceback" not in line for line in lines)
    assert not kahuna.says("Traceback")
    assert not kahuna.says("graceful shutdown exceeded"), "it waited as long as it may"
    agent.until("kahuna_not_connected")

    place.kahuna(port)
    until_now(lambda: place.connected(agent_id), "the agent comes back")
