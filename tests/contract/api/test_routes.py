"""What the application serves equals the contract, both ways, and so does the served document.

The routes are read from the application itself, as its router knows them.
"""

import json
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
import pytest_asyncio
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from appliance.api.app import as_asgi, create_app
from appliance.api.authenticate import by_credential
from appliance.api.edge import Edge
from appliance.api.guards import ALLOW
from appliance.api.services import Services
from appliance.api.v1.route import ROUTE, Route
from appliance.core.clock import SystemClock
from appliance.model.access import Allow
from appliance.roles.kahuna import KahunaConfig, open_kahuna
from tests.contract.api import contract
from tests.contract.api.reduce_contract import reduce

_PREFIX: Final = "/api/v1"
_DOCUMENT: Final = "GET /openapi.json"
_IDS: Final = "ObjectIds"
# The only statuses that may be answered beyond the contract.
_FURTHER_STATUSES: Final = {"503", "504"}
_FURTHER_SCHEMAS: Final = {"ApiErrorUnavailable", "ApiErrorDeadlineExceeded"}

# Operations that are not built yet, by kind: building one shortens the list.
_NOT_YET: Final[Mapping[str, str]] = {
    "kawaii": """
        CreateKawaiiIpSec CreateProjectRegionKawaii DeleteKawaii DeleteKawaiiIpSec
        ListKawaiiIpSecs ListKawaiis ListProjectRegionKawaiis ReadKawaii ReadKawaiiIpSec
        UpdateKawaii UpdateKawaiiIpSec
    """,
    "konvey": """
        CreateProjectRegionKonvey CreateProjectZoneKonvey DeleteKonvey ListKonveys
        ListProjectRegionKonveys ListProjectZoneKonveys ReadKonvey UpdateKonvey
    """,
    "kylo": """
        CreateProjectRegionKylo DeleteKylo ListKylos ListProjectRegionKylos ListStorageNFSKylos
        ReadKylo UpdateKylo
    """,
    "nfs": """
        CreateStorageNFS DeleteStorageNFS ListRegionStorageNFSs ListStorageNFSs ReadStorageNFS
        SetRegionDefaultStorageNFS UpdateStorageNFS
    """,
    "record": """
        CreateProjectDnsRecord CreateRegionDnsRecord DeleteDnsRecord ListProjectDnsRecords
        ListRegionDnsRecords ReadDnsRecord UpdateDnsRecord
    """,
    "token": """
        DeleteApiToken ListApiTokens ReadApiToken SetUserApiToken UpdateApiToken
    """,
    "user": """
        ResetPassword ResetUserPassword
    """,
}


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncGenerator[Services]:
    config = KahunaConfig(
        state=tmp_path / "state", host="127.0.0.1", port=0, node_name="n1", plain=True
    )
    async with open_kahuna(config, SystemClock()) as kahuna:
        yield kahuna.services


@pytest.fixture
def app(services: Services) -> Litestar:
    return create_app(services)


@dataclass(frozen=True)
class _Served:
    """An operation as the router knows it, and what its handler was made from."""

    place: HTTPRoute
    handler: HTTPRouteHandler

    @property
    def route(self) -> Route:
        route = self.handler.opt[ROUTE]
        assert isinstance(route, Route)
        return route

    @property
    def structs(self) -> set[type[msgspec.Struct]]:
        return {
            struct
            for struct in (self.route.body, self.route.answer)
            if isinstance(struct, type) and issubclass(struct, msgspec.Struct)
        }

    def describe(self) -> contract.Schema:
        """Return the words of the reduced contract, without the refusals."""
        answer = self.route.answer
        schema = None if answer is None else _IDS if answer == list[str] else answer.__name__
        body = self.route.body
        return {
            "id": self.handler.operation_id,
            "tags": self.route.list_tags(),
            "parameters": [
                *(
                    {"in": "path", "name": name, "required": True, "type": "string"}
                    for name in sorted(self.place.path_parameters)
                ),
                *(
                    {"in": "query", "name": query.name, "required": False, **_TYPES[query.kind]}
                    for query in sorted(self.route.query, key=lambda query: query.name)
                ),
            ],
            "request": None if body is None else {"application/json": body.__name__},
            "responses": {
                str(self.route.success): (None if schema is None else {"application/json": schema})
            },
        }


def _served(app: Litestar) -> dict[str, _Served]:
    """Return all that the router has under the prefix, but the answers to OPTIONS."""
    return {
        f"{method} {_contract_path(route)}": _Served(route, handler)
        for route in app.routes
        if isinstance(route, HTTPRoute) and route.path_format.startswith(f"{_PREFIX}/")
        for handler in route.route_handlers
        for method in sorted(handler.http_methods - {"OPTIONS"})
    }


def _operations(app: Litestar) -> dict[str, _Served]:
    return {key: each for key, each in _served(app).items() if key != _DOCUMENT}


def _contract_path(route: HTTPRoute) -> str:
    return route.path_format.removeprefix(_PREFIX)


_TYPES: Final[Mapping[str, contract.Schema]] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
}


def _missing() -> set[str]:
    return {name for names in _NOT_YET.values() for name in names.split()}


def _wanted() -> dict[str, Any]:
    """Return the contract without what is not built yet."""
    operations = contract.load()["operations"]
    return {key: each for key, each in operations.items() if each["id"] not in _missing()}


def _successes(operation: contract.Schema) -> contract.Schema:
    responses = operation["responses"]
    return {**operation, "responses": {key: responses[key] for key in responses if key < "300"}}


def test_what_is_not_built_yet_is_in_the_contract() -> None:
    known = {each["id"] for each in contract.load()["operations"].values()}
    assert _missing() <= known


def test_every_served_route_is_in_the_contract_and_the_other_way_round(app: Litestar) -> None:
    assert sorted(_served(app)) == sorted({_DOCUMENT, *_wanted()})


def test_every_served_route_takes_and_answers_what_the_contract_says(app: Litestar) -> None:
    found = {key: operation.describe() for key, operation in _operations(app).items()}
    assert found == {key: _successes(operation) for key, operation in _wanted().items()}


def test_every_served_struct_equals_its_schema(app: Litestar) -> None:
    structs = set[type[msgspec.Struct]]().union(
        *(operation.structs for operation in _operations(app).values())
    )
    for struct in structs:
        name = struct.__name__
        assert contract.differences(name, contract.schema(name), struct) == []


def test_every_route_but_the_log_in_wants_a_credential_and_says_of_whom(app: Litestar) -> None:
    for key, served in _served(app).items():
        is_open = served.handler.opt[ALLOW] is Allow.ANYONE
        assert is_open == (key == "POST /login"), key


@pytest_asyncio.fixture
async def document(services: Services, app: Litestar, tmp_path: Path) -> contract.Schema:
    edge = Edge(
        as_asgi(app),
        authenticate=by_credential(services.api_keys, services.sessions),
        hosts=None,
        clock=services.clock,
    )
    key = (tmp_path / "state/master.key").read_text().strip()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=edge),
        base_url="http://kahuna",
        headers={"x-api-key": key},
    ) as client:
        answer = await client.get(f"{_PREFIX}/openapi.json")
    assert answer.status_code == 200
    found: contract.Schema = answer.json()
    return found


def test_the_served_document_equals_the_contract(document: contract.Schema) -> None:
    found = reduce(document)
    assert found["openapi"] == contract.load()["openapi"]
    assert found["version"] == contract.load()["version"]
    wanted = _wanted()
    assert sorted(found["operations"]) == sorted(wanted)
    for key, operation in found["operations"].items():
        further = operation["responses"].keys() & _FURTHER_STATUSES
        assert further == _FURTHER_STATUSES, key
        for status in further:
            del operation["responses"][status]
        assert operation == wanted[key], key


def test_the_schemas_of_the_served_document_equal_the_contract(document: contract.Schema) -> None:
    found = reduce(document)["schemas"]
    assert found.keys() >= _FURTHER_SCHEMAS
    for name in found.keys() - _FURTHER_SCHEMAS:
        assert found[name] == contract.schema(name), name
    used = json.dumps(document["paths"]) + json.dumps(document["components"])
    for name in re.findall(r"#/components/schemas/(\w+)", used):
        assert name in found


def test_the_served_document_refuses_unknown_fields_and_describes_each_field(
    document: contract.Schema,
) -> None:
    for name, schema in document["components"]["schemas"].items():
        if "properties" not in schema:
            continue
        assert schema["additionalProperties"] is False, name
        if not name.startswith("ApiError"):
            for member, described in schema["properties"].items():
                assert described.get("description"), f"{name}.{member}"


def test_the_served_document_asks_for_the_key_of_the_contract(document: contract.Schema) -> None:
    assert document["servers"] == [{"url": _PREFIX}]
    assert document["security"] == [{"ApiKeyAuth": []}, {"BearerAuth": []}]
    assert document["components"]["securitySchemes"]["ApiKeyAuth"]["name"] == "X-API-Key"
