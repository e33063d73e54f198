"""The OpenAPI document of `/api/ext/v1`, derived from its routes, served beside them."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import msgspec
from litestar import Litestar, MediaType, Response, Router, get
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from appliance.api.guards import allow
from appliance.api.problems import ProblemBody
from appliance.api.requests import ApiRequest
from appliance.model.access import Allow

_REFUSAL: Final = "Refusal"
_REFUSED: Final = {
    "description": "Refused; the reason says what failed, on which object, and what to do.",
    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_REFUSAL}"}}},
}


def document_route(
    make_router: Callable[[], Router], path: str, dependencies: Mapping[str, Provide]
) -> HTTPRouteHandler:
    """Return the route that serves the document of the router.

    `dependencies` are what the application hands to handlers, which is not for clients to send.
    """

    @cache
    def document() -> bytes:
        return msgspec.json.encode(describe(make_router(), dependencies))

    @get(
        f"{path}/openapi.json",
        opt=allow(Allow.AUTHENTICATED),
        media_type=MediaType.JSON,
        include_in_schema=False,
    )
    async def openapi() -> Response[bytes]:
        return Response(document(), media_type=MediaType.JSON)

    return openapi


def describe(
    router: Router, dependencies: Mapping[str, Provide]
) -> dict[str, Any]:  # Any: a JSON document
    """Return the document.

    The framework does not say itself that unknown fields are refused, nor how refusals look.
    """
    schema = Litestar(
        route_handlers=[router],
        dependencies=dependencies,
        request_class=ApiRequest,
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="Kowabunga appliance, extended API",
            version="1",
            use_handler_docstrings=True,
            security=[{"ApiKeyAuth": []}],
            components=Components(
                security_schemes={
                    "ApiKeyAuth": SecurityScheme(
                        type="apiKey", name="X-API-Key", security_scheme_in="header"
                    )
                }
            ),
        ),
    ).openapi_schema.to_schema()
    for operations in schema["paths"].values():
        for operation in operations.values():
            body = operation.get("requestBody", {}).get("content", {})
            for content in body.values():
                name = content["schema"].get("$ref", "").rpartition("/")[2]
                if name:
                    schema["components"]["schemas"][name]["additionalProperties"] = False
            answers = operation["responses"]
            operation["responses"] = {
                **{status: answer for status, answer in answers.items() if status < "400"},
                "default": _REFUSED,
            }
    schema["components"]["schemas"][_REFUSAL] = msgspec.json.schema_components((ProblemBody,))[1][
        ProblemBody.__name__
    ]
    return schema
