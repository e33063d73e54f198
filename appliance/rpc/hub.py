"""Kahuna's side: who is connected, and the way to call them.

Sessions live in this process alone: with several Kahunas each agent dials all of them. So the
rules about two machines with one identity hold per Kahuna. Must not import the store or the API.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
import structlog

from appliance.core.clock import Clock
from appliance.core.errors import KowabungaError, NotFound, Unavailable
from appliance.model.agent import AgentType
from appliance.rpc.directory import AgentDirectory
from appliance.rpc.events import Alarm, EventFeed, EventHandler, EventLimits, TokenBucket
from appliance.rpc.gateway import Command
from appliance.rpc.hello import Gatekeeper, ProtocolRange, Proven, Refused
from appliance.rpc.method import Method, Nothing
from appliance.rpc.methods import SESSION_EVENT, SESSION_PING, STREAM_OPEN, StreamOpen
from appliance.rpc.peer import Limits, Peer
from appliance.rpc.strangers import StrangerLimits, Strangers
from appliance.rpc.stream import PAIRING_S, ByteStream, StreamDesk
from appliance.rpc.transport import CloseCode, Transport, TransportClosed

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_CLOSING_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class HubLimits:
    """What connections may cost, and how long things wait.

    Attributes:
        strangers: sockets without a good hello.
        peer: of each session; agents call Kahuna rarely, so few of their calls run at once.
        events: of each session.
        grace_s: how long a replaced session may still deliver answers.
        clone_ping_s: how soon the older of two machines must answer to keep its identity.
        poll_s: pause between looks at the credentials.
    """

    strangers: StrangerLimits = field(default_factory=StrangerLimits)
    peer: Limits = field(default_factory=lambda: Limits(incoming=32))
    events: EventLimits = field(default_factory=EventLimits)
    grace_s: float = 10.0
    clone_ping_s: float = 2.0
    poll_s: float = 5.0


class SessionInfo(msgspec.Struct, frozen=True):
    """One session, as the API lists it."""

    agent_id: str
    type: AgentType
    address: str
    version: str
    protocol: int
    boot_id: str
    connected_for_s: float


@dataclass(eq=False, slots=True)
class _Session:
    proven: Proven
    address: str
    since_s: float
    feed: EventFeed
    peer: Peer
    streams: set[ByteStream] = field(default_factory=set[ByteStream])
    retired: "_Session | None" = None  # the one before, in its grace period

    @property
    def agent_id(self) -> str:
        return self.proven.identity.id

    def close(self, code: CloseCode, reason: str) -> None:
        self.peer.close(code, reason)
        for stream in self.streams:
            stream.close(code, reason)


class _AgentCalls:
    """What an agent may ask of Kahuna: nothing yet; and tell it: events."""

    def __init__(self, feed: EventFeed) -> None:
        self._feed = feed

    async def handle(
        self, method_name: str, params_raw: msgspec.Raw, command: Command | None
    ) -> msgspec.Struct:
        del params_raw, command
        raise NotFound(f"Kahuna does not serve {method_name!r}", reason="unknown_method")

    def on_notification(self, method_name: str, params_raw: msgspec.Raw) -> None:
        if method_name == SESSION_EVENT.name:
            self._feed.offer(params_raw)


async def _ignore(_agent_id: str, _event: object) -> None:
    return


class Hub:
    """Implements AgentGateway over real sessions."""

    def __init__(
        self,
        directory: AgentDirectory,
        *,
        kahuna: str,
        clock: Clock,
        alarm: Alarm,
        on_event: EventHandler = _ignore,
        protocols: ProtocolRange | None = None,
        limits: HubLimits | None = None,
    ) -> None:
        """Make a hub; `kahuna` names this process, anew with each start."""
        self._directory = directory
        self._clock = clock
        self._alarm = alarm
        self._on_event = on_event
        self._limits = limits or HubLimits()
        self._gatekeeper = Gatekeeper(directory, kahuna=kahuna, clock=clock, protocols=protocols)
        self._streams = StreamDesk(clock)
        self._current: dict[str, _Session] = {}
        self._all: set[_Session] = set()  # the replaced ones too
        self._strangers = Strangers(self._limits.strangers, clock)
        # By agent, not by session: else whoever reconnects has a new one each time.
        self._event_rates: dict[str, TokenBucket] = {}
        self._connected: list[Callable[[str], None]] = []

    # For those who call agents.

    def reachable(self, agent_id: str) -> bool:
        return agent_id in self._current

    async def call(
        self,
        agent_id: str,
        method: Method[P, R],
        params: P,
        *,
        timeout_s: float | None = None,
        command: Command | None = None,
    ) -> R:
        peer = self._session(agent_id).peer
        return await peer.call(method, params, timeout_s=timeout_s, command=command)

    @asynccontextmanager
    async def open_stream(self, agent_id: str, kind: str, about: str) -> AsyncGenerator[ByteStream]:
        """Have the agent dial a stream of this kind about a target, for the life of the block.

        Raises:
            Unavailable: no session, or the agent did not dial in time.
            KowabungaError: the agent refused.
        """
        session = self._session(agent_id)
        with self._streams.expect(agent_id) as expected:
            request = StreamOpen(expected.token, kind, about)
            try:
                async with self._clock.timeout(PAIRING_S):
                    await session.peer.call(STREAM_OPEN, request)
                    stream = await expected.arrival
            except TimeoutError as late:
                raise Unavailable(f"agent {agent_id} did not dial the stream in time") from late
        session.streams.add(stream)
        try:
            if session not in self._all:
                raise Unavailable(f"agent {agent_id} has gone")
            yield stream
        finally:
            stream.close()
            session.streams.discard(stream)

    def on_connected(self, callback: Callable[[str], None]) -> None:
        """Have `callback` called with the agent's id at each new session."""
        self._connected.append(callback)

    def sessions(self) -> list[SessionInfo]:
        now = self._clock.monotonic()
        return [
            SessionInfo(
                agent_id=agent_id,
                type=session.proven.identity.type,
                address=session.address,
                version=session.proven.hello.version,
                protocol=session.proven.protocol,
                boot_id=session.proven.hello.boot_id,
                connected_for_s=now - session.since_s,
            )
            for agent_id, session in sorted(self._current.items())
        ]

    def disconnect(
        self, agent_id: str, reason: str, *, code: CloseCode = CloseCode.REVOKED
    ) -> None:
        """Close every session and stream of the agent at once."""
        self._current.pop(agent_id, None)
        for session in self._all:
            if session.agent_id == agent_id:
                session.close(code, reason)

    async def run(self) -> None:
        """Watch the credentials for ever: what another Kahuna revokes is closed here too."""
        while True:
            await self._clock.sleep(self._limits.poll_s)
            try:
                serials = await self._directory.serials()
            except KowabungaError as error:
                _log.warning("credentials_unknown", error=str(error))
                continue
            for session in list(self._all):
                self._check_credential(session, serials.get(session.agent_id))
            for agent_id in self._event_rates.keys() - serials.keys():
                del self._event_rates[agent_id]

    # For the sockets.

    def has_room_for(self, address: str) -> bool:
        """Tell whether one more socket may try to say hello."""
        return self._strangers.has_room_for(address)

    async def serve(self, transport: Transport) -> None:
        """Live through one agent's session; returns when the socket is closed."""
        proven = await self._hello(transport)
        if proven is None:
            return
        session = self._enter(proven, transport)
        log = _log.bind(agent=session.agent_id, address=session.address)
        log.info("agent_connected", version=proven.hello.version, protocol=proven.protocol)
        why = TransportClosed(CloseCode.GOING_AWAY, "this process ends")
        async with asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(session.feed.run())
            tasks.create_task(self._recheck(session))
            try:
                why = await session.peer.run()
            finally:
                self._leave(session, why)
                log.info("agent_disconnected", code=why.code, reason=why.reason)
            # A revoked agent is heard no more; else what it said before still counts.
            if why.code in {CloseCode.REVOKED, CloseCode.EXPIRED}:
                feeding.cancel()
            session.feed.finish()

    async def serve_stream(self, transport: Transport) -> None:
        """Live through one byte stream; returns when the socket is closed."""
        try:
            async with self._strangers.one_more(transport.address):
                expected = await self._streams.identify(transport)
        except Refused as refused:
            await self._turn_away(transport, refused.code, refused.detail)
            return
        except TransportClosed:
            return
        if expected is None:
            await self._turn_away(transport, CloseCode.UNAUTHENTICATED, "no such stream")
            return
        stream = ByteStream(transport)
        expected.arrival.set_result(stream)
        await stream.run(self._clock)

    # Small parts.

    def _session(self, agent_id: str) -> _Session:
        session = self._current.get(agent_id)
        if session is None:
            raise Unavailable(
                f"agent {agent_id} is not connected to this Kahuna", reason="not_connected"
            )
        return session

    async def _hello(self, transport: Transport) -> Proven | None:
        try:
            async with self._strangers.one_more(transport.address):
                proven = await self._gatekeeper.welcome(transport, self._refuse_clone)
                await self._refuse_clone(proven)  # two may have been welcomed at once
                return proven
        except Refused as refused:
            await self._turn_away(transport, refused.code, refused.detail)
        except KowabungaError as error:
            _log.warning("hello_failed", address=transport.address, error=str(error))
            await self._turn_away(transport, CloseCode.INTERNAL, "cannot check a hello now")
        except TransportClosed:
            pass
        return None

    async def _turn_away(self, transport: Transport, code: CloseCode, detail: str) -> None:
        _log.info("agent_refused", address=transport.address, reason=code.name.lower())
        try:
            async with self._clock.timeout(_CLOSING_S):
                await transport.close(code, detail)
        except TimeoutError:
            pass  # it does not read: the server cuts the connection

    async def _refuse_clone(self, proven: Proven) -> None:
        """Keep the machine that lives under this identity from being evicted by a copy of it."""
        agent_id = proven.identity.id
        while (live := self._current.get(agent_id)) is not None:
            if live.proven.hello.boot_id == proven.hello.boot_id:
                return
            try:
                await live.peer.call(SESSION_PING, Nothing(), timeout_s=self._limits.clone_ping_s)
            except KowabungaError:
                # Silent: most likely the node booted anew. It does not get its place back.
                if self._current.get(agent_id) is live:
                    del self._current[agent_id]
                live.close(CloseCode.REPLACED, "did not answer when a newer session came")
                continue
            await self._raise_alarm(
                "agent_cloned",
                f"agent/{agent_id}",
                f"a second machine (boot {proven.hello.boot_id}) proves the identity of the one "
                f"at {live.address} (boot {live.proven.hello.boot_id}) and was refused",
            )
            raise Refused(CloseCode.CLONED_IDENTITY, "another machine lives under this identity")

    async def _raise_alarm(self, kind: str, about: str, detail: str) -> None:
        try:
            await self._alarm(kind, about, detail)
        except KowabungaError as error:  # the refusal matters more than its record
            _log.warning("alarm_not_recorded", kind=kind, about=about, error=str(error))

    def _enter(self, proven: Proven, transport: Transport) -> _Session:
        feed = EventFeed(
            proven.identity.id,
            self._directory,
            handler=self._on_event,
            alarm=self._alarm,
            clock=self._clock,
            limits=self._limits.events,
            rate=self._event_rates.setdefault(proven.identity.id, self._new_rate()),
        )
        peer = Peer(
            transport,
            _AgentCalls(feed),
            name=f"agent {proven.identity.id}",
            clock=self._clock,
            limits=self._limits.peer,
        )
        session = _Session(proven, transport.address, self._clock.monotonic(), feed, peer)
        older = self._current.get(session.agent_id)
        self._current[session.agent_id] = session
        self._all.add(session)
        if older is not None:
            older.peer.retire(self._limits.grace_s)
            if older.retired is not None:  # one at a time: else an agent could have thousands
                older.retired.close(CloseCode.REPLACED, "two newer sessions came")
                older.retired = None
            session.retired = older
        for callback in self._connected:
            callback(session.agent_id)
        return session

    def _new_rate(self) -> TokenBucket:
        events = self._limits.events
        return TokenBucket(events.per_s, events.burst, self._clock)

    def _leave(self, session: _Session, why: TransportClosed) -> None:
        self._all.discard(session)
        if self._current.get(session.agent_id) is session:
            del self._current[session.agent_id]
        for stream in session.streams:
            stream.close(why.code, "its session ended")

    async def _recheck(self, session: _Session) -> None:
        """Close the gap between reading the credential and being found by `disconnect`."""
        try:
            identity = await self._directory.find(session.agent_id)
        except KowabungaError:
            return  # the poll looks again
        self._check_credential(session, None if identity is None else identity.serial)

    def _check_credential(self, session: _Session, serial: int | None) -> None:
        identity = session.proven.identity
        expired = identity.expires_at_ms is not None and (
            identity.expires_at_ms <= self._clock.now_ms()
        )
        if serial == identity.serial and not expired:
            return
        if self._current.get(session.agent_id) is session:
            del self._current[session.agent_id]
        if expired:
            session.close(CloseCode.EXPIRED, "the credential has expired")
        else:
            session.close(CloseCode.REVOKED, "the credential was changed")
