"""The state database, looked at from within."""

import msgspec
from litestar import post
from litestar.di import NamedDependency

from appliance.api.guards import allow
from appliance.api.services import Services
from appliance.model.access import Allow
from appliance.services.invariants import verify_rows
from appliance.services.verify import verify_world
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
    """Check the whole database, and whether its nodes have what is in it, and nothing else."""
    findings = [*await verify(services.store), *await verify_rows(services.store)]
    world = await verify_world(services.store, services.hub, services.compute.seeds)
    findings += [f"{each.target}: {each.detail}" for each in world.differences]
    findings += [f"{each} (not looked at)" for each in world.unseen]
    return Verification(findings)
