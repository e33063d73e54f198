"""OpenAPI documents as HTML; pure, and every text is escaped by the serialiser.

Works without a script: operations are `<details>`, links are anchors. The script only filters.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from xml.etree.ElementTree import Element, tostring

from appliance.model.access import Allow

Json = Mapping[str, Any]  # Any: a JSON document

_CALLERS: Final[Mapping[Allow, str]] = {
    Allow.ANYONE: "anybody",
    Allow.AUTHENTICATED: "every user",
    Allow.SELF: "the user themselves",
    Allow.PROJECT_MEMBER: "project members",
    Allow.PROJECT_ADMIN: "project admins",
    Allow.SUPER_ADMIN: "super admins",
}
_REFERENCE: Final = "#/components/schemas/"
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])s?|[A-Z][a-z]+|[a-z]+|[0-9]+")
_INITIALS: Final = frozenset({"Api", "Dns", "Ip", "Ipsec"})
_ERROR_SCHEMA: Final = "ApiError"

Child = Element | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One document, and what it does not tell.

    Attributes:
        anchor: makes the page's anchors of this API unlike those of the other.
        base: what stands before the paths of the document.
        callers: who may call, by operation id.
    """

    title: str
    about: str
    anchor: str
    document_path: str
    document: Json
    base: str
    callers: Mapping[str, Allow]

    @property
    def schemas(self) -> Mapping[str, Json]:
        schemas: Mapping[str, Json] = self.document["components"]["schemas"]
        return schemas


@dataclass(frozen=True, slots=True)
class _Operation:
    method: str
    path: str
    tag: str
    body: Json


def render(apis: Iterable[Api], *, style: str, script: str) -> str:
    """Return the page."""
    apis = tuple(apis)
    page = _e(
        "html",
        _e(
            "head",
            _e("meta", charset="utf-8"),
            _e("meta", name="viewport", content="width=device-width, initial-scale=1"),
            _e("meta", name="color-scheme", content="light dark"),
            _e("title", "Kowabunga API"),
            _e("style", style),
        ),
        _e(
            "body",
            _e("a", "Skip to the operations", href="#main", class_="skip"),
            _e("nav", *_navigation(apis), aria_label="Contents"),
            _e(
                "main",
                _e("header", *_introduction()),
                *(_api(api) for api in apis),
                id="main",
            ),
            _e("script", script),
        ),
        lang="en",
    )
    return "<!doctype html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def _introduction() -> Iterable[Element]:
    yield _e("h1", "Kowabunga API")
    yield _e(
        "p",
        "Send the key in the header ",
        _e("code", "X-API-Key"),
        ". Every refusal is ",
        _e("code", '{"status", "error", "reason"}'),
        "; the reason says what failed, on which object, and what to do. Unknown fields are"
        " refused. In the examples ",
        _e("code", "$URL"),
        " is this server and ",
        _e("code", "$KEY"),
        " the key.",
    )


def _navigation(apis: Iterable[Api]) -> Iterable[Element]:
    yield _e("p", "Kowabunga", class_="brand")
    yield _e(
        "input",
        id="filter",
        type="search",
        placeholder="Filter, e.g. kompute put",
        aria_label="Filter operations",
        autocomplete="off",
        hidden="",
    )
    for api in apis:
        yield _e("h2", api.title)
        yield _e(
            "ul",
            *(
                _e(
                    "li",
                    _e(
                        "a",
                        tag,
                        _e("span", str(len(operations)), class_="count"),
                        href=f"#{api.anchor}-tag-{tag}",
                    ),
                )
                for tag, operations in _by_tag(api).items()
            ),
            _e("li", _e("a", "schemas", href=f"#{api.anchor}-schemas")),
        )


def _by_tag(api: Api) -> dict[str, list[_Operation]]:
    """Sort the operations by what they are about: the last of their tags."""
    found: dict[str, list[_Operation]] = {}
    for path, methods in api.document["paths"].items():
        for method, body in methods.items():
            tag = body["tags"][-1]
            found.setdefault(tag, []).append(_Operation(method.upper(), api.base + path, tag, body))
    return dict(sorted(found.items()))


def _api(api: Api) -> Element:
    return _e(
        "section",
        _e("h2", api.title),
        _e("p", api.about),
        _e("p", "The OpenAPI document: ", _e("code", f"GET {api.document_path}"), "."),
        *(
            _e(
                "section",
                _e("h3", tag),
                *(_operation(api, operation) for operation in operations),
                id=f"{api.anchor}-tag-{tag}",
                class_="tag",
            )
            for tag, operations in _by_tag(api).items()
        ),
        _e(
            "section",
            _e("h3", "schemas"),
            *(
                _schema(api, name, schema)
                for name, schema in sorted(api.schemas.items())
                if "properties" in schema and not name.startswith(_ERROR_SCHEMA)
            ),
            id=f"{api.anchor}-schemas",
            class_="tag",
        ),
        id=api.anchor,
    )


def _operation(api: Api, operation: _Operation) -> Element:
    name = operation.body["operationId"]
    who = api.callers.get(name)
    title = _title(name)
    summary = _e(
        "summary",
        _e("span", operation.method, class_=f"method {operation.method.lower()}"),
        _e("code", *_path(operation.path), class_="path"),
        _e("span", title, class_="title"),
        _e("span", _CALLERS[who], class_="who") if who is not None else "",
    )
    return _e(
        "details",
        summary,
        _e("div", *_particulars(api, operation), class_="body"),
        id=f"{api.anchor}-{name}",
        class_="operation",
    )


def _particulars(api: Api, operation: _Operation) -> Iterable[Element]:
    body = operation.body
    for paragraph in body.get("description", "").split("\n\n"):
        if paragraph:
            yield _e("p", paragraph)
    parameters = [
        _row(api, each["name"], {**each["schema"], **_described(each)}, note=_where(each))
        for each in body.get("parameters", ())
    ]
    if parameters:
        yield _e("h4", "Parameters")
        yield _table(parameters)
    sent = body.get("requestBody", {}).get("content", {})
    for kind, content in sent.items():
        yield _e("h4", "Body ", _e("small", kind))
        yield from _fields(api, content["schema"])
    yield _e("h4", "Answers")
    yield _e("ul", *_answers(api, body["responses"]), class_="answers")
    yield _e("h4", "Example")
    yield _e("pre", _e("code", _example(api, operation)))


def _described(each: Json) -> Json:
    return {"description": each["description"]} if "description" in each else {}


def _where(parameter: Json) -> str:
    need = "required" if parameter.get("required") else "optional"
    return f"{parameter['in']}, {need}"


def _fields(api: Api, schema: Json) -> Iterable[Element]:
    """Write the fields out where they are sent: nobody wants to look elsewhere."""
    name = schema.get("$ref", "").removeprefix(_REFERENCE)
    found = api.schemas.get(name, schema)
    if "properties" in found:
        yield _table(_members(api, found))
    else:
        yield _e("p", *_type(api, found))


def _members(api: Api, schema: Json) -> list[Element]:
    required = schema.get("required", ())
    return [
        _row(api, name, member, note="required" if name in required else "")
        for name, member in schema["properties"].items()
    ]


def _row(api: Api, name: str, schema: Json, *, note: str) -> Element:
    told: list[Child] = [schema.get("description", "")]
    if "default" in schema:
        told += [
            _e("small", "default ", _e("code", json.dumps(schema["default"])), class_="default")
        ]
    return _e(
        "tr",
        _e("th", _e("code", name), _e("small", note), scope="row"),
        _e("td", *_type(api, schema), class_="type"),
        _e("td", *told),
    )


def _table(rows: Iterable[Element]) -> Element:
    return _e("div", _e("table", _e("tbody", *rows)), class_="scroll")


def _type(api: Api, schema: Json) -> list[Child]:
    """Return what a value may be, in words."""
    for key in ("oneOf", "anyOf", "allOf"):
        if key in schema:
            words: list[Child] = []
            for choice in schema[key]:
                words += [*([" or "] if words else []), *_type(api, choice)]
            return words
    if "$ref" in schema:
        return _reference(api, schema["$ref"].removeprefix(_REFERENCE))
    if "enum" in schema:
        return [" | ".join(str(value) for value in schema["enum"])]
    if schema.get("type") == "array":
        return ["list of ", *_type(api, schema.get("items", {}))]
    kind: str | list[str] = schema.get("type", "any value")
    told: list[Child] = [kind if isinstance(kind, str) else " or ".join(kind)]
    return [*told, f" ({schema['format']})"] if "format" in schema else told


def _reference(api: Api, name: str) -> list[Child]:
    found = api.schemas.get(name, {})
    if "properties" in found and not name.startswith(_ERROR_SCHEMA):
        return [_e("a", name, href=f"#{api.anchor}-schema-{name}")]
    return _type(api, found)


def _answers(api: Api, responses: Mapping[str, Json]) -> Iterable[Element]:
    refusals: list[Child] = []
    for status, response in sorted(responses.items()):
        if status >= "400":
            refusals += [" " if refusals else "", _e("code", status, title=response["description"])]
            continue
        content: Mapping[str, Json] = response.get("content", {})
        told: list[Child] = []
        for kind, each in content.items():
            schema = each.get("schema")
            told += [" ", *(_type(api, schema) if schema else [kind])]
        yield _e("li", _e("code", status, class_="success"), *(told or [" no body"]))
    if refusals:
        yield _e("li", *refusals, " refused")


def _example(api: Api, operation: _Operation) -> str:
    method = "" if operation.method == "GET" else f" -X {operation.method}"
    path = re.sub(r"{(\w+)}", lambda found: f"${_shell_name(found[1])}", operation.path)
    lines = [f'curl{method} -H "X-API-Key: $KEY" "$URL{path}"']
    content = operation.body.get("requestBody", {}).get("content", {}).get("application/json")
    if content:
        sample = json.dumps(_sample(api, content["schema"]))
        lines += ['-H "Content-Type: application/json"', f"-d '{sample}'"]
    return " \\\n  ".join(lines)


def _shell_name(parameter: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", parameter).upper()


def _sample(api: Api, schema: Json, *, depth: int = 0) -> object:
    """Return a value of this shape with what is required in it."""
    if "$ref" in schema:
        schema = api.schemas.get(schema["$ref"].removeprefix(_REFERENCE), {})
    if "enum" in schema:
        return schema["enum"][0]
    if "properties" in schema and depth < 4:
        required = schema.get("required", ())
        members = schema["properties"].items()
        return {
            name: _sample(api, member, depth=depth + 1)
            for name, member in members
            if name in required
        }
    samples: Mapping[object, object] = {
        "integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {},
    }  # fmt: skip
    kind = schema.get("type")
    return samples.get(kind, "...") if isinstance(kind, str) else "..."


def _schema(api: Api, name: str, schema: Json) -> Element:
    return _e(
        "details",
        _e("summary", _e("code", name), _e("span", schema.get("description", ""), class_="title")),
        _e("div", _table(_members(api, schema)), class_="body"),
        id=f"{api.anchor}-schema-{name}",
        class_="schema",
    )


def _path(path: str) -> Iterable[Child]:
    """Mark the parameters, and let a long path break before a slash."""
    for part in re.split(r"({\w+})", path):
        if part.startswith("{"):
            yield _e("var", part)
        else:
            for index, piece in enumerate(part.split("/")):
                if index:
                    yield _e("wbr")
                    yield "/"
                yield piece


def _title(operation_id: str) -> str:
    """Say an operation's name in words: "SetVNetDefaultSubnet", "Set VNet default subnet"."""
    words = _WORD.findall(operation_id.replace("VNet", "Vnet").replace("IpSec", "Ipsec"))
    return (
        " ".join(
            word.upper()
            if word in _INITIALS
            else word.lower()
            if index and word[1:].islower()
            else word
            for index, word in enumerate(words)
        )
        .replace("Vnet", "VNet")
        .replace("vnet", "VNet")
    )


def _e(tag: str, *children: Child, **attributes: str) -> Element:
    """Make an element. A trailing underscore is dropped, others become hyphens."""
    element = Element(
        tag, {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    )
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element
