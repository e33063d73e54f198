"""The page for people: whole, alone, and allowed to be what it is."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import httpx
import pytest
import pytest_asyncio

from appliance.api.page_html import Api, render
from appliance.model.access import Allow


class Reader(HTMLParser):
    """Collects ids, links, what is loaded, and the texts of style and script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.inline: dict[str, str] = {}
        self.handlers: list[str] = []
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = {name: value or "" for name, value in attrs}
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.loaded += [given["src"]] if "src" in given else []
        self.loaded += [given["href"]] if tag == "link" else []
        self.handlers += [name for name in given if name.startswith("on") or name == "style"]
        self._within = tag

    def handle_data(self, data: str) -> None:
        if self._within in ("style", "script"):
            self.inline[self._within] = data
        self._within = ""


@pytest_asyncio.fixture
async def answer(stranger: httpx.AsyncClient) -> httpx.Response:
    return await stranger.get("/docs")


@pytest.fixture
def page(answer: httpx.Response) -> Reader:
    reader = Reader()
    reader.feed(answer.text)
    return reader


async def test_anybody_may_read_it(answer: httpx.Response) -> None:
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


async def test_it_lists_every_operation_of_both_documents(
    master: httpx.AsyncClient, page: Reader
) -> None:
    for anchor, path in (("v1", "/api/v1"), ("ext", "/api/ext/v1")):
        document = (await master.get(f"{path}/openapi.json")).json()
        named = {
            f"{anchor}-{operation['operationId']}"
            for operations in document["paths"].values()
            for operation in operations.values()
        }
        assert named <= set(page.ids)


async def test_every_link_leads_to_one_place_on_the_page(page: Reader) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


async def test_it_loads_nothing_and_runs_nothing_but_what_its_policy_names(
    answer: httpx.Response, page: Reader
) -> None:
    assert page.loaded == []
    assert page.handlers == []
    (policy,) = answer.headers.get_list("content-security-policy")
    assert policy.startswith("default-src 'none'; ")
    for kind, text in page.inline.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert page.inline.keys() == {"style", "script"}


async def test_other_answers_keep_the_policy_of_the_edge(stranger: httpx.AsyncClient) -> None:
    (policy,) = (await stranger.get("/healthz")).headers.get_list("content-security-policy")
    assert policy == "default-src 'none'; frame-ancestors 'none'"


async def test_it_says_who_may_call(answer: httpx.Response) -> None:
    summary = re.search(r'id="v1-CreateRegion".*?</summary>', answer.text, re.DOTALL)
    assert summary is not None
    assert "super admins" in summary[0]
    assert "Create region" in summary[0]


def test_texts_of_a_document_are_never_markup() -> None:
    evil = "<script>alert(1)</script>"
    operation = {
        "operationId": "Evil",
        "tags": [evil],
        "description": evil,
        "parameters": [{"name": evil, "in": "query", "schema": {"type": evil}}],
        "responses": {"200": {"description": evil}, "400": {"description": '"><img src=x>'}},
    }
    api = Api(
        title=evil,
        about=evil,
        anchor="x",
        document_path=evil,
        document={"paths": {f"/{evil}": {"get": operation}}, "components": {"schemas": {}}},
        base="",
        callers={"Evil": Allow.ANYONE},
    )
    page = render((api,), style="p {}", script="")
    reader = Reader()
    reader.feed(page)
    assert reader.tags.count("script") == 1
    assert "img" not in reader.tags
    assert "&lt;script&gt;alert(1)" in page


async def test_the_document_of_the_extensions_tells_how_refusals_look(
    master: httpx.AsyncClient,
) -> None:
    document = (await master.get("/api/ext/v1/openapi.json")).json()
    refusal = document["components"]["schemas"]["Refusal"]
    refused = (await master.get("/api/ext/v1/agents/nobody")).json()
    assert refused.keys() == refusal["properties"].keys() == set(refusal["required"])
    for operations in document["paths"].values():
        for operation in operations.values():
            assert [status for status in operation["responses"] if status >= "400"] == ["default"]
