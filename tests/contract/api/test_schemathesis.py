"""Requests made up from the contract: every answer is one that the contract knows.

The contract is our copy of the upstream document, never the document that is served. Beyond it
only 503 and 504 may be answered. Much of what is sent is plausible, with ids that exist, or hardly
a request would get past the rules. All goes to one real server whose nodes are simulated.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, CheckFunction, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from appliance.api.v1.routes import ROUTES
from tests.contract.api import contract
from tests.support.faults import What, Where, breaks
from tests.support.furnish import GIB, LISTS, Api, furnish
from tests.support.simulation import simulation

Json = Any  # a JSON document
AnyCase = Case[Any]
AnyOperation = APIOperation[Any, Any, Any, Any]

_EXAMPLES: Final = 4  # of each operation and mode; the long run has many more
_LONG_EXAMPLES: Final = 150
_ORDER: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")  # what is needed goes last
_FURTHER_STATUSES: Final = ("503", "504")
_CHECKS: Final[list[CheckFunction]] = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
_NAMES: Final = st.from_regex(r"\A[a-z][a-z0-9-]{0,8}[a-z0-9]\Z")
_OCTETS: Final = st.integers(0, 255)


def openapi() -> dict[str, Json]:
    """Return the reduced contract as a whole OpenAPI document, as far as it is served."""
    served = {f"{route.method} {route.path}" for route in ROUTES}
    paths: dict[str, dict[str, Json]] = {}
    for key, operation in contract.load()["operations"].items():
        method, _, path = key.partition(" ")
        if key in served:
            paths.setdefault(path, {})[method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "the contract", "version": contract.load()["version"]},
        "paths": paths,
        "components": {
            "schemas": {name: _schema(each) for name, each in contract.load()["schemas"].items()}
        },
    }


def _operation(operation: contract.Schema) -> dict[str, Json]:
    found: dict[str, Json] = {
        "operationId": operation["id"],
        "parameters": [
            {
                **{key: parameter[key] for key in ("in", "name", "required")},
                "schema": {k: v for k, v in parameter.items() if k in ("type", "format")},
            }
            for parameter in operation["parameters"]
        ],
        "responses": {
            status: {"description": status, **_content(body)}
            for status, body in operation["responses"].items()
        },
    }
    for status in _FURTHER_STATUSES:
        found["responses"][status] = {
            "description": status,
            **_content({"application/json": "ApiErrorNotFound"}),
        }
    if operation["request"] is not None:
        found["requestBody"] = {"required": True, **_content(operation["request"])}
    return found


def _content(body: Mapping[str, str] | None) -> dict[str, Json]:
    if body is None:
        return {}
    return {
        "content": {
            kind: {"schema": {"$ref": f"#/components/schemas/{name}"}}
            for kind, name in body.items()
        }
    }


def _schema(schema: contract.Schema) -> dict[str, Json]:
    found = dict(schema)
    if "ref" in found:
        return {"$ref": f"#/components/schemas/{found['ref']}"}
    if "items" in found:
        found["items"] = _schema(found["items"])
    if "properties" in found:
        found["properties"] = {name: _schema(each) for name, each in found["properties"].items()}
        found["additionalProperties"] = False  # the clients refuse what they do not know
    return found


class _Plausible:
    """Replaces made-up values by such as may pass the rules, with ids that exist now."""

    def __init__(self, ids: Mapping[str, list[str]]) -> None:
        self._ids = ids

    def path(self, data: st.DataObject, case: AnyCase) -> None:
        for name in case.path_parameters or {}:
            known = self._ids.get(name)
            if known and data.draw(st.integers(0, 3)):
                case.path_parameters[name] = data.draw(st.sampled_from(known))

    def body(self, data: st.DataObject, body: Json) -> Json:
        if not isinstance(body, dict):
            return body
        octet = data.draw(_OCTETS)
        known = {
            "name": _NAMES,
            "description": _NAMES,
            "domain": st.just("example.org"),
            "cidr": st.just(f"10.{octet}.0.0/20"),
            "gateway": st.just(f"10.{octet}.0.1"),
            "dns": st.just(""),
            "source": st.just("https://images.example/a.qcow2"),
            "mac": st.just(""),
            "addresses": st.just([]),
            "reserved": st.just([]),
            "gw_pool": st.just([]),
            "extra_routes": st.just([]),
            "tags": st.lists(_NAMES, max_size=2, unique=True),
            "metadatas": st.just([]),
            "vlan": st.integers(0, 4094),
            "interface": st.just("br7"),
            "vcpus": st.integers(1, 4),
            "memory": st.sampled_from((GIB, 2 * GIB)),
            "disk": st.sampled_from((GIB, 2 * GIB)),
            "data_disk": st.sampled_from((0, GIB)),
            "size": st.sampled_from((GIB, 2 * GIB)),
            "bootstrap_user": st.just(""),
            "bootstrap_pubkey": st.just(""),
            "users": st.just([]),
            **{
                field: st.lists(st.sampled_from(ids), max_size=1) if ids else st.just([])
                for field, parameter in _REFERENCES.items()
                for ids in [self._ids[parameter]]
            },
        }
        return {
            name: data.draw(known[name])
            if name in known and data.draw(st.integers(0, 9))
            else value
            for name, value in body.items()
        }


_REFERENCES: Final = {
    "agents": "agentId",
    "teams": "teamId",
    "regions": "regionId",
    "volumes": "volumeId",
    "adapters": "adapterId",
}


@dataclass(frozen=True, slots=True)
class _Explorer:
    """Sends made-up requests to one server, and collects what is wrong with the answers."""

    url: str
    session: requests.Session
    examples: int
    wrong: list[str] = field(default_factory=list[str])

    def explore(self, operation: AnyOperation, mode: GenerationMode, plausible: _Plausible) -> None:
        @settings(
            max_examples=self.examples,
            database=None,
            deadline=None,
            derandomize=True,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
        )
        @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
        def send(case: AnyCase, data: st.DataObject) -> None:
            if mode is GenerationMode.POSITIVE and data.draw(st.integers(0, 3)):
                plausible.path(data, case)
                case.body = plausible.body(data, case.body)
            answer = case.call(base_url=f"{self.url}/api/v1", session=self.session, timeout=30)
            try:
                case.validate_response(answer, checks=_CHECKS)
            except FailureGroup as failures:
                self.wrong.extend(f"{operation.label}: {each}" for each in failures.exceptions)

        if mode is GenerationMode.NEGATIVE:
            with suppress(Unsatisfiable):  # nothing about it could be wrong
                send()
        else:
            send()


def _findings(client: httpx.Client) -> list[str]:
    """Return what `state verify` tells at rest: a bridge goes a moment after its last machine."""
    end = time.monotonic() + 60
    while True:
        findings: list[str] = client.post("/api/ext/v1/state/verify").json()["findings"]
        if not findings or time.monotonic() > end:
            return findings
        time.sleep(0.2)


def _explore(directory: Path, examples: int) -> list[str]:
    document = schemathesis.openapi.from_dict(openapi())
    operations = [result.ok() for result in document.get_all_operations() if isinstance(result, Ok)]
    operations.sort(key=lambda operation: _ORDER.index(operation.method.upper()))
    assert len(operations) == len(ROUTES)
    with simulation(directory, nodes=2) as server, server.client() as client:
        api = Api(client)
        furnish(api)
        with requests.Session() as session:
            session.trust_env = False
            session.headers["X-API-Key"] = client.headers["x-api-key"]
            explorer = _Explorer(server.url, session, examples)
            for operation in operations:
                plausible = _Plausible({name: api.get(path) for name, path in LISTS.items()})
                for mode in GenerationMode:
                    explorer.explore(operation, mode, plausible)
        findings = _findings(client)
        assert "request_failed" not in server.log.read_text(), server.log
    return explorer.wrong + findings


@breaks(
    What.INPUT,
    "requests made up from the contract, that fit it and that do not, of every operation",
    expected="an answer that the contract knows, never a 500",
    where=Where.SIMULATED,
)
@pytest.mark.timeout(600)
def test_every_answer_is_one_that_the_contract_knows(tmp_path: Path) -> None:
    assert _explore(tmp_path, _EXAMPLES) == []


@breaks(
    What.INPUT,
    "thousands of requests made up from the contract",
    expected="an answer that the contract knows, never a 500",
    where=Where.SIMULATED,
    long=True,
)
@pytest.mark.timeout(3600)
def test_every_answer_is_one_that_the_contract_knows_at_length(tmp_path: Path) -> None:
    assert _explore(tmp_path, _LONG_EXAMPLES) == []
