"""The OpenAPI document of `/api/v1`, derived from the table of routes and its Structs."""

from collections.abc import Mapping, Sequence
from functools import cache
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import MediaType, Response, get
from litestar.handlers import HTTPRouteHandler

from appliance.api.guards import allow
from appliance.api.v1.route import Query, Route
from appliance.model.access import Allow

CONTRACT_VERSION: Final = "0.53.2"

Json = dict[str, Any]  # Any: a JSON document

# The names that the contract has for its errors, which all look alike.
_ERRORS: Final[Mapping[int, str]] = {
    400: "ApiErrorBadRequest",
    401: "ApiErrorUnauthorized",
    403: "ApiErrorForbidden",
    404: "ApiErrorNotFound",
    409: "ApiErrorConflict",
    422: "ApiErrorUnprocessableEntity",
    507: "ApiErrorInsufficientResource",
    # Beyond the contract.
    503: "ApiErrorUnavailable",
    504: "ApiErrorDeadlineExceeded",
}
_EVERYWHERE: Final = (401, 403, 503, 504)
_ERRORS_OF_METHOD: Final[Mapping[str, Sequence[int]]] = {
    "GET": (),
    "POST": (400, 404, 409, 422, 507),
    "PUT": (400, 404, 422, 507),
    "PATCH": (404, 422),
    "DELETE": (404, 409, 422),
}
_ERROR: Final[Json] = {
    "type": "object",
    "required": ["status", "error", "reason"],
    "properties": {
        "status": {"type": "integer", "format": "int32"},
        "error": {"type": "string"},
        "reason": {"type": "string"},
    },
    "additionalProperties": False,
}
_REFERENCE: Final = "#/components/schemas/"
_IDS: Final = "ObjectIds"
_JSON: Final = "application/json"


def document_route(routes: Sequence[Route]) -> HTTPRouteHandler:
    """Return the route that serves the document of the routes."""

    @cache
    def document() -> bytes:
        return msgspec.json.encode(describe(routes))

    @get("/openapi.json", opt=allow(Allow.AUTHENTICATED), media_type=MediaType.JSON)
    async def openapi() -> Response[bytes]:
        return Response(document(), media_type=MediaType.JSON)

    return openapi


def describe(routes: Sequence[Route]) -> Json:
    """Return the document."""
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Kowabunga API",
            "version": CONTRACT_VERSION,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/api/v1"}],
        "security": [{"ApiKeyAuth": []}, {"BearerAuth": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(routes),
            "securitySchemes": {
                "ApiKeyAuth": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "BearerAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _operation(route: Route) -> Json:
    operation: Json = {
        "operationId": route.operation_id,
        "tags": route.list_tags(),
        "parameters": [
            *(_path_parameter(name) for name in route.path_parameters),
            *(_query_parameter(query) for query in route.query),
        ],
        "responses": _responses(route),
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, **_content(route.body.__name__)}
    return operation


def _path_parameter(name: str) -> Json:
    return {"in": "path", "name": name, "required": True, "schema": {"type": "string"}}


def _query_parameter(query: Query) -> Json:
    schema = {"type": "string", "format": "date"} if query.kind == "date" else {"type": query.kind}
    return {
        "in": "query",
        "name": query.name,
        "required": False,
        "schema": schema,
        "description": query.about,
    }


def _responses(route: Route) -> Json:
    success: Json = {"description": "Done."}
    if route.answer is not None:
        success |= _content(_name(route.answer))
    # Whatever has no id in its path has nothing that could be missing; making something has.
    of_method = _ERRORS_OF_METHOD[route.method]
    of_path = (404,) if route.path_parameters else ()
    errors = sorted({*_EVERYWHERE, *of_method, *of_path})
    return {
        str(route.success): success,
        **{
            str(status): {"description": HTTPStatus(status).phrase, **_content(_ERRORS[status])}
            for status in errors
        },
    }


def _name(answer: type[msgspec.Struct] | type[list[str]]) -> str:
    return _IDS if answer == list[str] else answer.__name__


def _content(schema: str) -> Json:
    return {"content": {_JSON: {"schema": {"$ref": _REFERENCE + schema}}}}


def _schemas(routes: Sequence[Route]) -> Json:
    structs = {
        struct
        for route in routes
        for struct in (route.body, route.answer)
        if isinstance(struct, type) and issubclass(struct, msgspec.Struct)
    }
    _, named = msgspec.json.schema_components(
        sorted(structs, key=lambda struct: struct.__name__),
        ref_template=_REFERENCE + "{name}",
    )
    return {
        **{
            name: _object(schema, named) for name, schema in named.items() if "properties" in schema
        },
        **dict.fromkeys(_ERRORS.values(), _ERROR),
        _IDS: {"type": "array", "items": {"type": "string"}},
    }


def _object(schema: Json, named: Mapping[str, Json]) -> Json:
    members = {name: _member(member, named) for name, member in schema["properties"].items()}
    return {**schema, "properties": members}


def _member(member: Json, named: Mapping[str, Json]) -> Json:
    """Return a field in the words of the contract.

    It does not tell that null is taken for "left out", and it has no names for enumerations.
    """
    found = dict(member)
    for choice in found.pop("anyOf", ()):
        if choice != {"type": "null"}:
            found |= choice
    enumeration = named.get(found.get("$ref", "").removeprefix(_REFERENCE), {}).get("enum")
    if enumeration is not None:
        del found["$ref"]
        found |= {"type": "string", "enum": enumeration}
    return found
