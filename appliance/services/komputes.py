"""Komputes: a machine with its disks and adapters, made, changed and removed as one."""

from dataclasses import dataclass

import msgspec

from appliance.core.errors import (
    Conflict,
    Invalid,
    KowabungaError,
)
from appliance.core.ids import new_id
from appliance.model.target import target
from appliance.operations.operation import Operation
from appliance.operations.step import Submission
from appliance.resources.allocation import exhausted
from appliance.resources.choice import (
    PoolChoice,
    RegionOfZone,
    SubnetChoice,
    TemplateChoice,
    pool_guard,
    public_subnet,
    region_of_zone,
    template_is_ready,
)
from appliance.resources.fields import given, merged, with_defaults
from appliance.resources.kompute import (
    KOMPUTES,
    Kompute,
    KomputeFacts,
    TakenName,
    begin_delete_kompute,
    check_kompute,
    check_kompute_change,
    kompute_facts,
    kompute_guard,
    taken_part_names,
    update_kompute,
)
from appliance.resources.kompute_parts import (
    PartIds,
    Parts,
    change_disks,
    growth,
    insert_parts,
)
from appliance.resources.kompute_work import KOMPUTE_CREATE, KOMPUTE_DELETE, KOMPUTE_UPDATE
from appliance.resources.placement import Decision, growth_guard, room_guard
from appliance.resources.project import (
    PROJECTS,
    Demand,
    has_subnet,
    quota_guard,
    subnet_in_region,
)
from appliance.resources.sizes import MAX_DISK_BYTES, check_memory, check_vcpus
from appliance.resources.work import Work
from appliance.resources.zone import ZONES
from appliance.services.adapters import NO_ADDRESS_LEFT, no_address_left
from appliance.services.catalog import Catalog, check_id
from appliance.services.durable import (
    Asked,
    Begun,
    Durable,
    nothing_to_do,
    object_of,
    refuse_going,
)
from appliance.services.jobs import kompute_job
from appliance.services.placement import Needs, Placement
from appliance.services.volumes import choose_pool, choose_template
from appliance.store.base import Consistency, Statement, guard


@dataclass(frozen=True, slots=True, kw_only=True)
class KomputeOptions:
    """What a request may say besides the Kompute itself; an empty text is left out."""

    pool_id: str | None = None
    template_id: str | None = None
    public: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """What the parts of a new Kompute are made from."""

    pool: PoolChoice
    template: TemplateChoice
    private_subnet: str
    public_subnet: str | None


class Komputes:
    """Reading and listing are the catalog's; power is `power.py`."""

    def __init__(self, durable: Durable, catalog: Catalog, placement: Placement) -> None:
        self._durable = durable
        self._catalog = catalog
        self._placement = placement

    async def create(
        self,
        asked: Asked,
        project_id: str,
        zone_id: str,
        sent: Kompute,
        options: KomputeOptions,
    ) -> Begun[Kompute]:
        """Make a machine with all its parts, and start it.

        Raises:
            NotFound: the project or the zone does not exist.
            Invalid: a rule is broken, or there is no such pool, template, or public subnet, or the
                project has no subnet in that region.
            Conflict: the name, or one that a part would have, is taken.
            InsufficientResource: the project's quota, no host fits, or no address is left.
            Unavailable: no agent of the pool is connected.
        """
        ids = PartIds.new()
        wanted = with_defaults(sent)

        async def prepare() -> Submission[Work]:
            await self._catalog.require(PROJECTS, project_id)
            await self._catalog.require(ZONES, zone_id)
            check_kompute(wanted)
            named = await self._durable.fit_name(project_id, wanted.name)
            parts = await self._choose_sources(project_id, zone_id, wanted, options)
            demand = Demand(
                instances=1,
                vcpus=wanted.vcpus,
                memory_bytes=wanted.memory,
                storage_bytes=wanted.disk + given(wanted.data_disk, 0),
            )
            await self._durable.check_quota(project_id, demand)
            storage_agent = self._durable.agent_of_pool(parts.pool)
            chosen = await self._placement.choose(
                Needs(
                    instance_id=ids.instance,
                    zone_id=zone_id,
                    project_id=project_id,
                    vcpus=wanted.vcpus,
                    memory_bytes=wanted.memory,
                    architecture=parts.template.architecture,
                    agents=parts.pool.local_agents,
                )
            )
            return Submission(
                kind=KOMPUTE_CREATE,
                arguments=Work(
                    ids.kompute,
                    instance_id=ids.instance,
                    host_agent=chosen.agent_id,
                    storage_agents={parts.pool.storage_pool_id: storage_agent},
                ),
                targets=ids.targets(with_data=bool(given(wanted.data_disk, 0))),
                principal=asked.principal,
                request_key=asked.key,
                statements=(
                    *named,
                    *quota_guard(project_id, demand),
                    *guard(
                        room_guard(
                            chosen.host_id,
                            project_id,
                            agents={chosen.agent_id} | parts.pool.local_agents,
                            vcpus=wanted.vcpus,
                            memory_bytes=wanted.memory,
                            spread=chosen.spread,
                        )
                    ),
                    *guard(has_subnet(project_id, parts.private_subnet)),
                    *guard(pool_guard(parts.pool.storage_pool_id, storage_agent)),
                    *guard(template_is_ready(parts.template.id)),
                    *insert_parts(
                        ids,
                        wanted,
                        Parts(
                            project_id=project_id,
                            zone_id=zone_id,
                            kaktus_id=chosen.host_id,
                            storage_pool_id=parts.pool.storage_pool_id,
                            template_id=parts.template.id,
                            private_subnet=parts.private_subnet,
                            public_subnet=parts.public_subnet,
                        ),
                        self._durable.now_ms,
                    ),
                ),
            )

        async def explain(conflict: Conflict) -> KowabungaError | None:
            if exhausted(conflict, NO_ADDRESS_LEFT):
                return await self._no_address_left(project_id, zone_id, public=options.public)
            return await self._name_taken(ids.kompute, wanted, conflict)

        try:
            return await self._durable.begin(
                asked,
                KOMPUTE_CREATE,
                prepare,
                self._answer,
                explain=explain,
                refuse_taken=lambda: self._catalog.refuse_taken(KOMPUTES, "", wanted),
            )
        finally:
            self._placement.forget(ids.instance)

    async def update(self, asked: Asked, kompute_id: str, sent: Kompute) -> Begun[Kompute]:
        """Change a machine: processors and memory, disks that grow, a data disk that comes.

        A rename alone needs no agent: the definition follows when there is one.

        Raises:
            NotFound: it does not exist.
            Invalid: a rule is broken, a disk would shrink, or the name is another's.
            InsufficientResource: the project's quota, or its host has no room.
            Unavailable: no agent of its host, or of a pool that must do something, is connected.
        """
        stored, _ = await self._catalog.read(KOMPUTES, kompute_id, Consistency.LINEARIZABLE)
        wanted = merged(stored, sent)
        if wanted == stored:
            return nothing_to_do(stored)
        data_id = new_id()

        async def explain(conflict: Conflict) -> KowabungaError | None:
            taken = await self._name_taken(kompute_id, wanted, conflict)
            return taken and Invalid(taken.detail, hint=taken.hint, field="name")

        if _machine(wanted) == _machine(stored):

            async def rename() -> list[Statement]:
                _, facts, wanted = await self._read_change(kompute_id, sent)
                named = await self._durable.fit_name(facts.project_id, wanted.name)
                return [*named, *self._updated(facts, wanted)]

            await self._durable.write(rename, explain=explain)
            return nothing_to_do(await self._catalog.get(KOMPUTES, kompute_id))

        async def prepare() -> Submission[Work]:
            stored, facts, wanted = await self._read_change(kompute_id, sent)
            named = await self._durable.fit_name(facts.project_id, wanted.name)
            demand = growth(stored, wanted)
            await self._durable.check_quota(facts.project_id, demand)
            room = growth_guard(facts.instance_id, vcpus=wanted.vcpus, memory_bytes=wanted.memory)
            await self._durable.check_room(room, facts.host_name)
            disks = facts.list_disks()
            changes = change_disks(
                facts, stored, wanted, data_id=data_id, now_ms=self._durable.now_ms
            )
            at_work = {disk.storage_pool_id for disk in disks if not disk.is_current}
            if changes:
                at_work |= set(facts.list_pools())
            added = [data_id] if given(wanted.data_disk, 0) and len(disks) == 1 else []
            job = await kompute_job(self._durable, facts, sorted(at_work), added)
            return job.submission(
                asked,
                KOMPUTE_UPDATE,
                (
                    *named,
                    *quota_guard(facts.project_id, demand),
                    *guard(room),
                    *self._updated(facts, wanted),
                    *changes,
                ),
            )

        return await self._durable.begin(
            asked, KOMPUTE_UPDATE, prepare, self._answer, explain=explain
        )

    async def delete(self, asked: Asked, kompute_id: str) -> Begun[None]:
        """Remove a machine with all its parts, or stop its making.

        Raises:
            NotFound: it does not exist.
            Unavailable: no agent of its host or of its pool is connected.
        """
        check_id(KOMPUTES, kompute_id)

        async def prepare() -> Submission[Work]:
            facts = await self._facts(kompute_id)
            job = await kompute_job(self._durable, facts, facts.list_pools())
            return job.submission(
                asked,
                KOMPUTE_DELETE,
                (
                    *guard(kompute_guard(kompute_id, facts.generation)),
                    *begin_delete_kompute(kompute_id),
                ),
            )

        return await self._durable.begin_delete(
            asked, KOMPUTE_DELETE, target("kompute", kompute_id), KOMPUTE_CREATE, prepare
        )

    async def explain(
        self,
        project_id: str,
        zone_id: str,
        *,
        vcpus: int,
        memory_bytes: int,
        options: KomputeOptions,
    ) -> Decision:
        """Return where such a machine would go, and why not elsewhere; nothing is promised.

        Raises:
            NotFound: the project or the zone does not exist.
            Invalid: a size is out of bounds, or there is no such pool or template.
        """
        await self._catalog.require(PROJECTS, project_id)
        await self._catalog.require(ZONES, zone_id)
        check_vcpus(vcpus)
        check_memory(memory_bytes)
        zone = await self._durable.require(RegionOfZone, region_of_zone(zone_id), f"zone {zone_id}")
        pool = await choose_pool(self._durable, zone.region_id, options.pool_id)
        template = await choose_template(
            self._durable, pool, options.template_id, MAX_DISK_BYTES, "disk"
        )
        return await self._placement.explain(
            Needs(
                instance_id=new_id(),
                zone_id=zone_id,
                project_id=project_id,
                vcpus=vcpus,
                memory_bytes=memory_bytes,
                architecture=template.architecture,
                agents=pool.local_agents,
            )
        )

    async def _choose_sources(
        self, project_id: str, zone_id: str, wanted: Kompute, options: KomputeOptions
    ) -> _Sources:
        zone = await self._durable.require(RegionOfZone, region_of_zone(zone_id), f"zone {zone_id}")
        pool = await choose_pool(self._durable, zone.region_id, options.pool_id)
        template = await choose_template(
            self._durable, pool, options.template_id, wanted.disk, "disk"
        )
        private = await self._durable.rows(
            SubnetChoice, subnet_in_region(project_id, zone.region_id)
        )
        if not private:
            raise Invalid(
                f"project {project_id} has no subnet in region {zone.region_id}",
                hint="add the region to the project",
            )
        public = await self._public_subnet(zone.region_id) if options.public else None
        return _Sources(
            pool=pool,
            template=template,
            private_subnet=private[0].subnet_id,
            public_subnet=public,
        )

    async def _public_subnet(self, region_id: str) -> str:
        found = await self._durable.rows(SubnetChoice, public_subnet(region_id))
        if not found:
            raise Invalid(
                f"region {region_id} has no public subnet to take an address from",
                hint="make a subnet the default of the region's first public virtual network",
                field="public",
            )
        return found[0].subnet_id

    async def _read_change(
        self, kompute_id: str, sent: Kompute
    ) -> tuple[Kompute, KomputeFacts, Kompute]:
        """Return what is stored, what belongs to it, and what is wanted, which was accepted."""
        facts = await self._facts(kompute_id)
        stored, _ = await self._catalog.read(KOMPUTES, kompute_id, Consistency.LINEARIZABLE)
        wanted = merged(stored, sent)
        refuse_going("kompute", kompute_id, facts.phase)
        check_kompute(wanted)
        check_kompute_change(stored, wanted)
        return stored, facts, wanted

    def _updated(self, facts: KomputeFacts, wanted: Kompute) -> list[Statement]:
        return [
            *guard(kompute_guard(facts.id, facts.generation)),
            *update_kompute(facts.id, wanted, self._durable.now_ms),
        ]

    async def _facts(self, kompute_id: str) -> KomputeFacts:
        return await self._durable.require(
            KomputeFacts, kompute_facts(kompute_id), f"kompute {kompute_id}"
        )

    async def _name_taken(
        self, kompute_id: str, wanted: Kompute, conflict: Conflict
    ) -> Conflict | None:
        taken = await self._catalog.taken(KOMPUTES, "", wanted, conflict)
        if taken is not conflict:
            return taken
        found = await self._durable.rows(TakenName, taken_part_names(wanted.name, kompute_id))
        if not found:
            return None
        other = found[0]
        return Conflict(
            f"{other.kind} {other.name!r} exists already as {other.id}; a part of this kompute"
            " would have that name",
            hint="choose another name",
            id=other.id,
        )

    async def _no_address_left(
        self, project_id: str, zone_id: str, *, public: bool
    ) -> KowabungaError:
        """Name the subnets that it could be: the batch tells only that one is full."""
        zone = await self._durable.require(RegionOfZone, region_of_zone(zone_id), f"zone {zone_id}")
        subnets = await self._durable.rows(
            SubnetChoice, subnet_in_region(project_id, zone.region_id)
        )
        if public:
            subnets += await self._durable.rows(SubnetChoice, public_subnet(zone.region_id))
        return no_address_left(" or ".join(subnet.subnet_id for subnet in subnets))

    async def _answer(self, operation: Operation) -> Kompute:
        return await self._catalog.get(KOMPUTES, object_of(operation))


def _machine(kompute: Kompute) -> Kompute:
    """Return the part of a Kompute that its domain must follow before an answer."""
    return msgspec.structs.replace(kompute, name="", description="")
