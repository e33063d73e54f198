"""The agents' socket: one path, RPC by default, byte streams by subprotocol.

Only carries frames between ASGI and the hub. Takes no dependencies: Litestar would keep them for
the life of the socket.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect
from litestar.handlers import WebsocketRouteHandler

from appliance.api.asgi import Receive, Scope, Send
from appliance.api.guards import allow
from appliance.model.access import Allow
from appliance.rpc.hub import Hub
from appliance.rpc.messages import MAX_MESSAGE_BYTES
from appliance.rpc.transport import (
    PATH,
    STREAM_SUBPROTOCOL,
    CloseCode,
    TransportClosed,
    closing_frame,
)

# uvicorn tells a vanished client by an OSError and a send after the close by a RuntimeError.
_GONE: Final = (WebSocketDisconnect, OSError, RuntimeError)
_NO_CODE: Final = 1005  # RFC 6455, section 7.4.1


class AsgiTransport:
    """A Transport over an accepted socket: text frames for RPC, binary ones for streams."""

    def __init__(
        self, receive: Receive, send: Send, *, address: str, certificate_sha256: bytes, text: bool
    ) -> None:
        self._receive = receive
        self._send = send
        self._text = text
        self._closed: TransportClosed | None = None
        self.address: Final = address
        self.certificate_sha256: Final = certificate_sha256

    async def send(self, frame: bytes) -> None:
        if self._closed is not None:
            raise self._closed
        kind, data = ("text", frame.decode()) if self._text else ("bytes", frame)
        try:
            await self._send({"type": "websocket.send", kind: data})
        except _GONE as gone:
            raise self._end(CloseCode.ABNORMAL, "the connection broke") from gone

    async def receive(self) -> bytes:
        if self._closed is not None:
            raise self._closed
        try:
            message = await self._receive()
        except _GONE as gone:
            raise self._end(CloseCode.ABNORMAL, "the connection broke") from gone
        if message["type"] != "websocket.receive":
            code: int = message.get("code", _NO_CODE)
            if code == _NO_CODE:  # uvicorn says so, too, when no goodbye came
                raise self._end(CloseCode.ABNORMAL, "the connection broke")
            raise self._end(code, message.get("reason") or "")
        text: str | None = message.get("text")
        frame: bytes = message.get("bytes") or b"" if text is None else text.encode()
        if (text is not None) != self._text:
            await self.close(CloseCode.UNSUPPORTED_DATA, "text and binary frames do not mix here")
            raise TransportClosed(CloseCode.UNSUPPORTED_DATA, "text and binary frames mixed")
        if len(frame) > MAX_MESSAGE_BYTES:
            await self.close(CloseCode.MESSAGE_TOO_BIG, "message too big")
            raise TransportClosed(CloseCode.MESSAGE_TOO_BIG, "message too big")
        return frame

    async def close(self, code: int, reason: str) -> None:
        if self._closed is not None:
            return
        self._end(code, reason)
        sent_code, sent_reason = closing_frame(code, reason)
        with suppress(*_GONE):  # it is closed already, which is the goal
            await self._send({"type": "websocket.close", "code": sent_code, "reason": sent_reason})

    def _end(self, code: int, reason: str) -> TransportClosed:
        self._closed = self._closed or TransportClosed(code, reason)
        return self._closed


def agent_socket(hub: Hub, certificate_sha256: Callable[[], bytes]) -> WebsocketRouteHandler:
    """Return the route of the agents.

    `certificate_sha256` returns the hash of the certificate (DER) that new connections get now;
    empty without TLS.
    """

    # Any: Litestar's parameters for users and state of its own, which we do not give it.
    async def serve_agent(socket: WebSocket[Any, Any, Any]) -> None:
        scope, receive, send = plain(socket)
        address = address_of(scope)
        await receive()  # "websocket.connect"
        if not hub.has_room_for(address):
            # Refused before the upgrade (HTTP 403): such a socket costs as little as can be. Not a
            # 503 by "WebSocket Denial Response": uvicorn logs an error for each of those.
            await send({"type": "websocket.close", "code": CloseCode.TOO_MANY, "reason": ""})
            return
        is_stream = STREAM_SUBPROTOCOL in scope["subprotocols"]
        subprotocol = STREAM_SUBPROTOCOL if is_stream else None
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        transport = AsgiTransport(
            receive,
            send,
            address=address,
            certificate_sha256=certificate_sha256(),
            text=not is_stream,
        )
        await (hub.serve_stream(transport) if is_stream else hub.serve(transport))

    return WebsocketRouteHandler(PATH, opt=dict(allow(Allow.ANYONE)))(serve_agent)


# Any: see above.
def plain(socket: WebSocket[Any, Any, Any]) -> tuple[Scope, Receive, Send]:
    """Return a socket as ASGI has it."""
    return (
        cast("Scope", socket.scope),
        cast("Receive", socket.receive),
        cast("Send", socket.send),
    )


def address_of(scope: Scope) -> str:
    """Return who is at the other end, for logs."""
    client: tuple[str, int] | None = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else "local"
