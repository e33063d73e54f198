"""The agent's side: one session with every Kahuna, for ever.

Dials, says hello, serves calls through the dispatcher, sends events. Must not know what the
handlers do. One process per state directory: the caller holds the lock (`agent_lock`).
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from appliance.agent.dispatch import Dispatcher
from appliance.agent.streams import StreamKind
from appliance.core.aio import Backoff
from appliance.core.clock import Clock
from appliance.core.errors import Invalid, KowabungaError, NotFound, Unavailable
from appliance.core.files import exclusive
from appliance.rpc.gateway import Command
from appliance.rpc.hello import HELLO_TIMEOUT_S, Accepted, Greeting, Refused, greet
from appliance.rpc.method import Nothing
from appliance.rpc.methods import SESSION_EVENT, SESSION_REPLACED, STREAM_OPEN, Event, StreamOpen
from appliance.rpc.peer import Limits, Peer
from appliance.rpc.stream import ByteStream, StreamHello
from appliance.rpc.transport import CloseCode, Dialer, Transport, TransportClosed

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_SETTLED_S: Final = 60.0
_DRAIN_S: Final = 10.0
_MAX_STREAMS: Final = 32
_DEFAULT_BACKOFF: Final = Backoff(first_s=0.5, factor=2.0, max_s=30.0)


def agent_lock(directory: Path) -> AbstractContextManager[None]:
    """Keep a second agent process away from this state directory, its fences and its key.

    Raises:
        Conflict: another process holds it.
    """
    return exclusive(directory / "lock", "the agent")


class AgentClient:
    """Sessions of one agent with all Kahunas; `run` is eternal."""

    def __init__(
        self,
        kahunas: Sequence[str],
        me: Greeting,
        dispatcher: Dispatcher,
        *,
        dialer: Dialer,
        clock: Clock,
        stream_kinds: Mapping[str, StreamKind],
        on_connected: Callable[[], None] = lambda: None,
        backoff: Backoff = _DEFAULT_BACKOFF,
        limits: Limits | None = None,
    ) -> None:
        """Make a client.

        Raises:
            Invalid: no Kahuna, or an address that cannot be dialled securely.
        """
        if not kahunas:
            raise Invalid("an agent needs the address of a Kahuna", field="kahunas")
        self._urls = [dialer.check(url) for url in dict.fromkeys(kahunas)]
        self._me = me
        self._dispatcher = dispatcher
        self._dialer = dialer
        self._clock = clock
        self._stream_kinds = stream_kinds
        self._on_connected = on_connected
        self._backoff = backoff
        self._limits = limits
        self._sessions: dict[str, _Session] = {}  # by Kahuna process
        self._hurried = asyncio.Event()

    @property
    def connected(self) -> int:
        """The number of Kahunas that we hold a session with."""
        return len(self._sessions)

    def send_event(self, event: Event) -> None:
        """Tell every connected Kahuna; what cannot be sent now is dropped and counted.

        Events are hints: reconciliation reports everything again.
        """
        for session in self._sessions.values():
            session.peer.notify(SESSION_EVENT, event)

    def hurry(self) -> None:
        """Dial now instead of at the end of a pause: a Kahuna is known to be back."""
        self._hurried.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for url in self._urls:
                tasks.create_task(self._keep(url), name=f"kahuna {url}")

    async def _keep(self, url: str) -> None:
        """Hold a session with one address; pause longer after each failure in a row."""
        failures = 0
        while True:
            started = self._clock.monotonic()
            try:
                why = await self._connect(url)
                _log.info("kahuna_disconnected", url=url, code=why.code, reason=why.reason)
            except (KowabungaError, Refused, TransportClosed, TimeoutError) as error:
                _log.warning("kahuna_not_connected", url=url, error=str(error) or "timed out")
            except Exception:  # supervisor: a bug in one session must not end the agent
                _log.exception("kahuna_session_failed", url=url)
            stable = self._clock.monotonic() - started >= _SETTLED_S
            failures = 1 if stable else failures + 1
            await self._pause(self._backoff.delay_s(failures))

    async def _pause(self, seconds: float) -> None:
        self._hurried.clear()
        with suppress(TimeoutError):
            async with self._clock.timeout(seconds):
                await self._hurried.wait()

    async def _connect(self, url: str) -> TransportClosed:
        async with self._dialer.dial(url) as transport:
            async with self._clock.timeout(HELLO_TIMEOUT_S):
                accepted = await self._greet(transport)
            return await self._live(transport, url, accepted)

    async def _greet(self, transport: Transport) -> Accepted:
        try:
            return await greet(transport, self._me, is_connected=self._sessions.__contains__)
        except Refused as refused:
            await transport.close(refused.code, refused.detail)
            raise

    async def _live(self, transport: Transport, url: str, accepted: Accepted) -> TransportClosed:
        async with asyncio.TaskGroup() as tasks:
            session = _Session(self._dispatcher, tasks, self._stream_kinds, self._serve_stream(url))
            session.peer = Peer(
                transport,
                session,
                name=f"kahuna {accepted.kahuna}",
                clock=self._clock,
                limits=self._limits,
            )
            self._sessions[accepted.kahuna] = session
            _log.info("kahuna_connected", url=url, kahuna=accepted.kahuna)
            self._on_connected()
            try:
                return await session.peer.run()
            finally:
                if self._sessions.get(accepted.kahuna) is session:
                    del self._sessions[accepted.kahuna]
                session.end_streams()

    def _serve_stream(self, url: str) -> "_ServeStream":
        async def serve(request: StreamOpen, kind: StreamKind) -> None:
            """Dial and serve one stream; its failure concerns nobody else."""
            log = _log.bind(kind=request.kind, target=request.target)
            try:
                async with self._dialer.dial(url, stream=True) as transport:
                    hello = StreamHello(self._me.agent_id, request.token)
                    await transport.send(msgspec.json.encode(hello))
                    try:
                        await kind(ByteStream(transport), request.target)
                    except KowabungaError as refused:
                        await transport.close(CloseCode.INTERNAL, refused.detail)
                        raise
                log.info("stream_ended")
            except (KowabungaError, TransportClosed) as ended:
                log.info("stream_broken", why=str(ended))
            except Exception:  # supervisor: a bug in one stream must not end the session
                log.exception("stream_failed")

        return serve


_ServeStream = Callable[[StreamOpen, StreamKind], Coroutine[None, None, None]]


class _Session:
    """One session with one Kahuna: what serves its peer."""

    peer: Peer

    def __init__(
        self,
        dispatcher: Dispatcher,
        tasks: asyncio.TaskGroup,
        kinds: Mapping[str, StreamKind],
        serve_stream: _ServeStream,
    ) -> None:
        self._dispatcher = dispatcher
        self._tasks = tasks
        self._kinds = kinds
        self._serve_stream = serve_stream
        self._streams: set[asyncio.Task[None]] = set()

    async def handle(
        self, method_name: str, params_raw: msgspec.Raw, command: Command | None
    ) -> msgspec.Struct:
        if method_name == STREAM_OPEN.name:
            return self._open_stream(params_raw)
        return await self._dispatcher.handle(method_name, params_raw, command)

    def on_notification(self, method_name: str, params_raw: msgspec.Raw) -> None:
        del params_raw
        if method_name == SESSION_REPLACED.name:
            self.peer.drain(_DRAIN_S)

    def end_streams(self) -> None:
        for stream in self._streams:
            stream.cancel()

    def _open_stream(self, params_raw: msgspec.Raw) -> Nothing:
        """Answer first, then dial: Kahuna waits for the socket with a time limit of its own."""
        try:
            request = msgspec.json.decode(params_raw, type=StreamOpen)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as bad:
            raise Invalid(f"{STREAM_OPEN.name}: {bad}", reason="bad_params") from bad
        kind = self._kinds.get(request.kind)
        if kind is None:
            raise NotFound(f"this agent has no stream of kind {request.kind!r}")
        if len(self._streams) >= _MAX_STREAMS:
            raise Unavailable(f"{_MAX_STREAMS} streams are open already")
        stream = self._tasks.create_task(self._serve_stream(request, kind))
        self._streams.add(stream)
        stream.add_done_callback(self._streams.discard)
        return Nothing()
