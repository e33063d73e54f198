"""Who may call a route: each one declares it, and a request is judged by that declaration.

Never by the text of the URL. A route that declares nothing is closed.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, cast

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler

from appliance.core.errors import Forbidden, Unauthenticated
from appliance.model.access import Allow
from appliance.model.principal import Principal, PrincipalKind
from appliance.resources.user import UserRole

ALLOW: Final = "allow"
_ROLE: Final = "role"  # in scope["state"]: found once, by the guard
_SUPER_ADMINS: Final = frozenset({PrincipalKind.MASTER, PrincipalKind.LOCAL})


class RoleFor(Protocol):
    def __call__(self, user_id: str, allow: Allow, path: Mapping[str, str]) -> Awaitable[UserRole]:
        """Return the role by which a user may call a route; raises Forbidden if none."""
        ...


def allow(who: Allow) -> Mapping[str, Any]:  # Any: the type that Litestar gives to `opt`
    """Return the `opt` of a route that `who` may call."""
    return {ALLOW: who}


def principal_of(scope: object) -> Principal | None:
    """Return whom the edge found behind the request of this scope."""
    return cast("Mapping[str, Principal | None]", scope).get("user")


def was_routed(scope: object) -> bool:
    """Tell whether the framework has found a route for this scope."""
    return "route_handler" in cast("Mapping[str, object]", scope)


def role_of(scope: object) -> UserRole:
    """Return the role by which the guard let somebody in."""
    role = _state(scope)[_ROLE]
    assert isinstance(role, UserRole)
    return role


Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]


def guard_by(role_for: RoleFor) -> Guard:
    """Return the guard of all routes; `role_for` decides about users."""

    async def guard(
        connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
    ) -> None:
        """Refuse the caller whom the route did not declare; runs before anything is parsed.

        A coroutine, because Litestar calls a plain function in a thread, for every request.

        Raises:
            Unauthenticated: no valid credential.
            Forbidden: a valid one that does not suffice.
        """
        scope = connection.scope
        principal = principal_of(scope)
        who: Allow | None = handler.opt.get(ALLOW)
        if who is None and cast("Mapping[str, Any]", scope).get("method") == "OPTIONS":
            who = Allow.AUTHENTICATED  # made by the framework: tells the methods of a path
        if who is Allow.ANYONE:
            return
        if who is None:
            raise Forbidden(f"{principal or 'nobody'} may not do this")
        if principal is None:
            raise Unauthenticated(
                "no valid credential came with the request", hint="send the key as X-API-Key"
            )
        if principal.kind is PrincipalKind.USER:
            role = await role_for(principal.id, who, connection.path_params)
        elif principal.kind in _SUPER_ADMINS:
            role = UserRole.SUPER_ADMIN
        else:
            raise Forbidden(f"{principal} may not do this")
        _state(scope)[_ROLE] = role

    return guard


def _state(scope: object) -> dict[str, object]:
    return cast("dict[str, dict[str, object]]", scope).setdefault("state", {})
