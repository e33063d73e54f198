"""The REST application: routes, guards and error answers put together; no logic of its own.

Everything it needs comes in as one `Services`; there are no globals. `/api/v1` is the contract's,
`/api/ext/v1` our own, described by its own document.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from litestar import Litestar, Response, Router
from litestar.connection import Request
from litestar.di import Provide
from litestar.exceptions import NotFoundException
from litestar.types import ControllerRouterHandler

from appliance.api.asgi import AsgiApp
from appliance.api.console import console_socket
from appliance.api.edge import request_id_of
from appliance.api.ext import (
    agents,
    alarms,
    console,
    health,
    kahuna,
    keys,
    operations,
    placement,
    platform,
    settings,
    sim,
    state,
    users,
)
from appliance.api.ext.document import document_route
from appliance.api.guards import guard_by, principal_of, was_routed
from appliance.api.page import page_route
from appliance.api.problems import ProblemBody, answer
from appliance.api.requests import MAX_BODY_BYTES, ApiRequest
from appliance.api.services import Services
from appliance.api.v1.routes import v1_router
from appliance.core.errors import NotFound, Unauthenticated
from appliance.model.access import Allow
from appliance.model.principal import Principal
from appliance.resources.user import UserRole

EXT_PATH: Final = "/api/ext/v1"


def ext_router() -> Router:
    """Return the routes of `/api/ext/v1`."""
    return Router(
        EXT_PATH,
        route_handlers=[
            agents.AgentController,
            alarms.AlarmController,
            console.InstanceConsoleController,
            console.KomputeConsoleController,
            kahuna.get_kahuna,
            keys.KeyController,
            operations.OperationController,
            placement.PlacementController,
            placement.KaktusPlacementController,
            platform.ZoneCpuController,
            platform.TemplatePlatformController,
            settings.SettingController,
            sim.SimulationController,
            state.verify_state,
            users.UserKeyController,
        ],
    )


def create_app(
    services: Services,
    further_routes: Sequence[ControllerRouterHandler] = (),
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> Litestar:
    """Make the application; `further_routes` are the agents' sockets."""
    dependencies = {
        "services": Provide(lambda: services, sync_to_thread=False),
        "principal": Provide(_principal, sync_to_thread=False),
    }

    async def role_for(user_id: str, allow: Allow, path: Mapping[str, str]) -> UserRole:
        return await services.access.role_for(user_id, allow, path)

    return Litestar(
        route_handlers=[
            v1_router(),
            ext_router(),
            document_route(ext_router, EXT_PATH, dependencies),
            page_route(ext_router, EXT_PATH, dependencies),
            health.healthz,
            console_socket(services),
            *further_routes,
        ],
        dependencies=dependencies,
        guards=[guard_by(role_for)],
        exception_handlers={Exception: on_error},
        request_class=ApiRequest,
        request_max_body_size=max_body_bytes,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )


def as_asgi(app: Litestar) -> AsgiApp:
    """Return the application in plain ASGI types, for what stands around it."""
    return cast("AsgiApp", app)


def _principal(request: Request[Any, Any, Any]) -> Principal | None:
    return principal_of(request.scope)


def on_error(request: Request[Any, Any, Any], error: Exception) -> Response[ProblemBody]:
    """Answer any error; `api/problems.py` decides how."""
    if not was_routed(request.scope):
        if principal_of(request.scope) is None:
            # A stranger learns nothing of which paths exist.
            error = Unauthenticated("no valid credential came with the request")
        elif isinstance(error, NotFoundException):
            error = NotFound("there is nothing at this path")
    refusal = answer(error, request_id_of(request.scope))
    return Response(refusal.body, status_code=refusal.body.status, headers=dict(refusal.headers))
