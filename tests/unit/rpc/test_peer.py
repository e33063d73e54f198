"""The rules of one connection, over the transport in memory."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import structlog

from appliance.core.clock import Clock
from appliance.core.errors import (
    Conflict,
    Corrupt,
    DeadlineExceeded,
    Invalid,
    KowabungaError,
    Unavailable,
)
from appliance.model.target import Fence
from appliance.rpc.gateway import Command
from appliance.rpc.memory import MemoryTransport
from appliance.rpc.messages import MAX_MESSAGE_BYTES
from appliance.rpc.method import Method, Nothing, TimeoutClass
from appliance.rpc.methods import SESSION_EVENT, SESSION_PING, Event
from appliance.rpc.peer import Limits, Peer
from appliance.rpc.transport import CloseCode, TransportClosed
from tests.support.clock import ManualClock, settle
from tests.support.logs import captured_logs
from tests.support.rpc import SYSTEM_CLOCK, Handlers, Wire
from tests.support.wait import until


class Text(msgspec.Struct, frozen=True):
    text: str


ECHO = Method("test.echo", Text, Text, TimeoutClass.NORMAL, False, "agent", "Say it again.")
STAY = Method("test.stay", Nothing, Nothing, TimeoutClass.NORMAL, False, "agent", "Never ends.")
FAIL = Method("test.fail", Nothing, Nothing, TimeoutClass.NORMAL, False, "agent", "Fails.")


async def echo(raw: msgspec.Raw, _: Command | None) -> Text:
    return msgspec.json.decode(raw, type=Text)


async def stay(_: msgspec.Raw, __: Command | None) -> Nothing:
    await asyncio.Event().wait()
    return Nothing()


@asynccontextmanager
async def two_peers(
    service: Handlers, *, clock: Clock = SYSTEM_CLOCK, limits: Limits | None = None
) -> AsyncGenerator[tuple[Peer, Peer]]:
    """Connect a caller to a server of `service`."""
    one, two = MemoryTransport.pair()
    caller = Peer(one, Handlers(), name="server", clock=clock, limits=limits)
    server = Peer(two, service, name="caller", clock=clock, limits=limits)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(caller.run())
        tasks.create_task(server.run())
        yield caller, server
        caller.close(CloseCode.NORMAL, "test over")
        server.close(CloseCode.NORMAL, "test over")


@asynccontextmanager
async def wired(
    service: Handlers,
    *,
    clock: Clock = SYSTEM_CLOCK,
    limits: Limits | None = None,
    capacity: int = 16,
) -> AsyncGenerator[tuple[Peer, Wire]]:
    """Connect a peer to a wire that the test speaks on."""
    one, two = MemoryTransport.pair(capacity=capacity)
    peer = Peer(one, service, name="wire", clock=clock, limits=limits)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(peer.run())
        yield peer, Wire(two)
        peer.close(CloseCode.NORMAL, "test over")


async def test_a_call_is_answered_and_carries_its_command() -> None:
    seen: list[Command | None] = []
    command = Command("request-1", "volume/" + "0" * 24, Fence(3, 4))

    async def remember(raw: msgspec.Raw, command: Command | None) -> Text:
        seen.append(command)
        return await echo(raw, command)

    async with two_peers(Handlers({"test.echo": remember})) as (caller, _):
        assert await caller.call(ECHO, Text("hé")) == Text("hé")
        await caller.call(ECHO, Text(""), command=command)
    assert seen == [None, command]


async def test_a_thousand_calls_are_in_flight_at_once() -> None:
    gate = asyncio.Event()
    running = 0

    async def wait_and_echo(raw: msgspec.Raw, _: Command | None) -> Text:
        nonlocal running
        running += 1
        await gate.wait()
        return msgspec.json.decode(raw, type=Text)

    async with two_peers(Handlers({"test.echo": wait_and_echo})) as (caller, _):
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(caller.call(ECHO, Text(str(n)))) for n in range(1000)]
            await until(lambda: running == 1000)
            gate.set()
        assert [call.result() for call in calls] == [Text(str(n)) for n in range(1000)]


async def test_both_sides_call_each_other() -> None:
    one, two = MemoryTransport.pair()
    left = Peer(one, Handlers({"test.echo": echo}), name="right", clock=SYSTEM_CLOCK)
    right = Peer(two, Handlers({"test.echo": echo}), name="left", clock=SYSTEM_CLOCK)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(left.run())
        tasks.create_task(right.run())
        assert await left.call(ECHO, Text("a")) == Text("a")
        assert await right.call(ECHO, Text("b")) == Text("b")
        left.close(1000, "")


async def test_the_handlers_error_arrives_as_itself() -> None:
    async def fail(_: msgspec.Raw, __: Command | None) -> Nothing:
        error = Conflict("vm1 exists", hint="choose another name", id="x")
        error.context["detail"] = "a key that is also a parameter"
        raise error

    async with two_peers(Handlers({"test.fail": fail})) as (caller, _):
        with pytest.raises(Conflict) as error:
            await caller.call(FAIL, Nothing())
    assert error.value.detail == "vm1 exists"
    assert error.value.context["id"] == "x"


async def test_a_bug_in_a_handler_is_answered_without_its_insides() -> None:
    async def fail(_: msgspec.Raw, __: Command | None) -> Nothing:
        raise RuntimeError("password=hunter2")

    async with wired(Handlers({"test.fail": fail})) as (_, wire):
        await wire.call(1, "test.fail")
        problem = await wire.expect_error(1, -32603)
        assert problem["code"] == "internal"
        assert "hunter2" not in str(problem)


async def test_what_is_logged_about_a_command_names_its_operation() -> None:
    async def fail(_: msgspec.Raw, __: Command | None) -> Nothing:
        structlog.get_logger("a.driver").info("told")
        raise RuntimeError

    command = Command("0a1b.1.do0.0.f00d.1", "volume/x", Fence(1, 1))
    with captured_logs() as out:
        async with two_peers(Handlers({"test.fail": fail})) as (caller, _):
            for carried in (command, None):
                with pytest.raises(KowabungaError):
                    await caller.call(FAIL, Nothing(), command=carried)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["event"], line.get("operation_id"), line.get("command")) for line in lines] == [
        ("told", "0a1b", "0a1b.1.do0.0.f00d.1"),
        ("rpc_handler_failed", "0a1b", "0a1b.1.do0.0.f00d.1"),
        ("told", None, None),
        ("rpc_handler_failed", None, None),
    ]


async def test_the_deadline_passes_on_the_callers_clock_and_the_other_side_is_told() -> None:
    clock = ManualClock()
    service = Handlers({"test.stay": stay})
    async with two_peers(service, clock=clock) as (caller, server), asyncio.TaskGroup() as tasks:
        call = tasks.create_task(caught(caller.call(STAY, Nothing(), timeout_s=3)))
        await settle()
        assert len(server._serving) == 1
        await clock.advance(2.9)
        assert not call.done()
        await clock.advance(0.2)
        error = await call
        assert isinstance(error, DeadlineExceeded)
        await settle()
        assert not server._serving


async def caught(call: Coroutine[Any, Any, object]) -> KowabungaError | None:
    try:
        await call
    except KowabungaError as error:
        return error
    return None


async def test_the_serving_side_keeps_the_deadline_that_it_was_given() -> None:
    clock = ManualClock()
    async with wired(Handlers({"test.stay": stay}), clock=clock) as (_, wire):
        await wire.call(1, "test.stay", deadline_ms=1500)
        await settle()
        await clock.advance(1.6)
        problem = await wire.expect_error(1, -32000)
        assert problem["code"] == "deadline_exceeded"


async def test_a_cancelled_wait_cancels_the_call_over_there() -> None:
    ended = False

    async def stay_and_tell(raw: msgspec.Raw, command: Command | None) -> Nothing:
        nonlocal ended
        try:
            return await stay(raw, command)
        finally:
            ended = True

    service = Handlers({"test.stay": stay_and_tell})
    async with two_peers(service) as (caller, server), asyncio.TaskGroup() as tasks:
        call = tasks.create_task(caller.call(STAY, Nothing()))
        await until(lambda: server._serving)
        call.cancel()
        await until(lambda: ended)
        assert not server._serving


async def test_a_session_cancel_is_answered_once() -> None:
    async with wired(Handlers({"test.stay": stay})) as (peer, wire):
        await wire.call(4, "test.stay")
        await until(lambda: peer._serving)
        cancel = {"jsonrpc": "2.0", "method": "session.cancel", "params": {"arguments": {"id": 4}}}
        await wire.send(cancel)
        problem = await wire.expect_error(4, -32000)
        assert problem["code"] == "cancelled"
        await wire.send(cancel)
        await wire.call(5, "session.ping")
        assert await wire.expect_result(5) == {}


async def test_a_repeated_id_is_not_run_twice() -> None:
    gate = asyncio.Event()
    service = Handlers()

    async def wait(_: msgspec.Raw, __: Command | None) -> Nothing:
        await gate.wait()
        return Nothing()

    service.handlers["test.wait"] = wait
    async with wired(service) as (peer, wire):
        await wire.call(7, "test.wait")
        await wire.call(7, "test.wait")
        await until(lambda: peer.counters.duplicate_calls == 1)
        gate.set()
        assert await wire.expect_result(7) == {}
        await wire.call(7, "test.wait")
        await wire.call(6, "test.wait")
        await until(lambda: peer.counters.duplicate_calls == 3)
        assert service.calls == ["test.wait"]


async def test_late_and_repeated_answers_are_ignored() -> None:
    async with wired(Handlers()) as (peer, wire), asyncio.TaskGroup() as tasks:
        call = tasks.create_task(peer.call(ECHO, Text("x")))
        frame = await wire.next()
        answer = {"jsonrpc": "2.0", "id": frame["id"], "result": {"text": "first"}}
        await wire.send({**answer, "id": 999})
        await wire.send(answer)
        await wire.send({**answer, "result": {"text": "second"}})
        assert await call == Text("first")
        await until(lambda: peer.counters.late_answers == 2)


@pytest.mark.parametrize("result", [{"text": 5}, [], None])
async def test_an_answer_of_the_wrong_shape_fails_the_call_alone(result: object) -> None:
    async with wired(Handlers()) as (peer, wire), asyncio.TaskGroup() as tasks:
        call = tasks.create_task(caught(peer.call(ECHO, Text("x"))))
        frame = await wire.next()
        await wire.send({"jsonrpc": "2.0", "id": frame["id"], "result": result})
        assert isinstance(await call, Corrupt)
        await wire.call(1, "session.ping")
        assert await wire.expect_result(1) == {}


@pytest.mark.parametrize(
    ("frame", "call_id", "code"),
    [
        (b"{", None, -32700),
        (b"\xff\xfe", None, -32700),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":' + b"[" * 5000,
            None,
            -32700,
        ),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"deadline_ms":NaN}}', None, -32700),
        (b"[]", None, -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"session.ping"}]', None, -32600),
        (b'"text"', None, -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"session.ping"}', 1, -32600),
        (b'{"jsonrpc":"2.0","id":"one","method":"session.ping"}', None, -32600),
        (b'{"jsonrpc":"2.0","id":-1,"method":"session.ping"}', None, -32600),
        (b'{"jsonrpc":"2.0","id":' + b"9" * 3000 + b',"method":"session.ping"}', None, -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"session.ping"}', None, -32600),
        (b'{"jsonrpc":"2.0","id":3,"method":7}', 3, -32600),
        (b'{"jsonrpc":"2.0","id":3}', 3, -32600),
        (b'{"jsonrpc":"2.0","id":3,"method":"x","params":[]}', 3, -32602),
        (b'{"jsonrpc":"2.0","id":3,"method":"x","params":{"deadline_ms":-1}}', 3, -32602),
        (b'{"jsonrpc":"2.0","id":3,"method":"x","params":{"command":{"fence":1}}}', 3, -32602),
    ],
)
async def test_a_frame_that_cannot_be_used_gets_its_standard_code(
    frame: bytes, call_id: int | None, code: int
) -> None:
    async with wired(Handlers()) as (_, wire):
        await wire.send(frame)
        await wire.expect_error(call_id, code)
        await wire.call(10, "session.ping")
        assert await wire.expect_result(10) == {}


async def test_more_calls_than_may_run_are_refused_at_once_and_the_reader_goes_on() -> None:
    async with wired(Handlers({"test.stay": stay}), limits=Limits(incoming=2)) as (peer, wire):
        for call_id in (1, 2, 3):
            await wire.call(call_id, "test.stay")
        problem = await wire.expect_error(3, -32000, "busy")
        assert problem["code"] == "unavailable"
        await wire.call(4, "session.ping")
        assert await wire.expect_result(4) == {}
        assert len(peer._serving) == 2


async def test_a_slow_reader_costs_bounded_memory_and_calls_to_it_are_refused() -> None:
    limits = Limits(queued_frames=10)
    async with wired(Handlers(), limits=limits, capacity=1) as (peer, _), asyncio.TaskGroup() as t:
        calls = [t.create_task(caught(peer.call(ECHO, Text("x"), timeout_s=30))) for _ in range(50)]
        await until(lambda: sum(call.done() for call in calls) >= 35)
        errors = [call.result() for call in calls if call.done()]
        assert all(isinstance(error, Unavailable) for error in errors)
        assert len(peer._outbox._queue) <= 10
        event = Event(target="agent/x", kind="k")
        taken = [peer.notify(SESSION_EVENT, event) for _ in range(10)]
        assert len(peer._outbox._queue) <= 10
        assert peer.counters.dropped_notifications == taken.count(False) > 0
        peer.close(1000, "enough")


async def test_the_queue_is_bounded_in_bytes_too() -> None:
    limits = Limits(queued_bytes=3 * MAX_MESSAGE_BYTES)
    big = Text("x" * (MAX_MESSAGE_BYTES - 1000))
    async with wired(Handlers(), limits=limits, capacity=1) as (peer, _), asyncio.TaskGroup() as t:
        calls = [t.create_task(caught(peer.call(ECHO, big))) for _ in range(8)]
        await until(lambda: any(call.done() for call in calls))
        assert peer._outbox._bytes <= 3 * MAX_MESSAGE_BYTES
        peer.close(1000, "enough")


async def test_a_peer_that_sends_without_reading_is_cut_off() -> None:
    async with wired(Handlers(), limits=Limits(queued_frames=4), capacity=1) as (_, wire):
        with pytest.raises(TransportClosed) as closed:
            await flood(wire)
        assert closed.value.code == CloseCode.OVERLOADED


async def test_a_peer_that_tells_too_much_is_read_slowly() -> None:
    clock, service = ManualClock(), Handlers()
    async with wired(service, clock=clock, limits=Limits(told_per_s=10), capacity=100) as (_, wire):
        for _ in range(40):
            await wire.send({"jsonrpc": "2.0", "method": "test.news"})
        for second in range(1, 4):
            await settle(200)
            assert len(service.notifications) == 11 * second
            await clock.advance(1)
        await settle(200)
        assert len(service.notifications) == 40


async def flood(wire: Wire) -> None:
    for call_id in range(100):
        await wire.call(call_id, "session.ping")


async def test_too_large_a_call_is_refused_before_it_is_sent() -> None:
    async with wired(Handlers()) as (peer, wire):
        with pytest.raises(Invalid, match="fit into one message"):
            await peer.call(ECHO, Text("x" * MAX_MESSAGE_BYTES))
        await wire.call(1, "session.ping")
        assert await wire.expect_result(1) == {}


async def test_too_large_an_answer_becomes_an_error() -> None:
    async def large(_: msgspec.Raw, __: Command | None) -> Text:
        return Text("x" * MAX_MESSAGE_BYTES)

    async with two_peers(Handlers({"test.echo": large})) as (caller, _):
        with pytest.raises(Invalid, match="fit into one message"):
            await caller.call(ECHO, Text(""))


async def test_too_large_an_incoming_message_closes_with_1009() -> None:
    async with wired(Handlers()) as (peer, wire):
        with pytest.raises(TransportClosed) as closed:
            await wire.send(b"x" * (MAX_MESSAGE_BYTES + 1))
        assert closed.value.code == CloseCode.MESSAGE_TOO_BIG
        await until(lambda: peer._refusing)


async def test_silence_ends_the_connection_after_15_seconds() -> None:
    clock = ManualClock()
    one, two = MemoryTransport.pair(capacity=100)
    peer = Peer(one, Handlers(), name="wire", clock=clock)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(peer.run())
        await clock.advance(10)
        await two.send(b'{"jsonrpc":"2.0","method":"session.ping"}')
        await clock.advance(14.9)
        assert not running.done()
        await clock.advance(0.2)
        assert running.result().code == CloseCode.LOST


async def test_a_heartbeat_is_sent_every_5_seconds() -> None:
    clock = ManualClock()
    one, two = MemoryTransport.pair(capacity=100)
    peer = Peer(one, Handlers(), name="wire", clock=clock, limits=Limits(silence_s=1000))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(peer.run())
        await clock.advance(20.1)
        assert len(two._arrived) == 5
        peer.close(1000, "")


async def test_two_idle_peers_keep_each_other_alive() -> None:
    clock = ManualClock()
    async with two_peers(Handlers(), clock=clock) as (caller, _):
        await clock.advance(3600)
        assert await caller.call(SESSION_PING, Nothing()) == Nothing()


async def test_a_peer_that_sends_but_never_reads_is_closed_after_15_seconds() -> None:
    clock = ManualClock()
    one, two = MemoryTransport.pair(capacity=1)
    peer = Peer(one, Handlers(), name="wire", clock=clock)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(peer.run())
        for _ in range(5):
            await clock.advance(5)
            if not running.done():
                await two.send(b'{"jsonrpc":"2.0","method":"session.ping"}')
        assert running.result().code == CloseCode.OVERLOADED


async def test_the_end_tells_calls_that_were_sent_from_those_that_were_not() -> None:
    async with wired(Handlers(), capacity=1) as (peer, wire), asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(caught(peer.call(ECHO, Text(str(n))))) for n in range(4)]
        await wire.next()  # the first call; the heartbeat before it too
        await settle()
        peer.close(CloseCode.REVOKED, "test")
        errors = [await call for call in calls]
        assert isinstance(errors[0], DeadlineExceeded)
        assert errors[0].context["reason"] == "unknown_outcome"
        assert isinstance(errors[-1], Unavailable)
        assert errors[-1].context["reason"] == "not_sent"
        with pytest.raises(Unavailable):
            await peer.call(ECHO, Text("after the end"))


async def test_a_call_withdrawn_before_it_was_sent_never_leaves() -> None:
    async with wired(Handlers(), capacity=1) as (peer, wire), asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(caught(peer.call(ECHO, Text(str(n))))) for n in range(4)]
        await settle()
        calls[3].cancel()
        await settle()
        texts = [(await wire.next())["params"]["arguments"]["text"] for _ in range(3)]
        assert texts == ["0", "1", "2"]
        await wire.call(1, "session.ping")
        assert await wire.expect_result(1) == {}
        peer.close(1000, "")


async def test_a_draining_peer_answers_what_it_began_and_then_closes() -> None:
    gate = asyncio.Event()

    async def wait(raw: msgspec.Raw, command: Command | None) -> Text:
        await gate.wait()
        return await echo(raw, command)

    async with (
        two_peers(Handlers({"test.echo": wait})) as (caller, server),
        asyncio.TaskGroup() as tasks,
    ):
        call = tasks.create_task(caller.call(ECHO, Text("x")))
        await until(lambda: server._serving)
        server.drain(10)
        with pytest.raises(Unavailable):
            await server.call(SESSION_PING, Nothing())
        gate.set()
        assert await call == Text("x")
        await until(caller._ended.done)


async def test_a_drain_ends_even_if_a_call_does_not() -> None:
    clock = ManualClock()
    service = Handlers({"test.stay": stay})
    async with two_peers(service, clock=clock) as (caller, server), asyncio.TaskGroup() as tasks:
        call = tasks.create_task(caught(caller.call(STAY, Nothing())))
        await settle()
        server.drain(10)
        await clock.advance(10.1)
        assert isinstance(await call, DeadlineExceeded)


@pytest.mark.parametrize("make", [lambda p: p.retire(1), lambda p: p.drain(1)])
async def test_ending_a_peer_that_has_ended_does_nothing(make: Callable[[Peer], None]) -> None:
    async with wired(Handlers()) as (peer, _):
        peer.close(1000, "")
        make(peer)
        await until(peer._ended.done)
        make(peer)


async def test_a_cancelled_run_closes_the_socket_and_fails_the_calls() -> None:
    one, two = MemoryTransport.pair()
    peer = Peer(one, Handlers(), name="wire", clock=SYSTEM_CLOCK)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(peer.run())
        call = tasks.create_task(caught(peer.call(ECHO, Text("x"))))
        await Wire(two).next()
        running.cancel()
        assert isinstance(await call, DeadlineExceeded)
        await Wire(two).expect_closed(CloseCode.GOING_AWAY)


async def test_a_cancellation_is_not_lost_in_the_end_of_the_connection() -> None:
    leaving, may_leave = asyncio.Event(), asyncio.Event()

    async def leave_slowly(_: msgspec.Raw, __: Command | None) -> Nothing:
        try:
            await asyncio.Event().wait()
        finally:
            leaving.set()
            await may_leave.wait()
        return Nothing()

    one, two = MemoryTransport.pair()
    peer = Peer(one, Handlers({"test.stay": leave_slowly}), name="wire", clock=SYSTEM_CLOCK)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(peer.run())
        await Wire(two).call(1, "test.stay")
        await until(lambda: len(peer._serving) == 1)
        peer.close(CloseCode.NORMAL, "over")
        await leaving.wait()
        running.cancel()
        may_leave.set()
        await asyncio.wait({running})
    assert running.cancelled()
