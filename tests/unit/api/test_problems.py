import io
import json
from collections.abc import Generator
from typing import Annotated

import httpx
import msgspec
import pytest
from litestar import Litestar, get, post
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta

from appliance.api import problems
from appliance.api.app import on_error
from appliance.api.guards import allow
from appliance.api.problems import Malformed, answer
from appliance.api.requests import ApiRequest
from appliance.core import errors
from appliance.core.errors import KowabungaError
from appliance.model.access import Allow
from tests.support.logs import captured_logs

_STATUS = {
    errors.Invalid: 422,
    Malformed: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Busy: 409,
    errors.Cancelled: 409,
    errors.Stale: 412,
    errors.InsufficientResource: 507,
    errors.Unavailable: 503,
    errors.DriverError: 503,
    errors.DeadlineExceeded: 504,
    errors.Corrupt: 500,
}


@pytest.fixture
def log() -> Generator[io.StringIO]:
    with captured_logs() as stream:
        yield stream


@pytest.mark.parametrize("kind", _STATUS)
def test_each_error_has_its_status_and_the_three_keys(kind: type[KowabungaError]) -> None:
    body = answer(kind("agent a1 failed", hint="try b"), "r1").body
    assert body.status == _STATUS[kind]
    assert set(msgspec.to_builtins(body)) == {"status", "error", "reason"}
    if body.status != 500:
        assert body.reason == "agent a1 failed (try b)"


def test_every_error_class_has_a_status() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, KowabungaError)
    ]
    assert set(kinds) - set(_STATUS) == {KowabungaError}


def test_an_unavailable_server_says_when_to_come_back() -> None:
    refusal = answer(errors.Unavailable("no leader"), "r1")
    assert refusal.headers == {"Retry-After": str(problems.RETRY_AFTER_S)}


def test_a_bug_is_logged_once_with_its_traceback_and_tells_only_the_request(
    log: io.StringIO,
) -> None:
    try:
        raise ZeroDivisionError("secret detail")  # noqa: TRY301
    except ZeroDivisionError as bug:
        body = answer(bug, "r42").body
    assert body.status == 500
    assert "r42" in body.reason
    assert "secret detail" not in body.reason
    (line,) = [json.loads(line) for line in log.getvalue().splitlines()]
    assert line["event"] == "request_failed"
    assert "ZeroDivisionError: secret detail" in line["exception"]


class _Size(msgspec.Struct, forbid_unknown_fields=True):
    bytes: Annotated[int, Meta(ge=1)]
    unit: str = "b"


@post("/", opt=allow(Allow.ANYONE))
async def _take(data: JSONBody[_Size]) -> _Size:
    return data


@get("/", opt=allow(Allow.ANYONE))
async def _count(limit: Annotated[int, QueryParameter(ge=1)] = 1) -> int:
    return limit


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"bytes": 1}', 201),
        (b"{", 400),
        (b"\xff", 400),
        (b"", 400),
        (b"null", 400),
        (b"[]", 400),
        (b'{"bytes": "1"}', 400),
        (b'{"bytes": 1, "colour": 1}', 400),
        (b'{"bytes": 1, "unit": null}', 400),
        (b"{}", 422),
        (b'{"bytes": 0}', 400),
        (b"[" * 100_000, 400),
        (b'{"bytes": 1, "unit":' + b"[" * 100 + b"]" * 100 + b"}", 400),
    ],
)
async def test_what_cannot_be_read_is_400_and_what_cannot_be_done_422(
    body: bytes, status: int
) -> None:
    app = Litestar(
        [_take, _count],
        exception_handlers={Exception: on_error},
        request_class=ApiRequest,
        openapi_config=None,
        logging_config=None,
    )
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type] # Litestar's own ASGI types
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answered = await client.post(
            "/", content=body, headers={"content-type": "application/json"}
        )
        assert answered.status_code == status, answered.text
        assert (await client.get("/?limit=0")).status_code == 400
        assert (await client.get("/?limit=x")).status_code == 400
