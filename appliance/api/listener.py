"""Listening sockets: TCP with or without TLS, and the local Unix socket; uvicorn within limits.

uvicorn bounds neither the head of a request nor the time it takes, and makes Unix sockets world
writable: both are set right here. It decides nothing about requests.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from appliance.api.tls_accept import TlsAcceptor
from appliance.core.errors import Conflict, Invalid
from appliance.core.files import ensure_private_directory
from appliance.core.room import Room, host_of

PEER_UID: Final = "peer_uid"  # in scope["state"] of requests that came over a Unix socket

_UCRED: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener grants to strangers."""

    head_bytes: int = 64 * 1024
    head_s: float = 20.0  # for the TLS handshake, and for the head of each request
    keep_alive_s: int = 30
    connections: int = 4096  # one more ends one that waits for its client, if any does
    handshakes: int = 512  # TLS; each takes 50 KB
    websocket_message_bytes: int = 1024 * 1024
    unread_s: float = 20.0  # for the other side to take something of what waits for it
    graceful_stop_s: int = 4


class Connection(Protocol):
    """What uvicorn's two protocols have in common."""

    transport: asyncio.Transport


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with a bounded head, a bounded number of connections, and peer ids.

    Trailers are bounded like a head, and ignored: nobody judged a request by them.
    """

    limits: Limits
    idle: Room[Connection]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._host = _host_of(transport)
        self._head_bytes = 0  # received since the last part of a message that was not its head
        self._in_head = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._peer_uid = _peer_uid(transport)
        if len(self.connections) > self.limits.connections and not _end_one(self.idle):
            transport.write(_BUSY)
            transport.close()
        else:
            self._await_head()
        self.idle.enter(self._host, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.idle.leave(self._host, self)
        self._stop_awaiting_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request
        if self._head_timer is None and (cycle is None or cycle.response_complete):
            self._await_head()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > self.limits.head_bytes:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)

    def on_chunk_header(self) -> None:
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._head_bytes = max(self._head_bytes - len(body), 0)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._stop_awaiting_head()
        self.idle.leave(self._host, self)
        if self._peer_uid is not None:
            self.scope.setdefault("state", {})[PEER_UID] = self._peer_uid
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self in self.connections:  # else more requests wait
            self.idle.enter(self._host, self)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_s, self.transport.abort)

    def _stop_awaiting_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _WebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, whose other side may be about to leave, or not read."""

    idle: Room[Connection]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._host = _host_of(transport)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        if self in self.connections:  # it waits for the other side's goodbye
            self.idle.enter(self._host, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.idle.leave(self._host, self)
        super().connection_lost(exc)

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # the pong: whoever reads none gets no more of them

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except InvalidState:  # it said goodbye first, and the last bytes are still on their way
            self.transport.close()


_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)


def _unread_bytes(transport: asyncio.Transport) -> int:
    try:
        return transport.get_write_buffer_size()
    except AttributeError:  # asyncio's TLS, of a transport that was closed twice: it knows no more
        return 0


def _end_one(idle: Room[Connection]) -> bool:
    """End the connection that waits longest of the host with most such; False: there is none."""
    host = idle.greediest()
    oldest = None if host is None else idle.oldest(host)
    if host is None or oldest is None:
        return False
    idle.leave(host, oldest)
    oldest.transport.abort()
    return True


def _host_of(transport: asyncio.BaseTransport) -> str:
    peer: object = transport.get_extra_info("peername")
    return host_of(f"{peer[0]}:{peer[1]}") if isinstance(peer, tuple) else "local"


def _peer_uid(transport: asyncio.Transport) -> int | None:
    peer: socket.socket | None = transport.get_extra_info("socket")
    if peer is None or peer.family != socket.AF_UNIX:
        return None
    credential = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return cast("int", _UCRED.unpack(credential)[1])


class Listener(uvicorn.Server):
    """Serve one ASGI application on one bound socket until cancelled; then stop gracefully."""

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        sock: socket.socket,
        *,
        limits: Limits,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        idle = Room[Connection]()
        protocol = type("_LimitedProtocol", (_Protocol,), {"limits": limits, "idle": idle})
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws=type("_FairWebSocket", (_WebSocket,), {"idle": idle}),
                ws_max_size=limits.websocket_message_bytes,
                ws_ping_interval=None,  # the agent protocol has heartbeats of its own
                ws_per_message_deflate=False,  # compressing what strangers send invites bombs
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=limits.keep_alive_s,
                timeout_graceful_shutdown=limits.graceful_stop_s,
                reset_contextvars=True,
            )
        )
        self.listening: Final = asyncio.Event()
        self._socket = sock
        self._limits = limits
        self._acceptor = None
        if tls is not None:
            self._acceptor = TlsAcceptor(
                sock, tls, self._protocol, handshake_s=limits.head_s, handshakes=limits.handshakes
            )
        self._unread: dict[Connection, tuple[int, float]] = {}  # how much waits, since when no less

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until cancelled, then finish what is under way within `graceful_stop_s`."""
        try:
            await super().serve(sockets)
        except asyncio.CancelledError:
            if self.started:
                await self.shutdown()
            raise
        finally:
            self._socket.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        del sockets  # ours is bound already
        if self._acceptor is None:
            loop = asyncio.get_running_loop()
            self.servers = [await loop.create_server(self._protocol, sock=self._socket)]
        else:
            self.servers = []
            self._acceptor.listen()
        self.started = True
        self.listening.set()

    async def main_loop(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            if self._acceptor is not None:
                tasks.create_task(self._acceptor.run())
            await self._tick()

    async def _tick(self) -> None:
        while True:
            await self.on_tick(0)  # renews the Date header
            self._cut_off_who_reads_nothing()
            await asyncio.sleep(1)

    def _cut_off_who_reads_nothing(self) -> None:
        """Else it would keep its connection and our memory, also after a close, for ever."""
        now = time.monotonic()
        unread: dict[Connection, tuple[int, float]] = {}
        for connection in list(self.server_state.connections):
            waiting = _unread_bytes(connection.transport)
            before, since = self._unread.get(connection, (waiting, now))
            if waiting:
                unread[connection] = waiting, now if waiting < before else since
            if waiting and now - unread[connection][1] >= self._limits.unread_s:
                connection.transport.abort()
        self._unread = unread

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to the process: several listeners live in it."""
        yield

    def _protocol(self) -> asyncio.Protocol:
        make = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
        return make(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )


def bind_tcp(host: str, port: int) -> socket.socket:
    """Bind without listening yet.

    Raises:
        Conflict: the address is taken.
        Invalid: it is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as unknown:
        raise Invalid(f"cannot listen on {host}: {unknown.strerror}") from unknown
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as refused:
        sock.close()
        kind_of = Conflict if refused.errno == errno.EADDRINUSE else Invalid
        raise kind_of(f"cannot listen on {host}:{port}: {refused.strerror}") from refused
    return sock


def bind_local(path: Path) -> socket.socket:
    """Bind the Unix socket that only its owner may open.

    The state directory's lock is held, so a socket file left there is of a dead process.
    """
    ensure_private_directory(path.parent)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    path.chmod(0o600)  # nobody could open it meanwhile: it does not listen yet
    return sock


def server_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context of TLS 1.2 and newer with this certificate.

    Loading another pair into the same context later serves new connections with that one.

    Raises:
        Invalid: the files cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, certificate, key)
    return context


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Put a certificate into a context in use, after trying it on another one.

    Raises:
        Invalid: the files cannot be read, or do not belong together; the old one stays.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as bad:
        raise Invalid(
            f"{certificate} and {key} are not a usable certificate and key: {bad}",
            hint="both must be PEM, the chain first the server's own certificate",
        ) from bad
