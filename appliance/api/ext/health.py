"""Is this Kahuna alive? For load balancers and service managers, without a credential."""

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from appliance.api.guards import allow
from appliance.api.services import Services
from appliance.core.errors import KowabungaError
from appliance.core.version import VERSION, commit
from appliance.model.access import Allow
from appliance.model.principal import Principal
from appliance.store.base import Consistency, Statement


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """`version` is told only to those who have a credential."""

    status: str
    store: str
    version: str | None = None


@get("/healthz", opt=allow(Allow.ANYONE), operation_id="GetHealth")
async def healthz(
    services: NamedDependency[Services], principal: NamedDependency[Principal | None]
) -> Response[Health]:
    """Tell whether requests can be answered: 200, or 503 when the store cannot."""
    version = f"{VERSION} ({commit()})" if principal else None
    try:
        await services.store.query(Statement("SELECT 1 AS one"), Consistency.NONE)
    except KowabungaError:
        return Response(Health("degraded", "failing", version), status_code=503)
    return Response(Health("ok", "ok", version))
