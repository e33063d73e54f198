"""Instances: machines put together from adapters and volumes that exist."""

import msgspec

from appliance.core.errors import Conflict, Invalid, KowabungaError
from appliance.core.ids import new_id
from appliance.model.compute import Architecture
from appliance.model.target import target
from appliance.operations.operation import Operation
from appliance.operations.step import Submission
from appliance.resources.choice import RegionOfZone, region_of_zone
from appliance.resources.fields import given, merged, with_defaults
from appliance.resources.instance import (
    INSTANCES,
    AdapterFacts,
    Instance,
    InstanceFacts,
    VolumeFacts,
    attach,
    begin_delete_instance,
    check_instance,
    check_parts,
    check_reach,
    insert_instance,
    instance_facts,
    instance_guard,
    local_agents_of,
    update_instance,
    wanted_adapters,
    wanted_volumes,
)
from appliance.resources.instance_work import INSTANCE_CREATE, INSTANCE_DELETE, INSTANCE_UPDATE
from appliance.resources.placement import growth_guard, room_guard
from appliance.resources.project import PROJECTS, Demand, quota_guard
from appliance.resources.work import Work
from appliance.resources.zone import ZONES
from appliance.services.catalog import Catalog, check_id
from appliance.services.durable import (
    Asked,
    Begun,
    Durable,
    nothing_to_do,
    object_of,
    refuse_going,
    refuse_owned,
)
from appliance.services.jobs import instance_job
from appliance.services.placement import Needs, Placement
from appliance.store.base import Consistency, Statement, guard


class Instances:
    """Reading and listing are the catalog's; power is `power.py`."""

    def __init__(self, durable: Durable, catalog: Catalog, placement: Placement) -> None:
        self._durable = durable
        self._catalog = catalog
        self._placement = placement

    async def create(
        self, asked: Asked, project_id: str, zone_id: str, sent: Instance
    ) -> Begun[Instance]:
        """Define and start a machine on the host of the zone that suits it best.

        Raises:
            NotFound: the project or the zone does not exist.
            Invalid: a rule is broken, or an adapter or volume is not to be had.
            Conflict: the name is taken.
            InsufficientResource: the project's quota, or no host fits.
        """
        instance_id = new_id()
        wanted = with_defaults(sent)

        async def prepare() -> Submission[Work]:
            await self._catalog.require(PROJECTS, project_id)
            await self._catalog.require(ZONES, zone_id)
            check_instance(wanted)
            named = await self._durable.fit_name(project_id, wanted.name)
            zone = await self._durable.require(
                RegionOfZone, region_of_zone(zone_id), f"zone {zone_id}"
            )
            volumes = await self._check_parts(wanted, instance_id, project_id, zone.region_id)
            demand = Demand(instances=1, vcpus=wanted.vcpus, memory_bytes=wanted.memory)
            await self._durable.check_quota(project_id, demand)
            local_agents = local_agents_of(volumes)
            # Beside its system, for good: a seed never moves.
            seed_pool = next(each.storage_pool_id for each in volumes if each.architecture)
            storage_agents = await self._durable.storage_agents([seed_pool])
            chosen = await self._placement.choose(
                Needs(
                    instance_id=instance_id,
                    zone_id=zone_id,
                    project_id=project_id,
                    vcpus=wanted.vcpus,
                    memory_bytes=wanted.memory,
                    architecture=_architecture(volumes),
                    agents=local_agents,
                )
            )
            room = room_guard(
                chosen.host_id,
                project_id,
                agents={chosen.agent_id} | local_agents,
                vcpus=wanted.vcpus,
                memory_bytes=wanted.memory,
                spread=chosen.spread,
            )
            return Submission(
                kind=INSTANCE_CREATE,
                arguments=Work(
                    instance_id,
                    instance_id=instance_id,
                    host_agent=chosen.agent_id,
                    storage_agents=storage_agents,
                ),
                targets=(
                    target("instance", instance_id),
                    *(target("volume", each) for each in given(wanted.volumes, [])),
                ),
                principal=asked.principal,
                request_key=asked.key,
                statements=(
                    *named,
                    *quota_guard(project_id, demand),
                    *guard(room),
                    insert_instance(
                        instance_id,
                        wanted,
                        project_id=project_id,
                        kaktus_id=chosen.host_id,
                        seed_pool_id=seed_pool,
                        now_ms=self._durable.now_ms,
                    ),
                    *_attach(instance_id, project_id, wanted),
                ),
            )

        async def explain(conflict: Conflict) -> KowabungaError:
            return await self._catalog.taken(INSTANCES, "", wanted, conflict)

        try:
            return await self._durable.begin(
                asked,
                INSTANCE_CREATE,
                prepare,
                self._answer,
                explain=explain,
                refuse_taken=lambda: self._catalog.refuse_taken(INSTANCES, "", wanted),
            )
        finally:
            self._placement.forget(instance_id)

    async def update(self, asked: Asked, instance_id: str, sent: Instance) -> Begun[Instance]:
        """Change a machine; what cannot change while it runs takes a graceful restart.

        A rename alone needs no agent: the definition follows when there is one.

        Raises:
            NotFound: it does not exist.
            Invalid: a rule is broken, a Kompute owns it, an adapter or volume is not to be had, or
                the name is another's.
            InsufficientResource: the project's quota, or its host has no room.
            Unavailable: no agent of its host is connected.
        """
        stored, _ = await self._catalog.read(INSTANCES, instance_id, Consistency.LINEARIZABLE)
        wanted = merged(stored, sent)
        if wanted == stored:
            return nothing_to_do(stored)

        async def explain(conflict: Conflict) -> KowabungaError:
            taken = await self._catalog.taken(INSTANCES, "", wanted, conflict)
            return Invalid(taken.detail, hint=taken.hint, field="name")

        if _machine(wanted) == _machine(stored):

            async def rename() -> list[Statement]:
                _, facts, wanted = await self._read_change(instance_id, sent)
                named = await self._durable.fit_name(facts.project_id, wanted.name)
                return [*named, *self._updated(facts, wanted)]

            await self._durable.write(rename, explain=explain)
            return nothing_to_do(await self._catalog.get(INSTANCES, instance_id))

        async def prepare() -> Submission[Work]:
            stored, facts, wanted = await self._read_change(instance_id, sent)
            named = await self._durable.fit_name(facts.project_id, wanted.name)
            volumes = await self._check_parts(
                wanted, instance_id, facts.project_id, facts.region_id
            )
            check_reach(facts, volumes)
            demand = Demand(
                vcpus=wanted.vcpus - stored.vcpus, memory_bytes=wanted.memory - stored.memory
            )
            await self._durable.check_quota(facts.project_id, demand)
            room = growth_guard(instance_id, vcpus=wanted.vcpus, memory_bytes=wanted.memory)
            await self._durable.check_room(room, facts.host_name)
            job = await instance_job(self._durable, facts, given(wanted.volumes, []))
            return job.submission(
                asked,
                INSTANCE_UPDATE,
                (
                    *named,
                    *quota_guard(facts.project_id, demand),
                    *guard(room),
                    *self._updated(facts, wanted),
                    *_attach(instance_id, facts.project_id, wanted),
                ),
            )

        return await self._durable.begin(
            asked, INSTANCE_UPDATE, prepare, self._answer, explain=explain
        )

    async def delete(self, asked: Asked, instance_id: str) -> Begun[None]:
        """Remove a machine, or stop its making; its adapters and volumes stay.

        Raises:
            NotFound: it does not exist.
            Conflict: a Kompute owns it.
            Unavailable: no agent of its host is connected.
        """
        check_id(INSTANCES, instance_id)

        async def prepare() -> Submission[Work]:
            facts = await self._facts(instance_id)
            refuse_owned("instance", instance_id, facts.kompute_id)
            job = await instance_job(self._durable, facts)
            return job.submission(
                asked,
                INSTANCE_DELETE,
                (
                    *guard(instance_guard(instance_id, facts.generation)),
                    begin_delete_instance(instance_id),
                ),
            )

        return await self._durable.begin_delete(
            asked, INSTANCE_DELETE, target("instance", instance_id), INSTANCE_CREATE, prepare
        )

    async def _check_parts(
        self, wanted: Instance, instance_id: str, project_id: str, region_id: str
    ) -> list[VolumeFacts]:
        adapters = await self._durable.rows(
            AdapterFacts, wanted_adapters(project_id, given(wanted.adapters, []))
        )
        volumes = await self._durable.rows(
            VolumeFacts, wanted_volumes(project_id, given(wanted.volumes, []))
        )
        check_parts(wanted, instance_id, region_id, adapters, volumes)
        return volumes

    async def _read_change(
        self, instance_id: str, sent: Instance
    ) -> tuple[Instance, InstanceFacts, Instance]:
        """Return what is stored, what belongs to it, and what is wanted, which was accepted."""
        facts = await self._facts(instance_id)
        stored, _ = await self._catalog.read(INSTANCES, instance_id, Consistency.LINEARIZABLE)
        wanted = merged(stored, sent)
        refuse_owned("instance", instance_id, facts.kompute_id)
        refuse_going("instance", instance_id, facts.phase)
        check_instance(wanted)
        return stored, facts, wanted

    def _updated(self, facts: InstanceFacts, wanted: Instance) -> list[Statement]:
        return [
            *guard(instance_guard(facts.id, facts.generation)),
            update_instance(facts.id, wanted, self._durable.now_ms),
        ]

    async def _facts(self, instance_id: str) -> InstanceFacts:
        return await self._durable.require(
            InstanceFacts, instance_facts(instance_id), f"instance {instance_id}"
        )

    async def _answer(self, operation: Operation) -> Instance:
        return await self._catalog.get(INSTANCES, object_of(operation))


def _attach(instance_id: str, project_id: str, wanted: Instance) -> tuple[Statement, ...]:
    return attach(instance_id, project_id, given(wanted.adapters, []), given(wanted.volumes, []))


def _machine(instance: Instance) -> Instance:
    """Return the part of an instance that its domain must follow before an answer."""
    return msgspec.structs.replace(instance, name="", description="")


def _architecture(volumes: list[VolumeFacts]) -> Architecture:
    return next(Architecture(each.architecture) for each in volumes if each.architecture)
