"""More connections and more events than is decent: everybody else is served all the same."""

import json
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from tests.support.far_cloud import EXT, MIB, Far, FarCloud, Meanwhile, Network, network, wire
from tests.support.far_role import PORT
from tests.support.faults import What, Where, breaks
from tests.support.storm import HONEST, SILENT_SOCKET, UNKNOWN, Outcome, Storm
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(900)
_WIRE = 9
_EXPECTED = (
    "the API answers, agents get in and work goes on; afterwards memory, descriptors and tasks are "
    "as before"
)


@pytest.fixture(scope="module")
def outside(cloud: FarCloud) -> Generator[Network]:
    """Where the storm comes from, with 65 addresses."""
    with network(cloud.directory / "hosts-outside") as outside:
        wire(cloud.network, outside, _WIRE)
        for number in range(10, 74):
            outside.run("ip", "address", "add", f"10.99.{_WIRE}.{number}/24", "dev", "k0")
        yield outside


@pytest.fixture(scope="module")
def credential(cloud: FarCloud) -> str:
    """Return what an agent that belongs to no region proves itself with."""
    with cloud.client() as client:
        agent = client.post(f"{EXT}/agents", json={"name": "stormy", "type": "Kaktus"}).json()["id"]
        client.post(f"{EXT}/agents/{agent}/key")
        return json.dumps(client.post(f"{EXT}/agents/{agent}/credential").json())


def let_loose(outside: Network, storm: Storm) -> subprocess.Popen[bytes]:
    argv = outside.enter(
        sys.executable, "-m", "tests.support.storm", msgspec.json.encode(storm).decode()
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "/usr/bin:/bin:/usr/sbin"}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment)


@dataclass
class Seconds:
    """How long requests took."""

    each: list[float] = field(default_factory=list)

    @property
    def p99(self) -> float:
        return sorted(self.each)[len(self.each) * 99 // 100]


@contextmanager
def asking(cloud: FarCloud) -> Generator[Seconds]:
    """Ask the API one thing after another during the block; a failure fails the test."""
    seconds, over = Seconds(), False

    def ask() -> None:
        with cloud.client() as client:
            while not over:
                began = time.monotonic()
                answer = client.get("/api/v1/region")
                seconds.each.append(time.monotonic() - began)
                assert answer.is_success, answer.text
                time.sleep(0.01)

    asked = Meanwhile(ask)
    try:
        yield seconds
    finally:
        over = True
        asked.result()


def weather(
    cloud: FarCloud, outside: Network, storm: Storm, far: Far, *, grown_mib: int = 64
) -> Outcome:
    """Have a storm, with work and an honest agent that loses its connection in it."""
    until_now(lambda: cloud.kahuna.open_files() < 80, "it is calm")
    with asking(cloud) as calm:
        until_now(lambda: len(calm.each) >= 50, "it is known how long requests take")
    before = cloud.kahuna.resident_bytes(), cloud.kahuna.open_files(), cloud.count_tasks()
    with asking(cloud) as meanwhile, let_loose(outside, storm) as process:
        try:
            old = cloud.until_connected(far)
            cloud.reset_connections(far)
            cloud.until_connected(far, but_not=old)
            cloud.delete(cloud.create(far, f"storm-{time.monotonic_ns()}"))
            assert process.stdout is not None
            outcome = msgspec.json.decode(process.stdout.readline(), type=Outcome)
        finally:
            process.kill()
    until_now(lambda: cloud.kahuna.open_files() <= before[1] + 8, "descriptors are as before")
    until_now(lambda: cloud.count_tasks() <= before[2] + 8, "tasks are as before")
    cloud.assert_sound()
    after = cloud.kahuna.resident_bytes()
    print(
        f"\n{storm.connections or storm.events} in {outcome.seconds:.1f} s, API p99 "
        f"{calm.p99 * 1000:.1f} ms, then {meanwhile.p99 * 1000:.1f} ms "
        f"(x{meanwhile.p99 / calm.p99:.1f}); RSS {before[0] / MIB:.0f} MiB, then "
        f"{after / MIB:.0f} MiB; {outcome.ends}"
    )
    assert after - before[0] < grown_mib * MIB
    return outcome


def sources(many: bool) -> tuple[str, ...]:
    return tuple(f"10.99.{_WIRE}.{number}" for number in range(10, 74)) if many else ()


@pytest.mark.parametrize("many", [False, True])
@breaks(
    What.NETWORK, "hundreds of connections at once, from one address and from many: without TLS, "
    "without a request, without a hello, of an unknown agent, of one that reconnects",
    expected=_EXPECTED, where=Where.NAMESPACE,
)  # fmt: skip
def test_storm(cloud: FarCloud, outside: Network, credential: str, many: bool) -> None:
    storm = Storm(
        host=f"10.99.{_WIRE}.1",
        port=PORT,
        credential=credential,
        connections=300,
        sources=sources(many),
    )
    outcome = weather(cloud, outside, storm, cloud.agents[1 + many])
    assert outcome.ends.get(f"{HONEST}: let in", 0) > 0
    assert f"{UNKNOWN}: let in" not in outcome.ends


@breaks(
    What.NETWORK,
    "10,000 connections of all these kinds, from 64 addresses, within a minute if the machine can",
    expected=_EXPECTED, where=Where.NAMESPACE, long=True,
)  # fmt: skip
def test_ten_thousand(cloud: FarCloud, outside: Network, credential: str) -> None:
    storm = Storm(
        host=f"10.99.{_WIRE}.1",
        port=PORT,
        credential=credential,
        connections=10_000,
        per_s=10_000 / 60,
        at_once=1000,
        sources=sources(many=True),
    )
    # What 2,000 connections at once took, the allocator keeps; then it has to be enough.
    weather(cloud, outside, storm, cloud.agents[1], grown_mib=256)
    outcome = weather(cloud, outside, storm, cloud.agents[2], grown_mib=32)
    assert outcome.ends.get(f"{HONEST}: let in", 0) > 0
    assert f"{SILENT_SOCKET}: HTTP/1.1 101 Switching Protocols" in outcome.ends


@breaks(What.NETWORK, "a flood of events from one agent", expected=_EXPECTED, where=Where.NAMESPACE)
def test_flood(cloud: FarCloud, outside: Network, credential: str) -> None:
    storm = Storm(host=f"10.99.{_WIRE}.1", port=PORT, credential=credential, events=10_000)
    outcome = weather(cloud, outside, storm, cloud.agents[3])
    assert outcome.ends == {"let in": 1, "events": 10_000}
