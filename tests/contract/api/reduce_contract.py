"""Reduce the upstream OpenAPI document to what our tests compare with: no prose, no examples.

    python tests/contract/api/reduce_contract.py openapi-0.53.2.yaml > openapi-0.53.2.json

One line per operation and per schema, so that a difference between two contracts reads well.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

# An OpenAPI document is a tree of unknown shape: Any is what it is until it is reduced.
Node = Mapping[str, Any]

_VERBS: Final = ("get", "post", "put", "patch", "delete", "head", "options", "trace")


def reduce(document: Node) -> dict[str, Any]:
    return {
        "openapi": document["openapi"],
        "version": document["info"]["version"],
        "operations": {
            f"{verb.upper()} {path}": _operation(document, item, item[verb])
            for path, item in sorted(document["paths"].items())
            for verb in _VERBS
            if verb in item
        },
        "schemas": {
            name: _schema(schema)
            for name, schema in sorted(document["components"]["schemas"].items())
        },
    }


def dumps(reduced: Node) -> str:
    """Serialise with one line per operation and schema."""
    sections = [
        f" {json.dumps(section)}: "
        + (
            "{\n"
            + ",\n".join(
                f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items()
            )
            + "\n }"
            if isinstance(value, dict)
            else json.dumps(value)
        )
        for section, value in reduced.items()
    ]
    return "{\n" + ",\n".join(sections) + "\n}\n"


def _operation(document: Node, item: Node, operation: Node) -> dict[str, Any]:
    # A parameter of the operation overrides that of the path with the same place and name.
    parameters = {
        (found["in"], found["name"]): _parameter(found)
        for reference in (*item.get("parameters", ()), *operation.get("parameters", ()))
        for found in (_resolve(document, reference),)
    }
    body = operation.get("requestBody")
    return {
        "id": operation["operationId"],
        "tags": operation.get("tags", []),
        "parameters": [parameters[key] for key in sorted(parameters)],
        "request": None if body is None else _content(_resolve(document, body)),
        "responses": {
            str(status): _content(_resolve(document, response))
            for status, response in sorted(operation["responses"].items())
        },
    }


def _parameter(parameter: Node) -> dict[str, Any]:
    return {
        "in": parameter["in"],
        "name": parameter["name"],
        "required": parameter.get("required", False),
        **_schema(parameter["schema"]),
    }


def _content(body: Node) -> dict[str, str] | None:
    """Return the schema of each media type; None stands for an empty body."""
    content = body.get("content")
    if content is None:
        return None
    return {media: _schema(entry["schema"])["ref"] for media, entry in sorted(content.items())}


def _schema(schema: Node) -> dict[str, Any]:
    if "$ref" in schema:
        return {"ref": schema["$ref"].rsplit("/", 1)[-1]}
    reduced = {key: schema[key] for key in ("type", "format", "default") if key in schema}
    if "enum" in schema:
        reduced["enum"] = sorted(schema["enum"])
    if "items" in schema:
        reduced["items"] = _schema(schema["items"])
    if "properties" in schema:
        reduced["type"] = "object"
        reduced["required"] = sorted(schema.get("required", ()))
        reduced["properties"] = {
            name: _schema(member) for name, member in sorted(schema["properties"].items())
        }
    return reduced


def _resolve(document: Node, node: Node) -> Node:
    reference = node.get("$ref")
    if reference is None:
        return node
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return _resolve(document, found)


if __name__ == "__main__":
    sys.stdout.write(dumps(reduce(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")))))
