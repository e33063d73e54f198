"""Where machines go: how those of a project keep apart, which hosts take new ones, and why not."""

from typing import Annotated

import msgspec
from litestar import Controller, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from appliance.api.guards import allow
from appliance.api.services import Services
from appliance.model.access import Allow
from appliance.resources.fields import about
from appliance.resources.kaktus import KAKTUSES
from appliance.resources.placement import Refusal, Spread
from appliance.resources.project import PROJECTS
from appliance.services.komputes import KomputeOptions


class ProjectPlacement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    spread: Annotated[
        Spread, about("none: anywhere; soft: apart where possible; hard: never two on one host")
    ]


class KaktusPlacement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schedulable: Annotated[bool, about("Whether it takes new instances; those it has stay")]


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


class KaktusPlacementController(Controller):
    path = "/kaktuses/{kaktus_id:str}/placement"
    tags = ("placement",)
    opt = allow(Allow.SUPER_ADMIN)

    @get(operation_id="GetKaktusPlacement")
    async def get_placement(
        self, services: NamedDependency[Services], kaktus_id: FromPath[str]
    ) -> KaktusPlacement:
        """Return whether a Kaktus takes new instances."""
        await services.catalog.require(KAKTUSES, kaktus_id)
        return KaktusPlacement(await services.compute.placement.is_schedulable(kaktus_id))

    @put(operation_id="SetKaktusPlacement")
    async def set_placement(
        self,
        services: NamedDependency[Services],
        kaktus_id: FromPath[str],
        data: JSONBody[KaktusPlacement],
    ) -> KaktusPlacement:
        """Open or close a Kaktus for new instances; those that it has stay."""
        await services.catalog.require(KAKTUSES, kaktus_id)
        await services.compute.placement.set_schedulable(kaktus_id, schedulable=data.schedulable)
        return data
