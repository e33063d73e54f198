"""Consoles over real sockets: who gets in, what goes through, and what ends them."""

import os
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.e2e.console.conftest import EXT, Machine, dial, make_machine
from tests.support.simulation import simulation
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(600)
_WAIT_S = 60.0


def receive(socket: ClientConnection, length: int) -> bytes:
    got = b""
    while len(got) < length:
        got += socket.recv(_WAIT_S)  # type: ignore[operator] # text would fail the test here
    return got


def read_banner(socket: ClientConnection) -> bytes:
    banner = b""
    while not banner.endswith(b"\r\n"):
        banner += receive(socket, 1)
    return banner


def why_closed(socket: ClientConnection) -> tuple[int, str]:
    """Read to the end, and return what the server closed with."""
    try:
        while True:
            socket.recv(_WAIT_S)
    except ConnectionClosed:
        assert socket.close_code is not None
        return socket.close_code, socket.close_reason or ""


def status_of(url: str) -> int:
    with pytest.raises(InvalidStatus) as refused, dial(url):
        pass
    return refused.value.response.status_code


def test_a_serial_line_carries_bytes_both_ways(machine: Machine) -> None:
    with dial(machine.url()) as socket:
        assert b"Simulated console" in read_banner(socket)
        everything = bytes(range(256)) * 4096  # as large as a message may be
        socket.send(everything)
        assert receive(socket, len(everything)) == everything


def test_the_contract_connects_to_the_screen(machine: Machine) -> None:
    answer = machine.client.get(f"/api/v1/instance/{machine.instance}/connect")
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["url"]
    with dial(answer.json()["url"], "binary") as socket:
        assert socket.subprotocol == "binary"
        assert receive(socket, 12) == b"RFB 003.008\n"
        socket.send(b"RFB 003.008\n")
        assert b"simulated" in receive(socket, 30)
        assert why_closed(socket) == (1000, "the console has ended")


def test_a_subprotocol_is_not_needed_and_others_are_not_spoken(machine: Machine) -> None:
    with dial(machine.url()) as socket:
        assert socket.subprotocol is None
    with dial(machine.url(), "base64", "binary") as socket:
        assert socket.subprotocol == "binary"


@pytest.mark.parametrize("kind", ["serial", "vnc"])
def test_an_instance_has_them_by_its_own_id_too(machine: Machine, kind: str) -> None:
    path = f"{EXT}/instances/{machine.instance}/console"
    answer = machine.client.post(path, params={"kind": kind})
    assert answer.status_code == 201, answer.text
    assert set(answer.json()) == {"url", "expires_at_ms"}
    with dial(answer.json()["url"]) as socket:
        assert receive(socket, 3)


def test_a_token_is_good_once(machine: Machine) -> None:
    url = machine.url()
    with dial(url):
        pass
    assert status_of(url) == 403


def test_of_many_who_dial_at_once_exactly_one_gets_in(machine: Machine) -> None:
    url, outcomes = machine.url(), list[int]()

    def enter() -> None:
        try:
            with dial(url):
                outcomes.append(101)
        except InvalidStatus as refused:
            outcomes.append(refused.response.status_code)

    threads = [threading.Thread(target=enter) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [101] + [403] * 11


def test_a_token_expires(machine: Machine) -> None:
    url = machine.url()
    database = machine.server.key_file.parent / "state/state.db"
    with closing(sqlite3.connect(database, timeout=_WAIT_S, isolation_level=None)) as db:
        db.execute("UPDATE console_token SET expires_at_ms = 1")
    assert status_of(url) == 403


def test_a_token_that_nobody_gave_opens_nothing(machine: Machine) -> None:
    base = machine.url().rpartition("/")[0]
    for token in ("x", "kwb_" + "A" * 43, "%2e%2e", "A" * 5000):
        assert status_of(f"{base}/{token}") in (403, 404)


def test_only_who_is_known_gets_a_token(machine: Machine) -> None:
    with httpx.Client(base_url=machine.server.url, trust_env=False, timeout=60) as stranger:
        assert machine.ask("serial", client=stranger).status_code == 401
        assert stranger.get(f"/api/v1/instance/{machine.instance}/connect").status_code == 401


@pytest.mark.parametrize("kind", ["", "spice", "SERIAL"])
def test_other_kinds_are_refused(machine: Machine, kind: str) -> None:
    assert machine.ask(kind).status_code == 400


def test_text_is_refused(machine: Machine) -> None:
    with dial(machine.url()) as socket:
        socket.send("hello")
        assert why_closed(socket)[0] == 1003


def test_a_message_that_is_too_large_is_refused(machine: Machine) -> None:
    with dial(machine.url()) as socket:
        socket.send(bytes(1024 * 1024 + 1))
        assert why_closed(socket)[0] == 1009


def test_who_comes_last_gets_the_serial_line_and_the_other_is_told(machine: Machine) -> None:
    with dial(machine.url()) as first:
        read_banner(first)
        with dial(machine.url()) as second:
            assert why_closed(first) == (
                1011,
                "the stream broke off: somebody else has opened this serial line",
            )
            read_banner(second)
            second.send(b"mine")
            assert receive(second, 4) == b"mine"


def test_a_console_ends_with_its_machine(machine: Machine) -> None:
    try:
        with dial(machine.url()) as serial, dial(machine.url("vnc")) as screen:
            read_banner(serial)
            receive(screen, 12)
            machine.power("stop")
            assert why_closed(serial) == (1000, "the console has ended")
            assert why_closed(screen) == (1000, "the console has ended")
        for answer in (
            machine.ask("serial"),
            machine.client.get(f"/api/v1/instance/{machine.instance}/connect"),
        ):
            assert answer.status_code == 404
            assert "does not run" in answer.json()["reason"]
    finally:
        machine.power("start")


def test_an_agent_that_is_cut_off_ends_its_consoles_and_is_told_as_away(machine: Machine) -> None:
    unused = machine.url()
    try:
        with dial(machine.url()) as socket:
            read_banner(socket)
            machine.node("cut")
            code, reason = why_closed(socket)
            assert code == 1011
            assert "broke off" in reason
        machine.until_connected(False)
        answer = machine.ask("serial")
        assert answer.status_code == 503
        assert "is connected" in answer.json()["reason"]
        assert machine.client.get(
            f"/api/v1/instance/{machine.instance}/connect"
        ).status_code == 503  # fmt: skip
        with dial(unused) as socket:
            code, reason = why_closed(socket)
            assert code == 1011
            assert "no agent of Kaktus" in reason
    finally:
        machine.node("mend")
        machine.until_connected(True)
    with dial(machine.url()) as socket:
        read_banner(socket)


def test_the_url_is_the_public_one_if_there_is_one(machine: Machine) -> None:
    own = machine.server.url.replace("http", "ws")
    assert machine.url().startswith(f"{own}/api/ext/v1/console/kwb_")
    setting = f"{EXT}/settings/public_url"
    public = "https://cloud.example.org:8443"
    assert machine.client.put(setting, json={"value": public}).is_success
    try:
        assert machine.url().startswith("wss://cloud.example.org:8443/api/ext/v1/console/kwb_")
    finally:
        machine.client.delete(setting)


def test_who_comes_by_the_local_socket_gets_an_address_of_this_machine(machine: Machine) -> None:
    local = str(machine.server.key_file.parent / "state/run/api.sock")
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=local), base_url="http://localhost", timeout=60
    ) as client:
        url = machine.ask("serial", client=client).json()["url"]
    assert url.startswith(machine.server.url.replace("http", "ws"))
    with dial(url) as socket:
        read_banner(socket)


def test_no_token_is_ever_logged(machine: Machine) -> None:
    used, unused = machine.url(), machine.url("vnc")
    with dial(used) as socket:
        read_banner(socket)
    status_of(used)
    plain = httpx.URL(unused).path
    assert machine.client.get(plain).status_code in (404, 405)
    path = machine.server.log
    until_now(  # a request is logged after its answer
        lambda: "/console/kwb_***" in path.read_text(), "the request is logged", timeout_s=_WAIT_S
    )
    log = path.read_text()
    assert "console_opened" in log
    for url in (used, unused):
        assert url.rpartition("/")[2] not in log


def test_a_kahuna_that_stops_closes_consoles(tmp_path: Path) -> None:
    with simulation(tmp_path, nodes=1) as server, server.client() as client:
        machine = make_machine(server, client)
        with dial(machine.url()) as socket:
            read_banner(socket)
            os.kill(server.process.pid, signal.SIGTERM)
            assert why_closed(socket)[0] in (1001, 1012)
        assert server.process.wait(_WAIT_S) == 0
