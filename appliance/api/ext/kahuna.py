"""What an agent on this node must know to connect to the Kahuna beside it."""

import msgspec
from litestar import get
from litestar.di import NamedDependency

from appliance.api.certificate import read_certificates
from appliance.api.guards import allow
from appliance.api.services import Services
from appliance.model.access import Allow


class KahunaView(msgspec.Struct, frozen=True):
    """`authorities`: PEM of the certificates to know this Kahuna by."""

    agent_url: str
    authorities: str


@get("/kahuna", operation_id="GetKahuna", tags=["agent"], opt=allow(Allow.SUPER_ADMIN))
async def get_kahuna(services: NamedDependency[Services]) -> KahunaView:
    """Return where the agents of this node connect, and by what to verify it."""
    authorities = await services.authority.trusted()
    owner = services.reach.owner_certificate
    if owner is not None:
        authorities += read_certificates(owner)
    return KahunaView(services.reach.agent_url, authorities)
