"""Who is connected: clones, replacement, revocation, events. Real peers over memory."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest

from appliance.core.errors import DeadlineExceeded, KowabungaError, Unavailable
from appliance.model.agent import AgentIdentity
from appliance.rpc.gateway import Command
from appliance.rpc.hub import Hub, HubLimits
from appliance.rpc.memory import MemoryTransport
from appliance.rpc.method import AnyMethod, Method, Nothing, TimeoutClass
from appliance.rpc.methods import AGENT_PING, SESSION_EVENT, Event, StreamOpen
from appliance.rpc.proof import AgentCredential
from appliance.rpc.strangers import StrangerLimits
from appliance.rpc.transport import CloseCode, TransportClosed
from tests.support.clock import ManualClock, settle
from tests.support.faults import What, Where, breaks
from tests.support.rpc import (
    AGENT,
    OTHER,
    Directory,
    Handlers,
    HandMadeAgent,
    Recorder,
    Wire,
    greeting,
)


async def ping(_: msgspec.Raw, __: Command | None) -> Nothing:
    return Nothing()


class Lab:
    """A hub, its agents, and a clock that only the test moves."""

    def __init__(self, tasks: asyncio.TaskGroup, limits: HubLimits | None = None) -> None:
        self.clock = ManualClock()
        self.directory = Directory()
        self.recorder = Recorder()
        self.hub = Hub(
            self.directory,
            kahuna="k1",
            clock=self.clock,
            alarm=self.recorder.alarm,
            on_event=self.recorder.event,
            limits=limits,
        )
        self.sockets: list[MemoryTransport] = []
        self.tasks = tasks

    def open_socket(self, *, stream: bool = False) -> MemoryTransport:
        ours, theirs = MemoryTransport.pair(capacity=1000)
        serve = self.hub.serve_stream if stream else self.hub.serve
        self.tasks.create_task(serve(theirs))
        self.sockets.append(ours)
        return ours

    async def connect(
        self,
        credential: AgentCredential,
        *,
        agent_id: str = AGENT,
        boot_id: str = "boot-1",
        service: Handlers | None = None,
    ) -> HandMadeAgent:
        agent = HandMadeAgent(
            self.open_socket(),
            greeting(credential, agent_id=agent_id, boot_id=boot_id),
            service or Handlers({"agent.ping": ping}),
            self.clock,
        )
        self.tasks.create_task(agent.run())
        await settle()
        return agent

    def caught(self, call: Coroutine[Any, Any, object]) -> asyncio.Task[KowabungaError | None]:
        async def catch() -> KowabungaError | None:
            try:
                await call
            except KowabungaError as error:
                return error
            return None

        return self.tasks.create_task(catch())


@asynccontextmanager
async def lab(limits: HubLimits | None = None) -> AsyncGenerator[Lab]:
    async with asyncio.TaskGroup() as tasks:
        made = Lab(tasks, limits)
        polling = tasks.create_task(made.hub.run())
        yield made
        polling.cancel()
        for socket in made.sockets:
            await socket.close(1000, "test over")


async def test_a_connected_agent_is_reachable_listed_and_announced() -> None:
    async with lab() as it:
        announced: list[str] = []
        it.hub.on_connected(announced.append)
        await it.connect(it.directory.add())
        assert it.hub.reachable(AGENT)
        assert await it.hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()
        [session] = it.hub.sessions()
        assert (session.agent_id, session.version, session.protocol) == (AGENT, "1", 1)
        assert announced == [AGENT]


async def test_an_agent_that_is_not_connected_is_unavailable() -> None:
    async with lab() as it:
        assert not it.hub.reachable(AGENT)
        with pytest.raises(Unavailable):
            await it.hub.call(AGENT, AGENT_PING, Nothing())


async def test_an_agent_that_left_is_not_reachable() -> None:
    async with lab() as it:
        agent = await it.connect(it.directory.add())
        agent.connected.close(1000, "bye")
        await settle()
        assert not it.hub.reachable(AGENT)
        assert it.hub.sessions() == []


async def test_a_clone_is_refused_while_the_original_answers() -> None:
    async with lab() as it:
        credential = it.directory.add()
        original = await it.connect(credential, boot_id="one")
        clone = await it.connect(credential, boot_id="two")
        assert clone.refused is not None
        assert clone.refused.code is CloseCode.CLONED_IDENTITY
        assert it.recorder.alarms == [("agent_cloned", f"agent/{AGENT}")]
        assert original.ended is None
        assert [session.boot_id for session in it.hub.sessions()] == ["one"]


async def test_a_machine_that_booted_anew_replaces_its_silent_former_self() -> None:
    async with lab() as it:
        credential = it.directory.add()
        former = it.open_socket()
        agent = HandMadeAgent(former, greeting(credential, boot_id="one"), Handlers(), it.clock)
        greeted = it.tasks.create_task(agent.run())
        await settle()
        greeted.cancel()  # its machine lost power: the socket stays half open
        former.close = never_closed  # type: ignore[method-assign]
        await settle()
        assert it.hub.reachable(AGENT)
        anew = await it.connect(credential, boot_id="two")
        assert anew.refused is None
        assert anew.peer is None
        await it.clock.advance(2.1)
        assert [session.boot_id for session in it.hub.sessions()] == ["two"]
        assert it.recorder.alarms == []
        del former.close


async def never_closed(code: int, reason: str) -> None:
    del code, reason


async def test_two_clones_at_the_same_moment_do_not_both_come_in() -> None:
    async with lab() as it:
        credential = it.directory.add()
        agents = [
            HandMadeAgent(
                it.open_socket(), greeting(credential, boot_id=boot), Handlers(), it.clock
            )
            for boot in ("one", "two")
        ]
        for agent in agents:
            it.tasks.create_task(agent.run())
        await settle(100)
        assert sum(agent.peer is not None and agent.ended is None for agent in agents) == 1
        assert it.recorder.alarms == [("agent_cloned", f"agent/{AGENT}")]


class Late:
    """A transport on which Kahuna's last word of the hello waits for a gate."""

    def __init__(self, inner: MemoryTransport, gate: asyncio.Event) -> None:
        self.address = inner.address
        self.certificate_sha256 = inner.certificate_sha256
        self.receive = inner.receive
        self.close = inner.close
        self._inner = inner
        self._gate = gate
        self._sent = 0

    async def send(self, frame: bytes) -> None:
        self._sent += 1
        if self._sent == 2:
            await self._gate.wait()
        await self._inner.send(frame)


async def test_of_two_clones_that_were_both_welcomed_only_one_comes_in() -> None:
    async with lab() as it:
        credential = it.directory.add()
        gate = asyncio.Event()
        agents: list[HandMadeAgent] = []
        for boot in ("one", "two"):
            ours, theirs = MemoryTransport.pair(capacity=100)
            it.sockets.append(ours)
            it.tasks.create_task(it.hub.serve(Late(theirs, gate)))
            agent = HandMadeAgent(ours, greeting(credential, boot_id=boot), Handlers(), it.clock)
            it.tasks.create_task(agent.run())
            agents.append(agent)
        await settle(50)
        assert it.hub.sessions() == []
        gate.set()
        await settle(100)
        assert sum(agent.has_ended_with(CloseCode.CLONED_IDENTITY) for agent in agents) == 1
        assert len(it.hub.sessions()) == 1
        assert it.recorder.alarms == [("agent_cloned", f"agent/{AGENT}")]


async def test_the_newest_session_of_a_boot_wins_and_the_old_one_still_delivers() -> None:
    gate = asyncio.Event()

    async def slow(_: msgspec.Raw, __: Command | None) -> Nothing:
        await gate.wait()
        return Nothing()

    async with lab() as it:
        credential = it.directory.add()
        old = await it.connect(credential, service=Handlers({"agent.ping": slow}))
        in_flight = it.caught(it.hub.call(AGENT, AGENT_PING, Nothing(), timeout_s=60))
        await settle()
        new = await it.connect(credential)
        assert isinstance(old.service, Handlers)
        assert old.service.notifications == ["session.replaced"]
        assert await it.hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()
        assert isinstance(new.service, Handlers)
        assert new.service.calls == ["agent.ping"]
        gate.set()
        assert await in_flight is None
        assert len(it.hub.sessions()) == 1


async def test_what_a_replaced_session_said_last_is_heard() -> None:
    async with lab() as it:
        credential = it.directory.add()
        it.recorder.gate.clear()
        old = await it.connect(credential)
        for number in range(5):
            old.connected.notify(SESSION_EVENT, Event(f"agent/{AGENT}", f"k{number}"))
        await it.connect(credential)
        old.connected.drain(5)
        await it.clock.advance(1)
        assert old.has_ended_with(CloseCode.NORMAL)
        it.recorder.gate.set()
        await settle(50)
        assert [event.kind for _, event in it.recorder.events] == [f"k{n}" for n in range(5)]


async def test_the_end_of_an_old_session_leaves_the_new_one_in_place() -> None:
    async with lab() as it:
        credential = it.directory.add()
        old = await it.connect(credential)
        await it.connect(credential)
        old.connected.close(1000, "")
        await settle()
        assert it.hub.reachable(AGENT)
        assert await it.hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()


async def test_a_replaced_session_is_closed_after_its_grace() -> None:
    async with lab() as it:
        credential = it.directory.add()
        old = await it.connect(credential)
        await it.connect(credential)
        await it.clock.advance(9.9)
        assert not old.has_ended_with(CloseCode.REPLACED)
        await it.clock.advance(0.2)
        assert old.has_ended_with(CloseCode.REPLACED)
        assert it.hub.reachable(AGENT)


async def test_a_disconnect_closes_at_once_and_fails_the_calls() -> None:
    async with lab() as it:
        agent = await it.connect(it.directory.add(), service=Handlers({"agent.ping": forever}))
        call = it.caught(it.hub.call(AGENT, AGENT_PING, Nothing()))
        await settle()
        it.hub.disconnect(AGENT, "revoked by the owner")
        assert not it.hub.reachable(AGENT)
        await settle()
        assert agent.ended is not None
        assert agent.ended.code == CloseCode.REVOKED
        assert isinstance(await call, DeadlineExceeded)


async def forever(_: msgspec.Raw, __: Command | None) -> Nothing:
    await asyncio.Event().wait()
    return Nothing()


async def test_a_disconnect_closes_replaced_sessions_too() -> None:
    async with lab() as it:
        credential = it.directory.add()
        old = await it.connect(credential)
        new = await it.connect(credential)
        it.hub.disconnect(AGENT, "revoked")
        await settle()
        assert old.ended is not None
        assert new.ended is not None


@pytest.mark.parametrize("change", ["serial", "deleted"])
async def test_a_credential_changed_elsewhere_closes_the_session_within_5_seconds(
    change: str,
) -> None:
    async with lab() as it:
        agent = await it.connect(it.directory.add())
        await it.clock.advance(20)
        assert it.hub.reachable(AGENT)
        if change == "serial":
            it.directory.agents[AGENT] = dataclasses.replace(it.directory.agents[AGENT], serial=2)
        else:
            del it.directory.agents[AGENT]
        await it.clock.advance(5.1)
        assert agent.ended is not None
        assert agent.ended.code == CloseCode.REVOKED
        assert not it.hub.reachable(AGENT)


async def test_a_store_without_quorum_keeps_the_sessions() -> None:
    async with lab() as it:
        await it.connect(it.directory.add())
        it.directory.failure = Unavailable("no quorum")
        await it.clock.advance(60)
        assert it.hub.reachable(AGENT)
        it.directory.failure = None
        it.directory.agents.clear()
        await it.clock.advance(5.1)
        assert not it.hub.reachable(AGENT)


class ChangesAfterTheProof(Directory):
    """The credential is revoked between the proof and the session."""

    finds = 0

    async def find(self, agent_id: str) -> AgentIdentity | None:
        self.finds += 1
        found = await super().find(agent_id)
        assert found is not None
        return found if self.finds == 1 else dataclasses.replace(found, serial=found.serial + 1)


async def test_a_revocation_during_the_hello_is_not_missed() -> None:
    async with lab() as it:
        directory = ChangesAfterTheProof()
        credential = directory.add()
        it.hub._directory = it.hub._gatekeeper._directory = directory
        agent = await it.connect(credential)
        assert agent.ended is not None
        assert agent.ended.code == CloseCode.REVOKED


async def test_a_credential_that_expires_ends_the_session() -> None:
    async with lab() as it:
        agent = await it.connect(it.directory.add(expires_at_ms=it.clock.now_ms() + 7000))
        await it.clock.advance(6)
        assert it.hub.reachable(AGENT)
        await it.clock.advance(5)
        assert agent.ended is not None
        assert agent.ended.code == CloseCode.EXPIRED


@breaks(
    What.CLOCK,
    "the clock of a Kahuna jumps a year ahead, then is set right",
    expected="an agent whose key ends within the year is out with a reason that names both times, "
    "and comes back; the others stay",
    where=Where.SIMULATED,
)
async def test_an_agent_whose_key_a_wrong_clock_has_ended_comes_back_with_the_right_one() -> None:
    year_ms = 366 * 86_400_000
    async with lab() as it:
        credential = it.directory.add(expires_at_ms=it.clock.now_ms() + year_ms // 2)
        mortal = await it.connect(credential)
        immortal = await it.connect(it.directory.add(OTHER), agent_id=OTHER)
        it.clock.set_wall_clock(it.clock.now_ms() + year_ms)
        await it.clock.advance(6)
        assert mortal.has_ended_with(CloseCode.EXPIRED)
        assert immortal.ended is None
        again = await it.connect(credential)
        assert again.refused is not None
        assert again.refused.code is CloseCode.EXPIRED
        assert "good until 2027-07" in again.refused.detail
        assert "Kahuna's clock it is 2028-01" in again.refused.detail
        it.clock.set_wall_clock(it.clock.now_ms() - year_ms)
        assert (await it.connect(credential)).peer is not None
        assert it.hub.reachable(AGENT)


@breaks(
    What.CLOCK,
    "agent and Kahuna disagree by a day, or by a year",
    expected="the agent is connected and works: nothing between them depends on the time of day",
    where=Where.SIMULATED,
)
@pytest.mark.parametrize("days", [-1, 1, -366, 366])
async def test_an_agent_with_another_time_of_day_works(days: int) -> None:
    async with lab() as it:
        agent = HandMadeAgent(
            it.open_socket(),
            greeting(it.directory.add()),
            Handlers({"agent.ping": ping}),
            ManualClock(it.clock.now_ms() + days * 86_400_000),
        )
        it.tasks.create_task(agent.run())
        await settle()
        assert await it.hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()
        it.clock.set_wall_clock(it.clock.now_ms() - 3_600_000)
        assert await it.hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()
        assert agent.ended is None


async def test_an_agent_speaks_about_its_own_objects_only() -> None:
    async with lab() as it:
        agent = await it.connect(it.directory.add())
        agent.connected.notify(SESSION_EVENT, Event(f"agent/{AGENT}", "own", {"n": 1}))
        for _ in range(3):
            agent.connected.notify(SESSION_EVENT, Event(f"agent/{OTHER}", "foreign"))
        await settle(50)
        assert [event.kind for _, event in it.recorder.events] == ["own"]
        assert it.recorder.alarms == [("event_unauthorised", f"agent/{AGENT}")]


async def test_a_malformed_event_is_dropped_and_the_session_goes_on() -> None:
    async with lab() as it:
        socket = it.open_socket()
        agent = HandMadeAgent(socket, greeting(it.directory.add()), Handlers(), it.clock)
        it.tasks.create_task(agent.run())
        await settle()
        await Wire(socket).send(
            {"jsonrpc": "2.0", "method": "session.event", "params": {"arguments": {"target": 1}}}
        )
        agent.connected.notify(SESSION_EVENT, Event(f"agent/{AGENT}", "fine"))
        await settle(50)
        assert [event.kind for _, event in it.recorder.events] == ["fine"]


async def test_a_flood_of_events_costs_only_the_agent_that_sends_it() -> None:
    async with lab() as it:
        flooder = await it.connect(it.directory.add())
        quiet = await it.connect(it.directory.add(OTHER), agent_id=OTHER)
        for _ in range(1000):
            flooder.connected.notify(SESSION_EVENT, Event(f"agent/{AGENT}", "flood"))
        quiet.connected.notify(SESSION_EVENT, Event(f"agent/{OTHER}", "quiet"))
        await settle(3000)
        senders = [sender for sender, _ in it.recorder.events]
        assert senders.count(AGENT) == 200
        assert senders.count(OTHER) == 1
        assert await it.hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()
        await it.clock.advance(1)
        flooder.connected.notify(SESSION_EVENT, Event(f"agent/{AGENT}", "later"))
        await settle(50)
        assert it.recorder.events[-1][1].kind == "later"


async def test_whoever_reconnects_may_not_send_more_events_for_it() -> None:
    async with lab() as it:
        credential = it.directory.add()
        for _ in range(3):
            flooder = await it.connect(credential)
            for _ in range(300):
                flooder.connected.notify(SESSION_EVENT, Event(f"agent/{AGENT}", "flood"))
            await settle(1000)
        assert len(it.recorder.events) == 200
        it.directory.agents.clear()
        await it.clock.advance(5.1)
        assert not it.hub._event_rates


async def test_a_bug_in_the_event_handler_does_not_cost_the_session() -> None:
    async with lab() as it:
        agent = await it.connect(it.directory.add())
        session = it.hub._current[AGENT]

        async def broken(_: str, __: Event) -> None:
            raise ZeroDivisionError

        session.feed._handler = broken
        agent.connected.notify(SESSION_EVENT, Event(f"agent/{AGENT}", "x"))
        await settle(50)
        assert session.feed.counters.failed == 1
        assert await it.hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()


async def test_a_socket_without_a_hello_is_closed_after_30_seconds() -> None:
    async with lab() as it:
        wire = Wire(it.open_socket())
        await it.clock.advance(29.9)
        assert len(it.hub._strangers) == 1
        await it.clock.advance(0.2)
        await wire.expect_closed(CloseCode.HELLO_TIMEOUT)
        assert not len(it.hub._strangers)


async def test_sockets_without_a_hello_are_bounded_and_do_not_shut_agents_out_for_long() -> None:
    async with lab(HubLimits(strangers=StrangerLimits(most=8, per_address=3))) as it:
        credential = it.directory.add()
        for _ in range(3):
            it.open_socket()
        await settle()
        assert not it.hub.has_room_for("memory:9")
        assert it.hub.has_room_for("192.0.2.1:9")
        await Wire(it.open_socket()).expect_closed(CloseCode.TOO_MANY)
        await it.clock.advance(30.1)
        agent = await it.connect(credential)
        assert agent.peer is not None


async def test_whoever_dawdles_over_the_hello_gives_way_to_one_who_does_not() -> None:
    async with lab(HubLimits(strangers=StrangerLimits(per_address=3, safe_s=2))) as it:
        credential = it.directory.add()
        dawdlers = [Wire(it.open_socket()) for _ in range(3)]
        await settle()
        await it.clock.advance(1.9)
        assert not it.hub.has_room_for("memory:9")
        await it.clock.advance(0.2)
        assert it.hub.has_room_for("memory:9")
        agent = await it.connect(credential)
        assert agent.peer is not None
        await dawdlers[0].expect_closed(CloseCode.TOO_MANY)
        assert len(it.hub._strangers) == 2


async def test_the_address_with_most_dawdlers_makes_room() -> None:
    async with lab(HubLimits(strangers=StrangerLimits(most=3, safe_s=0))) as it:
        wires = []
        for address in ("192.0.2.1:1", "192.0.2.2:1", "192.0.2.2:2", "192.0.2.3:1"):
            socket, theirs = MemoryTransport.pair()
            theirs.address = address  # type: ignore[misc]
            it.tasks.create_task(it.hub.serve(theirs))
            it.sockets.append(socket)
            wires.append(Wire(socket))
            await settle()
        await wires[1].expect_closed(CloseCode.TOO_MANY)
        assert len(it.hub._strangers) == 3


async def test_a_proven_session_does_not_count_as_unproven() -> None:
    async with lab(HubLimits(strangers=StrangerLimits(per_address=1))) as it:
        await it.connect(it.directory.add())
        await it.connect(it.directory.add(OTHER), agent_id=OTHER)
        assert len(it.hub.sessions()) == 2


LOOK: AnyMethod = Method("look", Nothing, Nothing, TimeoutClass.FAST, False, "agent", "Look.")


class Distant:
    """An end of a socket, to which and from which everything takes 5 s."""

    def __init__(self, inner: MemoryTransport, it: Lab) -> None:
        self.address = inner.address
        self.certificate_sha256 = inner.certificate_sha256
        self.close = inner.close
        self._inner = inner
        self._there: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._here: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._clock = it.clock
        self.tasks = [
            it.tasks.create_task(carry()) for carry in (self._carry_there, self._carry_here)
        ]

    async def send(self, frame: bytes) -> None:
        self._there.put_nowait((self._clock.monotonic() + 5, frame))

    async def receive(self) -> bytes:
        due, frame = await self._here.get()
        await self._clock.sleep(due - self._clock.monotonic())
        return frame

    async def _carry_there(self) -> None:
        with suppress(TransportClosed):
            while True:
                due, frame = await self._there.get()
                await self._clock.sleep(due - self._clock.monotonic())
                await self._inner.send(frame)

    async def _carry_here(self) -> None:
        with suppress(TransportClosed):
            while True:
                frame = await self._inner.receive()
                self._here.put_nowait((self._clock.monotonic() + 5, frame))


@breaks(
    What.NETWORK, "everything takes 5 s each way",
    expected="the hello is completed, short calls are answered, and the session lasts",
    where=Where.SIMULATED,
)  # fmt: skip
async def test_an_agent_that_is_far_away() -> None:
    async with lab() as it:
        credential = it.directory.add()
        transport = Distant(it.open_socket(), it)
        handlers = Handlers({LOOK.name: ping})
        agent = HandMadeAgent(transport, greeting(credential), handlers, it.clock)
        run = it.tasks.create_task(agent.run())
        await it.clock.advance(20)
        assert it.hub.reachable(AGENT)
        call = it.caught(it.hub.call(AGENT, LOOK, Nothing()))
        await it.clock.advance(10.1)
        assert await call is None
        await it.clock.advance(120)
        assert [session.connected_for_s > 120 for session in it.hub.sessions()] == [True]
        for each in (run, *transport.tasks):
            each.cancel()


async def test_an_agent_cannot_call_kahuna() -> None:
    async with lab() as it:
        agent = await it.connect(it.directory.add())
        with pytest.raises(KowabungaError) as refused:
            await agent.connected.call(AGENT_PING, Nothing())
        assert refused.value.context["reason"] == "unknown_method"


async def test_a_stream_token_is_good_once_for_its_agent_and_while_somebody_waits() -> None:
    async with lab() as it:
        desk = it.hub._streams
        with desk.expect(AGENT) as expected:
            for agent_id, token in ((OTHER, expected.token), (AGENT, "x" * 43)):
                wire = Wire(it.open_socket(stream=True))
                await wire.send({"agent_id": agent_id, "token": token})
                await wire.expect_closed(CloseCode.UNAUTHENTICATED)
            wire = Wire(it.open_socket(stream=True))
            await wire.send({"agent_id": AGENT, "token": expected.token})
            stream = await expected.arrival
            second = Wire(it.open_socket(stream=True))
            await second.send({"agent_id": AGENT, "token": expected.token})
            await second.expect_closed(CloseCode.UNAUTHENTICATED)
            stream.close()
        with desk.expect(AGENT) as gone:
            pass
        late = Wire(it.open_socket(stream=True))
        await late.send({"agent_id": AGENT, "token": gone.token})
        await late.expect_closed(CloseCode.UNAUTHENTICATED)


async def test_a_stream_ends_with_the_session_that_asked_for_it() -> None:
    async with lab() as it:
        opened: list[StreamOpen] = []

        async def accept(raw: msgspec.Raw, _: Command | None) -> Nothing:
            opened.append(msgspec.json.decode(raw, type=StreamOpen))
            return Nothing()

        agent = await it.connect(it.directory.add(), service=Handlers({"stream.open": accept}))

        async def consume() -> None:
            async with it.hub.open_stream(AGENT, "log", f"agent/{AGENT}") as stream:
                await stream.read()

        consuming = it.caught(consume())
        await settle()
        wire = Wire(it.open_socket(stream=True))
        await wire.send({"agent_id": AGENT, "token": opened[0].token})
        await settle()
        assert not consuming.done()
        agent.connected.close(1000, "the agent ends")
        await settle()
        assert isinstance(await consuming, Unavailable)


async def test_a_stream_that_nobody_dials_fails_after_10_seconds() -> None:
    async def accept(_: msgspec.Raw, __: Command | None) -> Nothing:
        return Nothing()

    async with lab() as it:
        await it.connect(it.directory.add(), service=Handlers({"stream.open": accept}))

        async def consume() -> None:
            async with it.hub.open_stream(AGENT, "log", f"agent/{AGENT}"):
                raise AssertionError("nobody dialled")

        consuming = it.caught(consume())
        await it.clock.advance(10.1)
        assert isinstance(await consuming, Unavailable)
        assert not it.hub._streams._expected


async def test_a_stream_that_was_dialled_and_then_refused_is_closed() -> None:
    async with lab() as it:
        dialled: list[Wire] = []

        async def dial_and_refuse(raw: msgspec.Raw, _: Command | None) -> Nothing:
            wire = Wire(it.open_socket(stream=True))
            dialled.append(wire)
            token = msgspec.json.decode(raw, type=StreamOpen).token
            await wire.send({"agent_id": AGENT, "token": token})
            await settle()
            raise Unavailable("not after all")

        service = Handlers({"stream.open": dial_and_refuse})
        await it.connect(it.directory.add(), service=service)
        with pytest.raises(Unavailable, match="not after all"):
            async with it.hub.open_stream(AGENT, "log", f"agent/{AGENT}"):
                raise AssertionError("it was refused")
        await dialled[0].expect_closed(CloseCode.GOING_AWAY)


async def test_an_agent_that_reconnects_without_end_has_two_sessions() -> None:
    async with lab() as it:
        credential = it.directory.add()
        for _ in range(10):
            await it.connect(credential)
        await settle()
        assert len(it.hub._all) == 2
        assert it.hub.reachable(AGENT)
