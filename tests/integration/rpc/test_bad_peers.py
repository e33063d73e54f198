"""Peers that do not read, say nothing, or say too much: nobody else notices."""

import asyncio
import resource
from pathlib import Path

import pytest

from appliance.agent.dial import WebSocketDialer
from appliance.core import x509
from appliance.core.errors import DeadlineExceeded, KowabungaError, Unavailable
from appliance.rpc.hub import HubLimits
from appliance.rpc.method import Nothing
from appliance.rpc.methods import AGENT_PING, Event
from appliance.rpc.peer import Limits
from appliance.rpc.stream import ByteStream
from tests.integration.rpc.harness import (
    NAMES,
    QUICK,
    TELL,
    VOLUME,
    Kahuna,
    Text,
    World,
    agent,
    caught,
    command,
    connected,
)
from tests.support.faults import What, Where, breaks
from tests.support.logs import captured_logs
from tests.support.rpc import AGENT, OTHER, SYSTEM_CLOCK
from tests.support.wait import until

MIB = 2**20


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def told(kahuna: Kahuna, text: str) -> type[KowabungaError] | None:
    """Tell the agent something, and return what went wrong, without the memory that it holds."""
    try:
        await kahuna.hub.call(AGENT, TELL, Text(text))
    except KowabungaError as error:
        return type(error)
    return None


@breaks(
    What.NETWORK, "an agent that reads a byte a second",
    expected="Kahuna queues 8 MiB for it at most, refuses the rest and cuts it off after 15 s; "
    "other agents are not affected",
    where=Where.HOST,
)  # fmt: skip
async def test_an_agent_that_reads_slowly(kahuna: Kahuna) -> None:
    kahuna.limits, kahuna.agent_limits = HubLimits(peer=QUICK), QUICK
    async with kahuna.serving(), connected(kahuna) as (_, proxy), asyncio.TaskGroup() as tasks:
        credential = kahuna.directory.add(OTHER)
        other = kahuna.path / "other"
        other.mkdir()
        dialer = WebSocketDialer(kahuna.ca_file)
        async with agent(other, credential, dialer, kahuna.url(), agent_id=OTHER, limits=QUICK):
            await until(lambda: kahuna.hub.reachable(OTHER))
            text = "x" * 65536
            before = resident_bytes()
            outbox = kahuna.hub._current[AGENT].peer._outbox
            proxy.trickle_s = 1
            calls = [tasks.create_task(told(kahuna, text)) for _ in range(4000)]
            most = 0
            while kahuna.hub.reachable(AGENT):
                assert await kahuna.hub.call(OTHER, AGENT_PING, Nothing()) == Nothing()
                most = max(most, outbox._bytes)
            assert {await call for call in calls} == {Unavailable, DeadlineExceeded}
            assert most <= 8 * MIB
            assert resident_bytes() - before < 64 * MIB  # of the 256 MiB that it should read
            proxy.trickle_s = 0
            await until(lambda: kahuna.hub.reachable(AGENT))
            assert await told(kahuna, "well?") is None


@breaks(
    What.NETWORK, "a Kahuna that reads nothing",
    expected="what an agent has to say is dropped beyond a bound; it leaves after 15 s and is back "
    "once Kahuna reads",
    where=Where.HOST,
)  # fmt: skip
async def test_a_kahuna_that_reads_nothing(kahuna: Kahuna) -> None:
    kahuna.limits, kahuna.agent_limits = HubLimits(peer=QUICK), QUICK
    async with kahuna.serving(), connected(kahuna) as (client, proxy):
        await until(lambda: client.connected)
        (session,) = client._sessions.values()
        proxy.hold()
        for _ in range(100_000):
            client.send_event(Event(VOLUME, "x" * 100))
        assert session.peer.counters.dropped_notifications > 90_000
        await until(lambda: not client.connected)
        proxy.release()
        await until(lambda: client.connected == 1)


@breaks(
    What.NETWORK, "everything vanishes while a console or a log pours out",
    expected="the agent is back as soon as the network is", where=Where.HOST,
)  # fmt: skip
async def test_a_stream_that_is_stuck_does_not_keep_the_agent_from_coming_back(
    kahuna: Kahuna,
) -> None:
    async def pour(stream: ByteStream, _: str) -> None:
        while True:
            await stream.write(b"x" * 65536)

    kahuna.agent_limits = QUICK
    async with (
        kahuna.serving(),
        connected(kahuna, kinds={"pour": pour}) as (client, proxy),
        kahuna.hub.open_stream(AGENT, "pour", VOLUME),
    ):
        await until(lambda: client.connected)
        old = kahuna.hub._current[AGENT]
        proxy.freeze()
        await until(lambda: not client.connected)
        await until(lambda: kahuna.hub._current.get(AGENT) not in {old, None})
        assert await kahuna.hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()


@breaks(
    What.NETWORK, "frames of a session arrive after another has replaced it",
    expected="they change nothing; the work is done once", where=Where.HOST,
)  # fmt: skip
async def test_late_frames_of_an_old_session(kahuna: Kahuna) -> None:
    world = World()
    # The agent notices the silence, Kahuna does not.
    kahuna.limits, kahuna.agent_limits = HubLimits(peer=Limits(silence_s=600), grace_s=1), QUICK
    async with (
        kahuna.serving(),
        connected(kahuna, world=world) as (client, proxy),
        asyncio.TaskGroup() as tasks,
    ):
        call = tasks.create_task(caught(kahuna, command("a")))
        await until(lambda: world.effects == 1)
        await until(lambda: client.connected)
        old = kahuna.hub._current[AGENT]
        proxy.freeze()
        world.gate.set()  # its answer, and an event, are under way on the old connection
        client.send_event(Event(f"agent/{AGENT}", "late"))
        await until(lambda: kahuna.hub._current.get(AGENT) not in {old, None})
        repeat = await caught(kahuna, command("a"))
        assert isinstance(await call, DeadlineExceeded)  # the grace is over
        proxy.release()
        await until(lambda: len(kahuna.hub._all) == 1)
        assert await caught(kahuna, command("a")) is repeat is None
        assert world.effects == 1
        assert kahuna.recorder.events == []


@pytest.mark.parametrize("wrong", ["of another authority", "of another name"])
@breaks(
    What.NETWORK, "Kahuna comes back with a wrong certificate",
    expected="no agent talks to it, each says why; all are back with the right one",
    where=Where.HOST,
)  # fmt: skip
async def test_a_wrong_certificate(kahuna: Kahuna, wrong: str) -> None:
    pair = [kahuna.path / name for name in ("server.pem", "server.key")]
    right = [path.read_bytes() for path in pair]
    async with kahuna.serving():
        credential = kahuna.directory.add()
    dialer = WebSocketDialer(kahuna.ca_file)
    async with agent(kahuna.path, credential, dialer, kahuna.url()) as client:
        async with kahuna.serving():
            await until(lambda: client.connected)
        authority = (
            kahuna.authority if wrong != "of another authority" else x509.make_authority("x")
        )
        issued = x509.issue_server_certificate(
            authority,
            ["192.0.2.1"] if wrong == "of another name" else NAMES,
            SYSTEM_CLOCK.now_ms(),
        )
        pair[0].write_text(issued.certificate_pem)
        pair[1].write_bytes(issued.key_pem.reveal())
        with captured_logs() as log:
            async with kahuna.serving():
                await until(lambda: "certificate verify failed" in log.getvalue(), "refused")
                assert not kahuna.hub.sessions()
        for path, content in zip(pair, right, strict=True):
            path.write_bytes(content)
        async with kahuna.serving():
            await until(lambda: client.connected)
