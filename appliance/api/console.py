"""The consoles' socket: between whoever holds a one-time token and the agent of the machine.

Carries bytes and understands none. Like the agents' socket it takes no dependencies: the framework
would keep them for the life of the socket.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Final

import structlog
from litestar import WebSocket
from litestar.handlers import WebsocketRouteHandler

from appliance.api.agents import AsgiTransport, address_of, plain
from appliance.api.guards import allow
from appliance.api.problems import Malformed
from appliance.api.requests import ApiRequest
from appliance.api.services import Services
from appliance.core.clock import Clock
from appliance.core.errors import KowabungaError, Unavailable
from appliance.core.secret import Secret
from appliance.model.access import Allow
from appliance.model.principal import PrincipalKind
from appliance.model.setting import PUBLIC_URL
from appliance.model.target import target
from appliance.rpc.stream import ByteStream
from appliance.rpc.transport import CloseCode, TransportClosed
from appliance.services.consoles import Admission

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)

CONSOLE_PATH: Final = "/api/ext/v1/console"
SUBPROTOCOL: Final = "binary"  # what noVNC asks for
_CLOSING_S: Final = 2.0
_AUTHORITY: Final = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class ConsoleLimits:
    """How long a console may stay open without a byte, and at all: people forget windows."""

    idle_s: float = 3600.0
    longest_s: float = 24 * 3600.0


_LIMITS: Final = ConsoleLimits()


async def console_url(services: Services, request: ApiRequest, token: Secret) -> str:
    """Return where the token opens its console.

    At the cluster's public URL, or else where this request came to.

    Raises:
        Malformed: the request does not say properly which host it was sent to.
    """
    base = await services.settings.get(PUBLIC_URL)
    if base is None and request.user.kind is PrincipalKind.LOCAL:
        base = services.reach.agent_url  # who came by the local socket is on this machine
    elif base is None:
        authority = request.headers.get("host", "")
        if _AUTHORITY.fullmatch(authority) is None:
            raise Malformed(
                "the Host header does not name a host", hint="set public_url in the settings"
            )
        base = f"{request.scope['scheme']}://{authority}"
    return f"{re.sub('^http', 'ws', base)}{CONSOLE_PATH}/{token.reveal_text()}"


def console_socket(services: Services, limits: ConsoleLimits = _LIMITS) -> WebsocketRouteHandler:
    """Return the route of the consoles."""

    # Any: Litestar's parameters for users and state of its own, which we do not give it.
    async def serve_console(socket: WebSocket[Any, Any, Any]) -> None:
        scope, receive, send = plain(socket)
        await receive()  # "websocket.connect"
        admission = await _redeem(services, str(socket.path_params["token"]))
        if admission is None:
            # Before the upgrade (HTTP 403): nothing is told about why.
            await send({"type": "websocket.close", "code": CloseCode.UNAUTHENTICATED, "reason": ""})
            return
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        user = AsgiTransport(
            receive, send, address=address_of(scope), certificate_sha256=b"", text=False
        )
        await _serve(services, limits, admission, user)

    # Open to anyone: the token in the path is the credential. It is random and good once, and the
    # browser adds nothing by itself (no cookie) that a foreign page could abuse; so there is no
    # Origin to check.
    return WebsocketRouteHandler(f"{CONSOLE_PATH}/{{token:str}}", opt=dict(allow(Allow.ANYONE)))(
        serve_console
    )


async def _redeem(services: Services, token: str) -> Admission | None:
    try:
        return await services.compute.consoles.redeem(token)
    except KowabungaError as error:
        _log.warning("console_token_unknown", error=str(error))
        return None


async def _serve(
    services: Services, limits: ConsoleLimits, admission: Admission, user: AsgiTransport
) -> None:
    """Live through one console; returns when the user's socket is closed."""
    log = _log.bind(
        instance=admission.instance_id,
        kind=admission.kind,
        principal=admission.principal,
        address=user.address,
    )
    clock, about = services.clock, target("instance", admission.instance_id)
    log.info("console_opened")
    why = TransportClosed(CloseCode.GOING_AWAY, "this process ends")
    try:
        agent_id = await services.compute.consoles.agent_of(admission.instance_id)
        async with services.hub.open_stream(agent_id, admission.kind, about) as stream:
            why = await Joint(user, stream, clock, limits).run(services.stopping)
    except KowabungaError as error:
        why = TransportClosed(CloseCode.INTERNAL, error.detail)
    finally:
        try:
            async with clock.timeout(_CLOSING_S):
                await user.close(why.code, why.reason)
        except TimeoutError:
            pass  # it does not read: the server cuts the connection
        log.info("console_closed", code=why.code, reason=why.reason)


class Joint:
    """Carries bytes between a user and a stream; neither is read ahead of the other."""

    def __init__(
        self, user: AsgiTransport, stream: ByteStream, clock: Clock, limits: ConsoleLimits
    ) -> None:
        self._user = user
        self._stream = stream
        self._clock = clock
        self._limits = limits
        self._moved = clock.monotonic()  # when the last bytes came, from either side

    async def run(self, stopping: asyncio.Event) -> TransportClosed:
        """Return why it ended: whatever comes first."""
        async with asyncio.TaskGroup() as group:
            works = (self._inwards(), self._outwards(), self._watch(), _until(stopping))
            tasks = [group.create_task(work) for work in works]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ended = [task.result() for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
        return ended[0]

    async def _inwards(self) -> TransportClosed:
        try:
            while True:
                data = await self._user.receive()
                self._moved = self._clock.monotonic()
                await self._stream.write(data)
        except TransportClosed as left:
            return left
        except Unavailable as broken:
            return TransportClosed(CloseCode.INTERNAL, broken.detail)

    async def _outwards(self) -> TransportClosed:
        try:
            while data := await self._stream.read():
                self._moved = self._clock.monotonic()
                await self._user.send(data)
        except TransportClosed as left:
            return left
        except Unavailable as broken:
            return TransportClosed(CloseCode.INTERNAL, broken.detail)
        return TransportClosed(CloseCode.NORMAL, "the console has ended")

    async def _watch(self) -> TransportClosed:
        limits, end = self._limits, self._clock.monotonic() + self._limits.longest_s
        while (now := self._clock.monotonic()) < end:
            idle_s = now - self._moved
            if idle_s >= limits.idle_s:
                return TransportClosed(CloseCode.NORMAL, f"no byte came for {idle_s:.0f} s")
            await self._clock.sleep(min(end - now, limits.idle_s - idle_s))
        return TransportClosed(CloseCode.NORMAL, f"it was open for {limits.longest_s:.0f} s")


async def _until(stopping: asyncio.Event) -> TransportClosed:
    await stopping.wait()
    return TransportClosed(CloseCode.GOING_AWAY, "this Kahuna stops")
