from collections.abc import AsyncGenerator
from http import HTTPStatus

import httpx
import pytest

_KEYS = {"status", "error", "reason"}


async def test_every_answer_carries_a_request_id_and_the_security_headers(
    stranger: httpx.AsyncClient,
) -> None:
    first = await stranger.get("/healthz")
    second = await stranger.get("/nothing")
    for answer in (first, second):
        assert len(answer.headers["x-request-id"]) == 24
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["content-type"].startswith("application/json")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_a_client_cannot_choose_the_request_id(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.get("/healthz", headers={"x-request-id": "mine"})
    assert answer.headers.get_list("x-request-id") != ["mine"]


async def test_health_hides_the_version_from_strangers(
    stranger: httpx.AsyncClient, master_key: str
) -> None:
    assert (await stranger.get("/healthz")).json() == {"status": "ok", "store": "ok"}
    known = await stranger.get("/healthz", headers={"x-api-key": master_key})
    assert "version" in known.json()


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/api", "/api/v1/nothing", "/api/ext/v1/agents/x/y/z", "/schema"]
)
async def test_a_stranger_learns_nothing_of_which_paths_exist(
    stranger: httpx.AsyncClient, master_key: str, path: str
) -> None:
    unknown = await stranger.get(path)
    assert unknown.status_code == HTTPStatus.UNAUTHORIZED
    known = await stranger.get("/api/ext/v1/agents")
    assert known.json()["reason"].startswith("no valid credential")
    assert unknown.json()["reason"].startswith("no valid credential")
    answer = await stranger.get(path, headers={"x-api-key": master_key})
    assert answer.status_code == HTTPStatus.NOT_FOUND
    assert set(answer.json()) == _KEYS


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-api-key", "")],
        [("x-api-key", "kwb_" + "A" * 43)],
        [("x-api-key", "' OR 1=1 --")],
        [("x-api-key", "\xff" * 50)],
        [("x-api-key", "KEY"), ("x-api-key", "KEY")],
        [("authorization", "Bearer KEY")],
    ],
)
async def test_without_exactly_one_valid_key_nobody_is_known(
    stranger: httpx.AsyncClient, master_key: str, headers: list[tuple[str, str]]
) -> None:
    sent = [
        (name.encode(), value.replace("KEY", master_key).encode("latin-1"))
        for name, value in headers
    ]
    answer = await stranger.get("/api/ext/v1/agents", headers=sent)
    assert answer.status_code == HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize("host", ["evil.example", "kahuna.evil.example", "", "127.0.0.1.evil"])
async def test_a_foreign_host_header_is_refused(master: httpx.AsyncClient, host: str) -> None:
    answer = await master.get("/healthz", headers={"host": host})
    assert answer.status_code == HTTPStatus.BAD_REQUEST
    assert set(answer.json()) == _KEYS


@pytest.mark.parametrize("host", ["kahuna", "kahuna:8080", "KAHUNA"])
async def test_our_own_host_is_served_on_any_port(master: httpx.AsyncClient, host: str) -> None:
    answer = await master.get("/healthz", headers={"host": host})
    assert answer.status_code == HTTPStatus.OK


@pytest.mark.parametrize(
    "path",
    [
        "/api/ext/v1/agents/",
        "//api/ext/v1/agents",
        "/api/ext/v1//agents",
        "/api//ext/v1/agents",
        "/api/ext/v1%2fagents",
        "/api/ext/v1%2Fagents",
        "/api/ext/v1/agents//log",
    ],
)
async def test_an_ambiguous_path_leads_nowhere(
    stranger: httpx.AsyncClient, master_key: str, path: str
) -> None:
    url = httpx.URL("http://kahuna").copy_with(raw_path=path.encode())
    assert (await stranger.get(url)).status_code == HTTPStatus.UNAUTHORIZED
    answer = await stranger.get(url, headers={"x-api-key": master_key})
    assert answer.status_code == HTTPStatus.NOT_FOUND


async def test_a_wrong_method_is_told_with_those_that_are_right(
    master: httpx.AsyncClient,
) -> None:
    answer = await master.delete("/api/ext/v1/agents")
    assert answer.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    assert set(answer.json()) == _KEYS
    assert set(answer.headers["allow"].replace(" ", "").split(",")) >= {"GET", "POST"}


async def test_head_answers_like_get(master: httpx.AsyncClient) -> None:
    got = await master.get("/api/ext/v1/agents")
    headed = await master.head("/api/ext/v1/agents")
    assert headed.status_code == got.status_code
    assert headed.headers["content-length"] == got.headers["content-length"]


async def test_options_is_answered_to_those_who_are_known(
    stranger: httpx.AsyncClient, master_key: str
) -> None:
    assert (await stranger.options("/api/ext/v1/agents")).status_code == HTTPStatus.UNAUTHORIZED
    answer = await stranger.options("/api/ext/v1/agents", headers={"x-api-key": master_key})
    assert answer.status_code == HTTPStatus.NO_CONTENT
    assert "OPTIONS" in answer.headers["allow"]


async def test_a_body_must_say_that_it_is_json(master: httpx.AsyncClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = await master.put(
            "/api/ext/v1/settings/smtp.port",
            content=b'{"value": 25}',
            headers={"content-type": kind},
        )
        assert answer.status_code == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        assert set(answer.json()) == _KEYS


async def test_a_body_that_is_too_large_is_refused(master: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}

    async def endless() -> AsyncGenerator[bytes]:
        for _ in range(200):
            yield b" " * 65536

    for content in (b" " * 5_000_000, endless()):
        answer = await master.put(
            "/api/ext/v1/settings/smtp.port",
            content=content,
            headers=headers,
        )
        assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert set(answer.json()) == _KEYS
