"""Ways to a console: a URL that opens it once. The socket behind it is `api/console.py`."""

from typing import Annotated

import msgspec
from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from appliance.api.console import console_url
from appliance.api.guards import allow
from appliance.api.requests import ApiRequest
from appliance.api.services import Services
from appliance.model.access import Allow
from appliance.model.compute import ConsoleKind
from appliance.resources.instance import INSTANCES
from appliance.resources.kompute import KOMPUTES
from appliance.services.catalog import AnyView

_Kind = Annotated[
    ConsoleKind,
    QueryParameter(description="vnc: its screen, as RFB; serial: its first serial line."),
]


class Console(msgspec.Struct, frozen=True):
    """Where a console can be opened, once and until it expires.

    `url` is a WebSocket (ws:// or wss://) of binary frames, with the subprotocol `binary` or none;
    whoever has it needs no other credential. It ends with the machine, after an hour without a
    byte, and after a day.
    """

    url: str
    expires_at_ms: int

    def __repr__(self) -> str:
        return "Console(***)"


class InstanceConsoleController(Controller):
    path = "/instances/{instance_id:str}/console"
    tags = ("console",)
    opt = allow(Allow.PROJECT_MEMBER)

    @post(operation_id="OpenInstanceConsole", status_code=201)
    async def open_console(
        self,
        services: NamedDependency[Services],
        request: ApiRequest,
        instance_id: FromPath[str],
        kind: _Kind,
    ) -> Console:
        """Return a way to a console of a running instance."""
        return await _open(services, request, INSTANCES, instance_id, kind)


class KomputeConsoleController(Controller):
    path = "/komputes/{kompute_id:str}/console"
    tags = ("console",)
    opt = allow(Allow.PROJECT_MEMBER)

    @post(operation_id="OpenKomputeConsole", status_code=201)
    async def open_console(
        self,
        services: NamedDependency[Services],
        request: ApiRequest,
        kompute_id: FromPath[str],
        kind: _Kind,
    ) -> Console:
        """Return a way to a console of a running Kompute."""
        return await _open(services, request, KOMPUTES, kompute_id, kind)


async def _open(
    services: Services,
    request: ApiRequest,
    view: AnyView,
    object_id: str,
    kind: ConsoleKind,
) -> Console:
    grant = await services.compute.consoles.grant(view, object_id, kind, request.user)
    return Console(await console_url(services, request, grant.token), grant.expires_at_ms)
