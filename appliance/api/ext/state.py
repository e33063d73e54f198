"""The state database, looked at from within."""

import msgspec
from litestar import post
from litestar.di import NamedDependency

from appliance.api.guards import Allow, allow
from appliance.api.services import Services
from appliance.store.verify import verify


class Verification(msgspec.Struct, frozen=True):
    """What is wrong, one sentence each; empty when all is well."""

    findings: list[str]


@post(
    "/state/verify",
    operation_id="VerifyState",
    tags=["state"],
    status_code=200,
    opt=allow(Allow.SUPER_ADMIN),
)
async def verify_state(services: NamedDependency[Services]) -> Verification:
    """Check the whole database: its structure, and every reference in it."""
    return Verification(await verify(services.store))
