"""Everything about machines and their disks, joined: what a Kahuna, and a test, has of it."""

from dataclasses import dataclass
from typing import Final

from appliance.core.clock import Clock
from appliance.operations.engine import Engine
from appliance.operations.step import AnyKind
from appliance.resources.bridge import BRIDGES_MEND
from appliance.resources.instance_work import (
    INSTANCE_CREATE,
    INSTANCE_DELETE,
    INSTANCE_POWER,
    INSTANCE_UPDATE,
)
from appliance.resources.kompute_work import KOMPUTE_CREATE, KOMPUTE_DELETE, KOMPUTE_UPDATE
from appliance.resources.template import TEMPLATE_CREATE, TEMPLATE_DELETE
from appliance.resources.volume import VOLUME_CREATE, VOLUME_DELETE, VOLUME_UPDATE
from appliance.rpc.gateway import AgentGateway
from appliance.services.catalog import Catalog
from appliance.services.consoles import Consoles
from appliance.services.durable import Durable
from appliance.services.instances import Instances
from appliance.services.komputes import Komputes
from appliance.services.placement import Placement
from appliance.services.power import Machines
from appliance.services.reconcile import Alarm, Reconciler
from appliance.services.secrets import Secrets
from appliance.services.seeds import Seeds
from appliance.services.templates import Templates
from appliance.services.volumes import Volumes
from appliance.services.zones import Zones
from appliance.store.base import Store

COMPUTE_KINDS: Final[tuple[AnyKind, ...]] = (
    TEMPLATE_CREATE, TEMPLATE_DELETE, VOLUME_CREATE, VOLUME_UPDATE, VOLUME_DELETE,
    INSTANCE_CREATE, INSTANCE_UPDATE, INSTANCE_POWER, INSTANCE_DELETE,
    KOMPUTE_CREATE, KOMPUTE_UPDATE, KOMPUTE_DELETE, BRIDGES_MEND,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    placement: Placement
    templates: Templates
    volumes: Volumes
    zones: Zones
    instances: Instances
    komputes: Komputes
    machines: Machines
    consoles: Consoles
    reconciler: Reconciler
    seeds: Seeds

    @classmethod
    def joined(
        cls,
        store: Store,
        engine: Engine,
        gateway: AgentGateway,
        catalog: Catalog,
        secrets: Secrets,
        *,
        alarm: Alarm,
        clock: Clock,
    ) -> "Compute":
        """Join the services; the engine must know `COMPUTE_KINDS`, and these secrets."""
        seeds = Seeds(store, secrets)
        durable = Durable(store, engine, gateway, clock)
        placement = Placement(store, gateway)
        machines = Machines(durable, gateway)
        reconciler = Reconciler(store, engine, gateway, durable, seeds, alarm=alarm, clock=clock)
        engine.on_finished(reconciler.operation_finished)
        return cls(
            placement=placement,
            templates=Templates(durable, catalog),
            volumes=Volumes(durable, catalog),
            zones=Zones(store, catalog),
            instances=Instances(durable, catalog, placement),
            komputes=Komputes(durable, catalog, placement),
            machines=machines,
            consoles=Consoles(store, machines, gateway, clock),
            reconciler=reconciler,
            seeds=seeds,
        )
