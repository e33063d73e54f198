"""What machines are, where the contract does not say: their processor, firmware and TPM."""

from typing import Annotated

import msgspec
from litestar import Controller, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from appliance.api.guards import allow
from appliance.api.services import Services
from appliance.model.access import Allow
from appliance.resources.fields import about
from appliance.resources.template import TemplatePlatform


class ZoneCpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: Annotated[
        str | None,
        about("Processor that x86_64 machines see from their next start on; null: their host's"),
    ]


class ZoneCpus(ZoneCpu, frozen=True):
    """The processor of a zone, and what it could be."""

    possible: Annotated[tuple[str, ...], about("What all x86_64 hosts of the zone can give")]


class ZoneCpuController(Controller):
    path = "/zones/{zone_id:str}/cpu"
    tags = ("platform",)
    opt = allow(Allow.SUPER_ADMIN)

    @get(operation_id="GetZoneCpu")
    async def get_cpu(
        self, services: NamedDependency[Services], zone_id: FromPath[str]
    ) -> ZoneCpus:
        """Return the processor that the machines of a zone see."""
        zones = services.compute.zones
        model = await zones.get_cpu_model(zone_id)
        return ZoneCpus(model, tuple(await zones.list_cpu_models(zone_id)))

    @put(operation_id="SetZoneCpu")
    async def set_cpu(
        self,
        services: NamedDependency[Services],
        zone_id: FromPath[str],
        data: JSONBody[ZoneCpu],
    ) -> ZoneCpus:
        """Choose it; machines that run have it when they are stopped and started again."""
        zones = services.compute.zones
        await zones.set_cpu_model(zone_id, data.model)
        return ZoneCpus(data.model, tuple(await zones.list_cpu_models(zone_id)))


class TemplatePlatformController(Controller):
    path = "/templates/{template_id:str}/platform"
    tags = ("platform",)
    opt = allow(Allow.SUPER_ADMIN)

    @get(operation_id="GetTemplatePlatform")
    async def get_platform(
        self, services: NamedDependency[Services], template_id: FromPath[str]
    ) -> TemplatePlatform:
        """Return what machines from a template boot by, and whether they have a TPM."""
        return await services.compute.templates.get_platform(template_id)

    @put(operation_id="SetTemplatePlatform")
    async def set_platform(
        self,
        services: NamedDependency[Services],
        template_id: FromPath[str],
        data: JSONBody[TemplatePlatform],
    ) -> TemplatePlatform:
        """Decide it, while no volume was cloned from the template."""
        await services.compute.templates.set_platform(template_id, data)
        return data
