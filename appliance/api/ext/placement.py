"""Where machines go: how those of a project keep apart, and what a host would say to one more."""

from typing import Annotated

import msgspec
from litestar import Controller, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from appliance.api.guards import Allow, allow
from appliance.api.services import Services
from appliance.resources.fields import about
from appliance.resources.placement import Refusal, Spread
from appliance.resources.project import PROJECTS
from appliance.services.komputes import KomputeOptions


class ProjectPlacement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    spread: Annotated[
        Spread, about("none: anywhere; soft: apart where possible; hard: never two on one host")
    ]


class Explanation(msgspec.Struct, frozen=True):
    """Where it would go, and why not elsewhere."""

    host_id: Annotated[str | None, about("Null: no host fits")]
    host_name: str | None
    refused: tuple[Refusal, ...]


class PlacementController(Controller):
    path = "/projects/{project_id:str}"
    tags = ("placement",)
    opt = allow(Allow.SUPER_ADMIN)

    @get("/placement", operation_id="GetProjectPlacement")
    async def get_placement(
        self, services: NamedDependency[Services], project_id: FromPath[str]
    ) -> ProjectPlacement:
        """Return how the machines of a project keep apart."""
        await services.catalog.require(PROJECTS, project_id)
        return ProjectPlacement(await services.compute.placement.spread_of(project_id))

    @put("/placement", operation_id="SetProjectPlacement")
    async def set_placement(
        self,
        services: NamedDependency[Services],
        project_id: FromPath[str],
        data: JSONBody[ProjectPlacement],
    ) -> ProjectPlacement:
        """Decide it for the machines that are made from now on; those that run stay."""
        await services.catalog.require(PROJECTS, project_id)
        await services.compute.placement.set_spread(project_id, data.spread)
        return data

    @get("/zones/{zone_id:str}/placement", operation_id="ExplainPlacement")
    async def explain(
        self,
        services: NamedDependency[Services],
        project_id: FromPath[str],
        zone_id: FromPath[str],
        *,
        vcpus: Annotated[int, QueryParameter(description="Number of vCPUs.")],
        memory: Annotated[int, QueryParameter(description="Memory in bytes.")],
        pool_id: Annotated[str | None, QueryParameter(name="poolId")] = None,
        template_id: Annotated[str | None, QueryParameter(name="templateId")] = None,
    ) -> Explanation:
        """Tell where a machine would go now, and why not elsewhere; nothing is promised."""
        decision = await services.compute.komputes.explain(
            project_id,
            zone_id,
            vcpus=vcpus,
            memory_bytes=memory,
            options=KomputeOptions(pool_id=pool_id, template_id=template_id),
        )
        host = decision.host
        return Explanation(
            None if host is None else host.id,
            None if host is None else host.name,
            decision.refusals,
        )
