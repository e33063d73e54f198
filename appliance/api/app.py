"""The REST application: routes, guards and error answers put together; no logic of its own.

Everything it needs comes in as one `Services`; there are no globals. `/api/v1` is the contract's,
`/api/ext/v1` our own, described by its own document.
"""

from collections.abc import Sequence
from typing import Any, Final

from litestar import Litestar, Response, Router
from litestar.connection import Request
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from appliance.api.edge import request_id_of
from appliance.api.ext import agents, alarms, health, keys, operations, settings
from appliance.api.ext.document import document_route
from appliance.api.guards import guard, principal_of, was_routed
from appliance.api.problems import ProblemBody, answer
from appliance.api.requests import MAX_BODY_BYTES, ApiRequest
from appliance.api.services import Services
from appliance.core.errors import Unauthenticated
from appliance.model.principal import Principal

EXT_PATH: Final = "/api/ext/v1"


def ext_router() -> Router:
    """Return the routes of `/api/ext/v1`."""
    return Router(
        EXT_PATH,
        route_handlers=[
            agents.AgentController,
            alarms.AlarmController,
            keys.KeyController,
            operations.OperationController,
            settings.SettingController,
        ],
    )


def create_app(
    services: Services, further_routes: Sequence[ControllerRouterHandler] = ()
) -> Litestar:
    """Make the application; `further_routes` are the agents' sockets."""
    return Litestar(
        route_handlers=[
            ext_router(),
            document_route(ext_router, EXT_PATH),
            health.healthz,
            *further_routes,
        ],
        dependencies={
            "services": Provide(lambda: services, sync_to_thread=False),
            "principal": Provide(_principal, sync_to_thread=False),
        },
        guards=[guard],
        exception_handlers={Exception: _on_error},
        request_class=ApiRequest,
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )


def _principal(request: Request[Any, Any, Any]) -> Principal | None:
    return principal_of(request.scope)


def _on_error(request: Request[Any, Any, Any], error: Exception) -> Response[ProblemBody]:
    if not was_routed(request.scope) and principal_of(request.scope) is None:
        # No route was found for a stranger: he learns nothing of which ones exist.
        error = Unauthenticated("no valid credential came with the request")
    refusal = answer(error, request_id_of(request.scope))
    return Response(refusal.body, status_code=refusal.body.status, headers=dict(refusal.headers))
