"""The outermost layer of the API: what holds for every request, before any route is looked for.

It names the request, finds out who asks (without deciding what they may), refuses foreign Host
headers and ambiguous paths, adds the security headers and writes the access log.
"""

from collections.abc import Awaitable, Iterable, Mapping
from typing import Final, Protocol, cast

import msgspec
import structlog

from appliance.api.asgi import AsgiApp, Message, Receive, Scope, Send
from appliance.api.problems import Malformed, answer
from appliance.core.clock import Clock
from appliance.core.errors import NotFound, Unauthenticated
from appliance.core.ids import new_id
from appliance.core.logs import bound
from appliance.model.principal import Principal

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)

_REQUEST_ID: Final = "request_id"  # in scope["state"], for handlers and error answers

_SECURITY_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Authenticate(Protocol):
    def __call__(self, scope: Scope) -> Awaitable[Principal | None]:
        """Return who sent the request; None: no credential, or not a valid one.

        Raises:
            Unavailable: the store cannot tell now.
        """
        ...


class Edge:
    """ASGI application around the API, one per listener.

    `hosts`: the names that a Host header may have (without port); None: any. A listener on a
    loopback address wants them, or a web page could reach it by DNS rebinding.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        authenticate: Authenticate,
        hosts: frozenset[str] | None,
        clock: Clock,
    ) -> None:
        self._app = app
        self._authenticate = authenticate
        self._hosts = hosts
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request_id = new_id()
            with bound(request_id=request_id):
                await self._http(scope, receive, send, request_id)
        elif scope["type"] == "websocket" and not self._is_own_host(scope["headers"]):
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "unknown host"})
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started = self._clock.monotonic()
        status = 0

        async def send_decorated(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    # A page with a style of its own has a policy of its own.
                    *(header for header in _SECURITY_HEADERS if header[0] not in own),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        principal: Principal | None = None
        try:
            principal = await self._authenticate(scope)
            self._refuse_ambiguous(scope, principal)
            inner = {**scope, "user": principal, "auth": None}
            inner["state"] = {**scope.get("state", {}), _REQUEST_ID: request_id}
            if scope["method"] == "HEAD":
                inner["method"] = "GET"  # the server leaves the body out
            await self._app(inner, receive, send_decorated)
        except Exception as error:
            if status:
                raise  # too late for an answer: the server cuts the connection
            await _send_problem(error, request_id, send_decorated)
        finally:
            log = _log.debug if scope["path"] == "/healthz" else _log.info
            log(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                principal=str(principal),
                duration_ms=round((self._clock.monotonic() - started) * 1000, 1),
            )

    def _refuse_ambiguous(self, scope: Scope, principal: Principal | None) -> None:
        """Refuse what two readers could understand in two ways, before any router does.

        Raises:
            Malformed: the Host header names somebody else.
            NotFound: an empty segment, a slash at the end, an encoded slash.
        """
        if not self._is_own_host(scope["headers"]):
            raise Malformed("the Host header names a host that is not served here")
        path = scope["path"]
        if "//" in path or (len(path) > 1 and path.endswith("/")) or _has_encoded_slash(scope):
            if principal is None:
                raise Unauthenticated("no valid credential came with the request")
            raise NotFound("no path here has an empty segment or a slash at its end")

    def _is_own_host(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        if self._hosts is None:
            return True
        values = [value for name, value in headers if name == b"host"]
        return len(values) == 1 and host_name(values[0].decode("latin-1")) in self._hosts


def request_id_of(scope: object) -> str:
    """Return the name that the edge gave to the request of this scope."""
    state = cast("Mapping[str, Mapping[str, str]]", scope).get("state", {})
    return state.get(_REQUEST_ID, "unknown")


def host_name(authority: str) -> str:
    """Return the host of "host:port" or "[address]:port", in lower case."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.partition(":")[0].lower()


def _has_encoded_slash(scope: Scope) -> bool:
    return b"%2f" in bytes(scope.get("raw_path") or b"").lower()


async def _send_problem(error: Exception, request_id: str, send: Send) -> None:
    refusal = answer(error, request_id)
    body = msgspec.json.encode(refusal.body)
    headers = [
        (name.lower().encode(), value.encode("latin-1")) for name, value in refusal.headers.items()
    ]
    headers += [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": refusal.body.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
