"""Whatever is sent: never a 500, never a traceback, always our three keys."""

from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.faults import What, Where, breaks
from tests.support.fuzz import JSON, budget

_SETTINGS = budget(60)
_PATHS = ["/api/ext/v1/agents", "/api/ext/v1/recovery/export", "/api/ext/v1/settings/smtp.port"]

_BODIES = [
    b"",
    b"null",
    b"{",
    b"[]",
    b'"text"',
    b"1e999",
    b"NaN",
    b'{"name": NaN}',
    b'{"name": "a", "name": "b", "type": "Kaktus"}',
    b'{"name": "\\ud800", "type": "Kaktus"}',
    b'{"name": "\xff\xfe", "type": "Kaktus"}',
    b'{"name": "\\u0000", "type": "Kaktus"}',
    b'{"name": 1, "type": "Kaktus"}',
    b'{"name": "a", "type": "Kahuna"}',
    b'{"name": "a", "type": "Kaktus", "public_key": "%%%"}',
    b'{"name": "a", "type": "Kaktus", "public_key": ""}',
    b'{"name": "a", "type": "Kaktus", "public_key": "AAAA"}',
    b'{"value": 99999999999999999999999999}',
    b'{"value": -1}',
    b'{"value": {"a": [1, 2, {"b": null}]}}',
    b'{"value":' + b"[" * 60 + b"]" * 60 + b"}",
    b'{"value":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b"[" * 1_000_000,
    b'{"a":' * 200_000,
    b'{"passphrase": ""}',
    b'{"passphrase": "short"}',
    b"\xef\xbb\xbf{}",
    b"\x00" * 1000,
]


def check(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text
    if answer.status_code >= 400:
        assert set(answer.json()) == {"status", "error", "reason"}
        assert answer.json()["status"] == answer.status_code


@breaks(
    What.INPUT,
    "bodies that are no JSON, odd JSON, nested a million deep, or just any bytes",
    expected="refused with our three keys, never a 500 or a traceback",
    where=Where.HOST,
)
@pytest.mark.parametrize("path", _PATHS)
async def test_odd_bodies(master: httpx.AsyncClient, path: str) -> None:
    method = "PUT" if "settings" in path else "POST"
    for body in _BODIES:
        check(
            await master.request(
                method, path, content=body, headers={"content-type": "application/json"}
            )
        )


@breaks(
    What.INPUT,
    "paths and queries that are encoded twice, climb, are endless or hold control characters",
    expected="refused, never a 500 or a traceback",
    where=Where.HOST,
)
@pytest.mark.parametrize(
    "path",
    [
        "/api/ext/v1/agents/%00",
        "/api/ext/v1/agents/%2e%2e",
        "/api/ext/v1/agents/%2e%2e%2f%2e%2e%2fetc",
        "/api/ext/v1/agents/..%5c..",
        "/api/ext/v1/agents/%ff%fe",
        "/api/ext/v1/agents/%ed%a0%80",
        "/api/ext/v1/agents/' OR 1=1",
        "/api/ext/v1/agents/" + "a" * 20_000,
        "/api/ext/v1/operations/../agents",
        "/api/ext/v1/operations/%F0%9F%92%A3/watch",
        "/api/ext/v1/settings/%0d%0aSet-Cookie:x",
        "/api/ext/v1/operations?limit=0",
        "/api/ext/v1/operations?limit=x&limit=1",
        "/api/ext/v1/operations?limit=99999999999999999999999",
        "/api/ext/v1/operations?unfinished=maybe",
        "/api/ext/v1/operations?unknown=1&%00=%ff",
        "/api/ext/v1/operations?" + "a=b&" * 5000,
        "/api/ext/v1/alarms?kind=%00",
        "/api/ext/v1/%zz",
    ],
)
async def test_odd_paths(master: httpx.AsyncClient, path: str) -> None:
    url = httpx.URL("http://kahuna").copy_with(raw_path=path.encode().replace(b" ", b"%20"))
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
        answer = await master.request(method, url)
        assert answer.status_code < 500, (method, answer.text)
        assert "Traceback" not in answer.text


@breaks(
    What.INPUT,
    "bodies that are no JSON, odd JSON, nested a million deep, or just any bytes",
    expected="refused with our three keys, never a 500 or a traceback",
    where=Where.HOST,
)
@_SETTINGS
@given(body=st.binary(max_size=200), path=st.sampled_from(_PATHS))
async def test_any_bytes(master: httpx.AsyncClient, body: bytes, path: str) -> None:
    method = "PUT" if "settings" in path else "POST"
    check(
        await master.request(
            method, path, content=body, headers={"content-type": "application/json"}
        )
    )


@breaks(
    What.INPUT,
    "any JSON as the value of a setting",
    expected="refused in one line, or read the same whenever it is read again",
    where=Where.HOST,
)
@_SETTINGS
@given(value=JSON, name=st.text(min_size=1, max_size=20))
async def test_any_setting(master: httpx.AsyncClient, value: object, name: str) -> None:
    for setting in ("smtp.port", "kahuna.names", "public_url", "smtp.password"):
        check(await master.put(f"/api/ext/v1/settings/{setting}", json={"value": value}))
    check(await master.get("/api/ext/v1/settings/" + quote(name, safe="")))
