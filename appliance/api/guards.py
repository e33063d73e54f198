"""Who may call a route: each one declares it, and a request is judged by that declaration.

Never by the text of the URL. A route that declares nothing is closed.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, cast

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler

from appliance.core.errors import Forbidden, Unauthenticated
from appliance.model.principal import Principal, PrincipalKind

ALLOW: Final = "allow"


class Allow(StrEnum):
    ANYONE = "anyone"  # also without a credential
    AUTHENTICATED = "authenticated"
    PROJECT_MEMBER = "project_member"  # of a team of the project that the object belongs to
    PROJECT_ADMIN = "project_admin"
    SUPER_ADMIN = "super_admin"


_SUPER_ADMINS: Final = frozenset({PrincipalKind.MASTER, PrincipalKind.LOCAL})


def allow(who: Allow) -> Mapping[str, Any]:  # Any: the type that Litestar gives to `opt`
    """Return the `opt` of a route that `who` may call."""
    return {ALLOW: who}


def principal_of(scope: object) -> Principal | None:
    """Return whom the edge found behind the request of this scope."""
    return cast("Mapping[str, Principal | None]", scope).get("user")


def was_routed(scope: object) -> bool:
    """Tell whether the framework has found a route for this scope."""
    return "route_handler" in cast("Mapping[str, object]", scope)


def is_allowed(who: Allow, principal: Principal | None) -> bool:
    """Decide.

    Raises:
        Unauthenticated: nobody is known and the route wants somebody.
    """
    if who is Allow.ANYONE:
        return True
    if principal is None:
        raise Unauthenticated(
            "no valid credential came with the request", hint="send the key as X-API-Key"
        )
    return who is Allow.AUTHENTICATED or principal.kind in _SUPER_ADMINS


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refuse the caller whom the route did not declare; runs before anything is parsed.

    A coroutine, because Litestar calls a plain function in a thread, for every request.

    Raises:
        Unauthenticated: no valid credential.
        Forbidden: a valid one that does not suffice.
    """
    principal = principal_of(connection.scope)
    who: Allow | None = handler.opt.get(ALLOW)
    if who is None and cast("Mapping[str, Any]", connection.scope).get("method") == "OPTIONS":
        who = Allow.AUTHENTICATED  # made by the framework: tells the methods of a path
    if who is None or not is_allowed(who, principal):
        raise Forbidden(f"{principal or 'nobody'} may not do this")
