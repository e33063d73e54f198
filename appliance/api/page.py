"""`/docs`: both APIs as one page for people, made from the documents that are served for programs.

The page stands alone: its style and its script are within it, allowed by their hashes, and it asks
no other host for anything. Anybody may read it: it tells what every Kowabunga has, nothing of this
one.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Final

from litestar import Litestar, MediaType, Response, Router, get
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from appliance.api.ext.document import describe as describe_ext
from appliance.api.guards import ALLOW, allow
from appliance.api.page_html import Api, render
from appliance.api.requests import ApiRequest
from appliance.api.v1.document import describe as describe_v1
from appliance.api.v1.routes import ROUTES, V1_PATH
from appliance.model.access import Allow

PATH: Final = "/docs"
_FILES: Final = resources.files("appliance.api") / "static"


def page_route(
    ext_router: Callable[[], Router], ext_path: str, dependencies: Mapping[str, Provide]
) -> HTTPRouteHandler:
    """Return the route of the page; `dependencies` as the document of the extension has them."""

    @cache
    def page() -> tuple[bytes, Mapping[str, str]]:
        style, script = _read("page.css"), _read("page.js")
        contract = Api(
            title="Contract",
            about="The contract that the Terraform provider, the Ansible collection and the SDKs"
            " speak. A change answers when its work is done; with the header"
            " Prefer: respond-async it answers 202 and names the operation.",
            anchor="v1",
            document_path=f"{V1_PATH}/openapi.json",
            document=describe_v1(ROUTES),
            base=V1_PATH,
            callers={route.operation_id: route.who for route in ROUTES},
        )
        extension = Api(
            title="Extensions",
            about="What the contract does not have: operations, settings,"
            " credentials, alarms, faults of simulated nodes.",
            anchor="ext",
            document_path=f"{ext_path}/openapi.json",
            document=describe_ext(ext_router(), dependencies),
            base="",
            callers=dict(_callers(ext_router(), dependencies)),
        )
        text = render((contract, extension), style=style, script=script)
        policy = (
            f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)};"
            " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return text.encode(), {"Content-Security-Policy": policy}

    @get(PATH, opt=allow(Allow.ANYONE), media_type=MediaType.HTML, include_in_schema=False)
    async def docs() -> Response[bytes]:
        content, headers = page()
        return Response(content, media_type=MediaType.HTML, headers=dict(headers))

    return docs


def _callers(router: Router, dependencies: Mapping[str, Provide]) -> Iterable[tuple[str, Allow]]:
    app = Litestar(
        [router],
        dependencies=dependencies,
        request_class=ApiRequest,
        openapi_config=None,
        logging_config=None,
    )
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                if isinstance(handler.operation_id, str) and ALLOW in handler.opt:
                    yield handler.operation_id, handler.opt[ALLOW]


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"
