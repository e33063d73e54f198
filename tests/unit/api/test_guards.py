import re

import pytest
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from appliance.api.app import create_app
from appliance.api.guards import ALLOW, Allow, is_allowed
from appliance.api.services import Services
from appliance.core.errors import Unauthenticated
from appliance.model.principal import MASTER, Principal, PrincipalKind, local_principal
from tests.unit.api.conftest import client_as

_USER = Principal(PrincipalKind.USER, "0" * 24)
_AGENT = Principal(PrincipalKind.AGENT, "0" * 24)


def handlers(app: Litestar) -> list[tuple[str, str, HTTPRouteHandler]]:
    """Return (method, path, handler) of every HTTP route but the framework's own OPTIONS."""
    return [
        (method, route.path, handler)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in sorted(handler.http_methods)
        if method != "OPTIONS"
    ]


async def test_every_route_declares_who_may_call_it(services: Services) -> None:
    app = create_app(services)
    silent = [(method, path) for method, path, handler in handlers(app) if ALLOW not in handler.opt]
    assert len(handlers(app)) > 20
    assert silent == []


async def test_only_the_health_check_and_the_page_about_the_api_are_open_to_anyone(
    services: Services,
) -> None:
    app = create_app(services)
    opened = [path for _, path, handler in handlers(app) if handler.opt[ALLOW] is Allow.ANYONE]
    assert opened == ["/docs", "/healthz"]  # a browser sends no key, and the page tells no state


@pytest.mark.parametrize("principal", [None, _USER, _AGENT, MASTER, local_principal(0)], ids=str)
async def test_each_route_admits_exactly_whom_it_declares(
    services: Services, principal: Principal | None
) -> None:
    outcomes: dict[tuple[str, str], str] = {}
    expected: dict[tuple[str, str], str] = {}
    async with client_as(services, principal) as client:
        for method, path, handler in handlers(create_app(services)):
            if path.startswith("/api/v1"):
                continue  # the contract's routes have a table of their own
            url = re.sub(r"\{[^}]*\}", "f" * 24, path)
            status = (await client.request(method, url)).status_code
            outcomes[method, path] = {401: "unauthenticated", 403: "forbidden"}.get(
                status, "admitted"
            )
            expected[method, path] = _expected(handler.opt[ALLOW], principal)
    assert outcomes == expected


def _expected(who: Allow, principal: Principal | None) -> str:
    if who is Allow.ANYONE:
        return "admitted"
    if principal is None:
        return "unauthenticated"
    is_admin = principal.kind in {PrincipalKind.MASTER, PrincipalKind.LOCAL}
    return "admitted" if who is Allow.AUTHENTICATED or is_admin else "forbidden"


def test_a_stranger_is_told_to_authenticate_rather_than_that_it_is_forbidden() -> None:
    assert is_allowed(Allow.ANYONE, None)
    with pytest.raises(Unauthenticated):
        is_allowed(Allow.AUTHENTICATED, None)


async def test_a_refused_caller_is_refused_before_the_body_is_read(services: Services) -> None:
    for principal, status in ((None, 401), (_USER, 403)):
        async with client_as(services, principal) as client:
            for content in (b"{", b"x" * 8_000_000):
                answer = await client.post("/api/ext/v1/agents", content=content)
                assert answer.status_code == status
