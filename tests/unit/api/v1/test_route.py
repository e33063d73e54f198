"""How one line of the table of routes is served, whatever it calls."""

from typing import Any, Final

import httpx
import pytest

from appliance.api.app import as_asgi, create_app
from appliance.api.asgi import Scope
from appliance.api.edge import Edge
from appliance.api.services import Services
from appliance.api.v1.route import Call, Handler, Method, Query, Route, handler_of
from appliance.core.errors import Conflict
from appliance.model.access import Allow
from appliance.model.principal import MASTER, Principal
from appliance.resources.zone import Zone

_QUERY: Final = (
    Query("public", "boolean", "A flag"),
    Query("size", "integer", "A number"),
    Query("until", "date", "A day"),
    Query("poolId", "string", "An id"),
)


async def _ask(
    services: Services,
    call: Handler,
    method: Method,
    query: str = "",
    *,
    body: type[Zone] | None = None,
) -> httpx.Response:
    """Send one request to a route that calls `call`."""

    async def authenticate(scope: Scope) -> Principal:
        return MASTER

    path = "/a/{second}/b/{first}"
    route = Route(method, path, "Try", "a", call, who=Allow.SUPER_ADMIN, body=body, query=_QUERY)
    app = as_asgi(create_app(services, [handler_of(route)]))
    edge = Edge(app, authenticate=authenticate, hosts=None, clock=services.clock)
    transport = httpx.ASGITransport(app=edge, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://kahuna") as client:
        content = b'{"name": "z"}' if body else None
        return await client.request(method, f"/a/2/b/1{query}", content=content)


async def _echo(call: Call) -> dict[str, Any]:
    return {"path": call.path, "last": call.last_id, "query": dict(call.query)}


async def _conflict(_: Call) -> None:
    raise Conflict("somebody has it", hint="wait", id="x")


@pytest.mark.parametrize(
    ("method", "status"),
    [("GET", 422), ("POST", 409), ("PUT", 422), ("PATCH", 422), ("DELETE", 409)],
)
async def test_a_conflict_is_409_only_where_the_contract_has_it(
    services: Services, method: Method, status: int
) -> None:
    answer = await _ask(services, _conflict, method)
    assert answer.status_code == status
    assert answer.json()["reason"] == "somebody has it (wait)"


async def test_ids_come_in_the_order_of_the_path(services: Services) -> None:
    found = (await _ask(services, _echo, "PATCH")).json()
    assert list(found["path"].items()) == [("second", "2"), ("first", "1")]
    assert found["last"] == "1"


async def test_query_values_are_typed_and_absent_ones_are_none(services: Services) -> None:
    nothing = {"public": None, "size": None, "until": None, "poolId": None}
    assert (await _ask(services, _echo, "POST")).json()["query"] == nothing
    for query, values in (
        ("?public=true", {"public": True}),
        ("?public=false&size=-26", {"public": False, "size": -26}),
        ("?until=2030-01-02&poolId=%20x", {"until": "2030-01-02", "poolId": " x"}),
        ("?unknown=1", {}),
    ):
        answer = await _ask(services, _echo, "POST", query)
        assert answer.json()["query"] == nothing | values


@pytest.mark.parametrize(
    "query",
    ["?public=yes", "?public=True", "?public=", "?size=x", "?size=1.0", "?size=" + "9" * 30],
)
async def test_a_query_of_another_type_is_400_where_the_contract_has_it(
    services: Services, query: str
) -> None:
    for body, status in ((Zone, 400), (None, 422)):
        answer = await _ask(services, _echo, "POST", query, body=body)
        assert answer.status_code == status
        assert query[1:].partition("=")[0] in answer.json()["reason"]


async def test_a_list_ignores_queries(services: Services) -> None:
    answer = await _ask(services, _echo, "GET", "?public=yes&size=x")
    assert set(answer.json()["query"].values()) == {None}


@pytest.mark.parametrize(
    ("method", "status"),
    [("GET", 200), ("POST", 201), ("PUT", 200), ("PATCH", 200), ("DELETE", 200)],
)
async def test_success_has_the_status_of_the_contract_and_nothing_is_an_empty_body(
    services: Services, method: Method, status: int
) -> None:
    async def nothing(_: Call) -> None: ...

    answer = await _ask(services, nothing, method)
    assert (answer.status_code, answer.content) == (status, b"")
    assert answer.headers["content-type"] == "application/json"
