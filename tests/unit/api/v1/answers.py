"""What every answer under /api/v1 must look like, whatever was asked."""

import re
from collections.abc import Iterator
from typing import Any, Final

import httpx

from tests.contract.api import contract

PREFIX: Final = "/api/v1"
_FURTHER_STATUSES: Final = {"503", "504"}
_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


async def check_answer(answer: httpx.Response) -> None:
    """Hold an answer against the contract: its status, its type, its shape down to each key.

    A hook of the client, so no test can forget it.
    """
    content = await answer.aread()
    assert answer.headers["content-type"].partition(";")[0] == "application/json"
    assert answer.status_code != 500, content
    assert not answer.is_redirect
    operation = _operation(answer.request)
    schema: str | None = None
    if operation is not None:
        status = str(answer.status_code)
        assert status in {*operation["responses"], *_FURTHER_STATUSES}, f"{status}: {content!r}"
        media = operation["responses"].get(status)
        schema = media and media["application/json"]
    if answer.is_error:
        _check_error(answer)
    elif schema is not None:
        assert list(_faults(schema, answer.json(), contract.schema(schema))) == []
        assert "id" not in contract.schema(schema).get("properties", ()) or answer.json()["id"]
    elif operation is not None:
        assert content == b""


def _check_error(answer: httpx.Response) -> None:
    body = answer.json()
    assert body.keys() == {"status", "error", "reason"}
    assert body["status"] == answer.status_code
    assert type(body["status"]) is int
    assert body["error"]
    assert body["reason"]


def _operation(request: httpx.Request) -> contract.Schema | None:
    prefix, root, path = request.url.raw_path.decode().partition("?")[0].partition(PREFIX)
    if prefix or not root:
        return None
    for key, operation in contract.load()["operations"].items():
        method, _, template = key.partition(" ")
        if method == request.method and re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path):
            found: contract.Schema = operation
            return found
    return None


def _faults(path: str, value: Any, schema: contract.Schema) -> Iterator[str]:  # noqa: ANN401  # JSON
    if "ref" in schema:
        schema = contract.schema(schema["ref"])
    if schema["type"] == "array":
        if not isinstance(value, list):
            yield f"{path} is no list: {value!r}"
            return
        for index, item in enumerate(value):
            yield from _faults(f"{path}[{index}]", item, schema["items"])
    elif schema["type"] == "object":
        if not isinstance(value, dict):
            yield f"{path} is no object: {value!r}"
            return
        for foreign in value.keys() - schema["properties"].keys():
            yield f"{path}.{foreign} is not in the contract"
        for missing in set(schema["required"]) - value.keys():
            yield f"{path}.{missing} is missing"
        for name, member in value.items():
            yield from _faults(
                f"{path}.{name}", member, schema["properties"].get(name, {"type": ""})
            )
    elif not isinstance(value, _TYPES.get(schema["type"], ())) or (
        schema["type"] != "boolean" and isinstance(value, bool)
    ):
        yield f"{path} is no {schema['type']}: {value!r}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path} is none of {schema['enum']}: {value!r}"
