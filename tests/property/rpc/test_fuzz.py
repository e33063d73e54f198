"""Whatever arrives, neither side crashes, leaks a task, or stops serving those who speak well."""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import KowabungaError
from appliance.rpc.gateway import Command
from appliance.rpc.hub import Hub
from appliance.rpc.memory import MemoryTransport
from appliance.rpc.messages import Frame, Malformed, decode_frame
from appliance.rpc.method import Nothing
from appliance.rpc.methods import AGENT_PING
from appliance.rpc.peer import Peer
from appliance.rpc.transport import TransportClosed
from tests.support.faults import What, Where, breaks
from tests.support.fuzz import budget
from tests.support.rpc import (
    AGENT,
    SYSTEM_CLOCK,
    Directory,
    Handlers,
    HandMadeAgent,
    Recorder,
    Wire,
    greeting,
)

JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES: Final = st.sampled_from(
    ["session.ping", "session.cancel", "session.hello", "session.prove", "session.event",
     "session.replaced", "agent.ping", "stream.open", "no.such", "", "x" * 300]
)  # fmt: skip
IDS: Final = JSON | st.integers(-5, 50) | st.just(2**53) | st.just(10**400)
PARAMS: Final = JSON | st.fixed_dictionaries(
    {},
    optional={
        "deadline_ms": JSON | st.integers(0, 10_000),
        "command": JSON,
        "arguments": JSON | st.fixed_dictionaries({"id": IDS}),
    },
)
ALMOST_FRAMES: Final = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON,
        "id": IDS,
        "method": NAMES | JSON,
        "params": PARAMS,
        "result": JSON,
        "error": JSON | st.fixed_dictionaries({"code": JSON, "message": JSON, "data": JSON}),
    },
)
SPECIAL: Final = st.sampled_from(
    [
        b"", b"{", b"[]", b"null", b"\x00", b"\xff\xfe\xfd", b"[" * 100_000, b'{"id":' * 50_000,
        b'{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"id":2,"method":"agent.ping","method":"no.such"}',
        b'{"jsonrpc":"2.0","id":1,"method":"agent.ping","params":{"deadline_ms":NaN}}',
        b'{"jsonrpc":"2.0","id":1,"method":"agent.ping","params":{"deadline_ms":1e400}}',
        b'{"jsonrpc":"2.0","id":1,"result":Infinity}',
        b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"agent.ping"}',
        b'{"jsonrpc":"2.0","id":3,"method":"\\ud800"}',
        '{"jsonrpc":"2.0","id":4,"method":"agent.ping\u202e"}'.encode(),
    ]
)  # fmt: skip


def mutate(data: bytes, seed: int) -> bytes:
    """Flip, cut, repeat or insert some bytes."""
    chance = random.Random(seed)
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0:
                del changed[at : at + chance.randint(1, 20)]
            case 1:
                changed[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
            case 2:
                changed[at:at] = changed[: chance.randint(0, 30)]
            case _:
                del changed[at:]
    return bytes(changed)


def encode(frame: object) -> bytes:
    return json.dumps(frame).encode(errors="surrogatepass")  # NaN and Infinity go out as they are


FRAMES: Final = (
    st.binary(max_size=200)
    | SPECIAL
    | JSON.map(encode)
    | ALMOST_FRAMES.map(encode)
    | st.builds(mutate, ALMOST_FRAMES.map(encode), st.integers(0, 2**32))
)
BOUNDED: Final = budget(150)

broken = partial(breaks, What.INPUT, where=Where.SIMULATED)


@broken(
    "any bytes as a frame of the agent protocol",
    expected="read, or refused with the code that says why",
)
@BOUNDED
@given(FRAMES)
def test_reading_a_frame_gives_a_frame_or_says_what_is_wrong(data: bytes) -> None:
    with suppress(Malformed):
        assert isinstance(decode_frame(data), Frame)


async def ping(_: msgspec.Raw, __: Command | None) -> Nothing:
    return Nothing()


def run(scenario: Callable[[], Any]) -> None:
    """Run to the end in a loop of its own and prove that no task is left."""

    async def checked() -> None:
        async with asyncio.timeout(100):
            await scenario()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(checked())


@broken(
    "any frames at either end of a session", expected="it still serves, or closes; no task is left"
)
@BOUNDED
@given(st.lists(FRAMES, max_size=12))
def test_a_peer_that_hears_nonsense_still_serves_or_is_closed_cleanly(frames: list[bytes]) -> None:
    async def scenario() -> None:
        one, two = MemoryTransport.pair(capacity=100)
        peer = Peer(one, Handlers({"agent.ping": ping}), name="fuzzer", clock=SYSTEM_CLOCK)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(peer.run())
            call = tasks.create_task(outcome(peer))
            try:
                for frame in frames:
                    await two.send(frame)
                await two.send(b'{"jsonrpc":"2.0","id":9007199254740990,"method":"session.ping"}')
                await answer_to(two, 9007199254740990)
            except TransportClosed:
                await running
            peer.close(1000, "")
            await call

    run(scenario)


async def answer_to(transport: MemoryTransport, call_id: int) -> None:
    while True:
        frame = json.loads(await transport.receive())
        if frame.get("id") == call_id and "result" in frame:
            return


async def outcome(peer: Peer) -> None:
    """A call of ours that nonsense may answer: it ends in a result or in our own kind of error."""
    try:
        await peer.call(AGENT_PING, Nothing(), timeout_s=10)
    except KowabungaError:
        return


@broken("any frames in the place of an agent's hello", expected="Kahuna refuses and forgets")
@BOUNDED
@given(st.lists(FRAMES, min_size=1, max_size=4))
def test_a_hub_survives_any_first_words(frames: list[bytes]) -> None:
    async def scenario() -> None:
        recorder, directory = Recorder(), Directory()
        hub = Hub(directory, kahuna="k", clock=SYSTEM_CLOCK, alarm=recorder.alarm)
        ours, theirs = MemoryTransport.pair(capacity=100)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hub.serve(theirs))
            try:
                for frame in frames:
                    await ours.send(frame)
            except TransportClosed:
                pass
            await ours.close(1000, "")
        assert hub.sessions() == []
        assert not hub._strangers

    run(scenario)


@broken(
    "any frames of an agent that has proven itself",
    expected="Kahuna answers or closes; other agents notice nothing",
)
@BOUNDED
@given(st.lists(FRAMES, max_size=8))
def test_a_proven_agent_that_goes_mad_harms_neither_the_hub_nor_others(
    frames: list[bytes],
) -> None:
    async def scenario() -> None:
        recorder, directory = Recorder(), Directory()
        hub = Hub(
            directory, kahuna="k", clock=SYSTEM_CLOCK,
            alarm=recorder.alarm, on_event=recorder.event,
        )  # fmt: skip
        sane_id = "c" * 24
        async with asyncio.TaskGroup() as tasks:
            sockets: list[MemoryTransport] = []
            for agent_id in (AGENT, sane_id):
                ours, theirs = MemoryTransport.pair(capacity=100)
                sockets.append(ours)
                tasks.create_task(hub.serve(theirs))
                agent = HandMadeAgent(
                    ours,
                    greeting(directory.add(agent_id), agent_id=agent_id),
                    Handlers({"agent.ping": ping}),
                    SYSTEM_CLOCK,
                )
                tasks.create_task(agent.run())
            while len(hub.sessions()) < 2:  # noqa: ASYNC110 - any condition
                await asyncio.sleep(0)
            try:
                for frame in frames:
                    await Wire(sockets[0]).send(frame)
            except TransportClosed:
                pass
            assert await hub.call(sane_id, AGENT_PING, Nothing()) == Nothing()
            for socket in sockets:
                await socket.close(1000, "")
        assert hub.sessions() == []
        assert all(sender == AGENT for sender, _ in recorder.events)

    run(scenario)


@broken(
    "any frames in the place of Kahuna's hello", expected="the agent gives up and tries again later"
)
@BOUNDED
@given(st.lists(FRAMES, max_size=4))
def test_an_agent_that_greets_nonsense_gives_up_cleanly(frames: list[bytes]) -> None:
    async def scenario() -> None:
        ours, theirs = MemoryTransport.pair(capacity=100)
        credential = Directory().add()
        agent = HandMadeAgent(ours, greeting(credential), Handlers(), SYSTEM_CLOCK)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(agent.run())
            try:
                for frame in frames:
                    await theirs.send(frame)
            except TransportClosed:
                pass
            await theirs.close(1000, "")
            await running
        assert agent.peer is None
        assert agent.refused is not None or agent.ended is not None

    run(scenario)
