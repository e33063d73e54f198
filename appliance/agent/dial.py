"""Dial a Kahuna: websockets' client as a Transport, TLS pinned to the cluster's CA.

The path is always `/ws`; environment proxies are ignored, as an agent must reach exactly the
address that it was given.
"""

import asyncio
import hashlib
import ipaddress
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from appliance.core.errors import Invalid, Unavailable
from appliance.core.tls import doubt_clock, find_mistrust
from appliance.rpc.messages import MAX_MESSAGE_BYTES
from appliance.rpc.transport import (
    PATH,
    STREAM_SUBPROTOCOL,
    CloseCode,
    TransportClosed,
    closing_frame,
)

# TCP, TLS and the upgrade take a round trip each, which may be 10 s.
_OPEN_S: Final = 45.0
_CLOSE_S: Final = 2.0


class WebSocketTransport:
    """A Transport over a client connection: text frames for RPC, binary ones for streams."""

    def __init__(self, connection: ClientConnection, *, text: bool) -> None:
        self._connection = connection
        self._text = text
        self.address: Final = str(connection.remote_address)
        self.certificate_sha256: Final = _peer_certificate(connection)

    async def send(self, frame: bytes) -> None:
        try:
            await self._connection.send(frame, text=self._text)
        except ConnectionClosed as closed:
            raise _explain(closed) from closed

    async def receive(self) -> bytes:
        try:
            message = await self._connection.recv(decode=False if self._text else None)
        except ConnectionClosed as closed:
            raise _explain(closed) from closed
        if isinstance(message, str):  # text on a stream: binary frames stay bytes
            await self.close(CloseCode.UNSUPPORTED_DATA, "a stream has binary frames")
            raise TransportClosed(CloseCode.UNSUPPORTED_DATA, "text on a stream")
        return message

    async def close(self, code: int, reason: str) -> None:
        await _close(self._connection, *closing_frame(code, reason))


class WebSocketDialer:
    """Opens sockets to Kahunas.

    `ca_file` holds the cluster's CA (PEM): nothing else is trusted. Without it only plain
    `ws://` to a loopback address is possible.
    """

    def __init__(self, ca_file: Path | None) -> None:
        self._tls = None if ca_file is None else _tls_context(ca_file)

    def check(self, url: str) -> str:
        """Return the URL to dial.

        Raises:
            Invalid: not wss://host[:port], and not ws:// to a loopback address.
        """
        parts = urlsplit(url)
        if parts.scheme == "wss" and parts.hostname:
            if self._tls is None:
                raise Invalid(f"{url}: no CA file to verify it by", field="ca_file")
        elif parts.scheme != "ws" or not _is_loopback(parts.hostname or ""):
            raise Invalid(
                f"{url} is not the address of a Kahuna",
                hint="give wss://host:port; plain ws:// is for loopback only",
                field="kahunas",
            )
        return f"{parts.scheme}://{parts.netloc}{PATH}"

    @asynccontextmanager
    async def dial(self, url: str, *, stream: bool = False) -> AsyncGenerator[WebSocketTransport]:
        """Hold an open socket for the life of the block; it is closed at its end.

        Raises:
            Unavailable: nobody there, TLS refused, or no WebSocket.
        """
        address = self.check(url)
        try:
            connection = await connect(
                address,
                ssl=self._tls if address.startswith("wss") else None,
                subprotocols=[Subprotocol(STREAM_SUBPROTOCOL)] if stream else None,
                compression=None,
                proxy=None,
                user_agent_header=None,
                open_timeout=_OPEN_S,
                close_timeout=_CLOSE_S,
                ping_interval=None,  # the RPC heartbeat also notices a hung process
                max_size=MAX_MESSAGE_BYTES,
            )
        except (OSError, WebSocketException, TimeoutError) as refused:
            mistrust = find_mistrust(refused)
            raise Unavailable(
                f"{address} cannot be reached: {refused}",
                hint=None if mistrust is None else doubt_clock(mistrust),
            ) from refused
        try:
            yield WebSocketTransport(connection, text=not stream)
        finally:
            await _close(connection)


def _tls_context(ca_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # What is in the file is trusted, also an owner's certificate without the root it comes from.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as bad:
        raise Invalid(f"{ca_file} is not a usable CA file: {bad}", field="ca_file") from bad
    return context


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _peer_certificate(connection: ClientConnection) -> bytes:
    tls: ssl.SSLObject | None = connection.transport.get_extra_info("ssl_object")
    certificate = None if tls is None else tls.getpeercert(binary_form=True)
    return b"" if certificate is None else hashlib.sha256(certificate).digest()


async def _close(connection: ClientConnection, code: int = 1000, reason: str = "") -> None:
    """Say goodbye; whoever does not take that in time is cut off.

    A close of websockets first waits, without a limit, until what was sent before has left: over a
    network that swallows everything that takes a quarter of an hour.
    """
    try:
        async with asyncio.timeout(_CLOSE_S):
            await connection.close(code, reason)
    except TimeoutError:
        connection.transport.abort()
        await connection.wait_closed()


def _explain(closed: ConnectionClosed) -> TransportClosed:
    """Say what the other side said, if it did."""
    frame = closed.rcvd or closed.sent
    if frame is None:
        return TransportClosed(CloseCode.ABNORMAL, "the connection broke")
    return TransportClosed(frame.code, frame.reason)
