"""Volumes: virtual disks of a project, made, grown and removed by operations."""

from appliance.core.errors import Conflict, Invalid, KowabungaError
from appliance.core.ids import new_id
from appliance.model.target import target
from appliance.operations.operation import Operation
from appliance.operations.step import Submission
from appliance.resources.choice import (
    PoolChoice,
    TemplateChoice,
    pool_choice,
    pool_guard,
    template_choice,
    template_is_ready,
)
from appliance.resources.fields import given, merged, with_defaults
from appliance.resources.names import quoted
from appliance.resources.project import PROJECTS, Demand, quota_guard
from appliance.resources.region import REGIONS
from appliance.resources.volume import (
    VOLUME_CREATE,
    VOLUME_DELETE,
    VOLUME_UPDATE,
    VOLUMES,
    Volume,
    VolumeFacts,
    VolumeType,
    begin_delete_volume,
    check_volume,
    check_volume_change,
    insert_volume,
    rename_volume,
    resize_volume,
    volume_facts,
    volume_guard,
)
from appliance.resources.work import Work
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
from appliance.services.jobs import volume_job
from appliance.store.base import Consistency, Statement, guard


class Volumes:
    """Reading and listing are the catalog's."""

    def __init__(self, durable: Durable, catalog: Catalog) -> None:
        self._durable = durable
        self._catalog = catalog

    async def create(
        self,
        asked: Asked,
        project_id: str,
        region_id: str,
        sent: Volume,
        *,
        pool_id: str | None,
        template_id: str | None,
    ) -> Begun[Volume]:
        """Make an empty disk, or one with a system, cloned from a template.

        Raises:
            NotFound: the project or the region does not exist.
            Invalid: a rule is broken, or there is no such pool or template.
            Conflict: the name is taken.
            InsufficientResource: the project's quota.
            Unavailable: no agent of the pool is connected.
        """
        volume_id = new_id()
        wanted = with_defaults(sent)

        async def prepare() -> Submission[Work]:
            await self._catalog.require(PROJECTS, project_id)
            await self._catalog.require(REGIONS, region_id)
            check_volume(wanted)
            pool = await choose_pool(self._durable, region_id, pool_id)
            template = await self._choose_template(wanted, pool, template_id)
            demand = Demand(storage_bytes=wanted.size)
            await self._durable.check_quota(project_id, demand)
            agent_id = self._durable.agent_of_pool(pool)
            return Submission(
                kind=VOLUME_CREATE,
                arguments=Work(volume_id, storage_agents={pool.storage_pool_id: agent_id}),
                targets=(target("volume", volume_id),),
                principal=asked.principal,
                request_key=asked.key,
                statements=(
                    *quota_guard(project_id, demand),
                    *guard(pool_guard(pool.storage_pool_id, agent_id)),
                    *(() if template is None else guard(template_is_ready(template.id))),
                    insert_volume(
                        volume_id,
                        wanted,
                        project_id=project_id,
                        storage_pool_id=pool.storage_pool_id,
                        template_id=None if template is None else template.id,
                        now_ms=self._durable.now_ms,
                    ),
                ),
            )

        async def explain(conflict: Conflict) -> KowabungaError:
            return await self._catalog.taken(VOLUMES, "", wanted, conflict)

        return await self._durable.begin(
            asked,
            VOLUME_CREATE,
            prepare,
            self._answer,
            explain=explain,
            refuse_taken=lambda: self._catalog.refuse_taken(VOLUMES, "", wanted),
        )

    async def update(self, asked: Asked, volume_id: str, sent: Volume) -> Begun[Volume]:
        """Rename a volume at once; grow it, the running guest's view of it too.

        Raises:
            NotFound: it does not exist.
            Invalid: a rule is broken, it would shrink, a Kompute owns it, or the name is another's.
            InsufficientResource: the project's quota.
            Unavailable: no agent of its pool, or of its instance's host, is connected.
        """
        stored, _ = await self._catalog.read(VOLUMES, volume_id, Consistency.LINEARIZABLE)
        if merged(stored, sent) == stored:
            return nothing_to_do(stored)
        if merged(stored, sent).size == stored.size:
            return nothing_to_do(await self._rename(volume_id, sent))

        async def prepare() -> Submission[Work]:
            stored, facts, wanted = await self._read_change(volume_id, sent)
            demand = Demand(storage_bytes=wanted.size - stored.size)
            await self._durable.check_quota(facts.project_id, demand)
            job = await volume_job(self._durable, facts)
            return job.submission(
                asked,
                VOLUME_UPDATE,
                (
                    *quota_guard(facts.project_id, demand),
                    *self._renamed(volume_id, facts, wanted),
                    resize_volume(volume_id, wanted.size, self._durable.now_ms),
                ),
            )

        async def explain(conflict: Conflict) -> KowabungaError:
            return await self._name_taken(sent, conflict)

        return await self._durable.begin(
            asked, VOLUME_UPDATE, prepare, self._answer, explain=explain
        )

    async def delete(self, asked: Asked, volume_id: str) -> Begun[None]:
        """Remove a volume, or stop its making.

        Raises:
            NotFound: it does not exist.
            Conflict: an instance has it, or a Kompute owns it.
            Unavailable: no agent of its pool is connected.
        """
        check_id(VOLUMES, volume_id)

        async def prepare() -> Submission[Work]:
            facts = await self._facts(volume_id)
            refuse_owned("volume", volume_id, facts.kompute_id)
            if facts.instance_id is not None:
                raise Conflict(
                    f"volume {volume_id} is in use by instance {facts.instance_id}",
                    hint="take it from the instance first",
                )
            job = await volume_job(self._durable, facts)
            return job.submission(
                asked,
                VOLUME_DELETE,
                begin_delete_volume(volume_id),
            )

        return await self._durable.begin_delete(
            asked, VOLUME_DELETE, target("volume", volume_id), VOLUME_CREATE, prepare
        )

    async def _rename(self, volume_id: str, sent: Volume) -> Volume:
        """Change what no image shows: no agent is needed."""

        async def change() -> list[Statement]:
            _, facts, wanted = await self._read_change(volume_id, sent)
            return self._renamed(volume_id, facts, wanted)

        async def explain(conflict: Conflict) -> KowabungaError:
            return await self._name_taken(sent, conflict)

        await self._durable.write(change, explain=explain)
        return await self._catalog.get(VOLUMES, volume_id)

    def _renamed(self, volume_id: str, facts: VolumeFacts, wanted: Volume) -> list[Statement]:
        return [
            *guard(volume_guard(volume_id, facts.generation)),
            rename_volume(
                volume_id, wanted.name, given(wanted.description, ""), self._durable.now_ms
            ),
        ]

    async def _read_change(
        self, volume_id: str, sent: Volume
    ) -> tuple[Volume, VolumeFacts, Volume]:
        """Return what is stored, what belongs to it, and what is wanted, which was accepted."""
        facts = await self._facts(volume_id)
        stored, _ = await self._catalog.read(VOLUMES, volume_id, Consistency.LINEARIZABLE)
        wanted = merged(stored, sent)
        refuse_owned("volume", volume_id, facts.kompute_id)
        refuse_going("volume", volume_id, facts.phase)
        check_volume(wanted)
        check_volume_change(stored, wanted)
        return stored, facts, wanted

    async def _facts(self, volume_id: str) -> VolumeFacts:
        return await self._durable.require(
            VolumeFacts, volume_facts(volume_id), f"volume {volume_id}"
        )

    async def _choose_template(
        self, wanted: Volume, pool: PoolChoice, template_id: str | None
    ) -> TemplateChoice | None:
        match wanted.type:
            case VolumeType.ISO:
                raise Invalid(
                    "a volume of type iso cannot be made: there is nowhere to take its content"
                    " from",
                    hint="an instance gets its CD-ROM for cloud-init by itself",
                    field="type",
                )
            case VolumeType.RAW:
                if template_id:
                    raise Invalid("a volume of type raw has no template", field="templateId")
                return None
            case VolumeType.OS:
                return await choose_template(self._durable, pool, template_id, wanted.size, "size")

    async def _name_taken(self, sent: Volume, conflict: Conflict) -> KowabungaError:
        taken = await self._catalog.taken(VOLUMES, "", sent, conflict)
        return Invalid(taken.detail, hint=taken.hint, field="name")

    async def _answer(self, operation: Operation) -> Volume:
        return await self._catalog.get(VOLUMES, object_of(operation))


async def choose_pool(durable: Durable, region_id: str, pool_id: str | None) -> PoolChoice:
    """Return the storage pool that is named, or the default of the region.

    Raises:
        Invalid: there is none.
    """
    found = await durable.rows(PoolChoice, pool_choice(region_id, pool_id or None))
    if found:
        return found[0]
    raise Invalid(
        f"region {region_id} has no storage pool {quoted(pool_id)}"
        if pool_id
        else f"region {region_id} has no default storage pool",
        hint="list the pools of the region",
        field="poolId",
    )


async def choose_template(
    durable: Durable, pool: PoolChoice, template_id: str | None, size_bytes: int, field: str
) -> TemplateChoice:
    """Return the template that is named, or the default of the pool, for a disk of this size.

    Raises:
        Invalid: there is none, or the disk (`field`) is smaller than its image.
    """
    pool_id = pool.storage_pool_id
    found = await durable.rows(TemplateChoice, template_choice(pool_id, template_id or None))
    if not found:
        raise Invalid(
            f"storage pool {pool_id} has no template {quoted(template_id)}"
            if template_id
            else f"storage pool {pool_id} has no default template",
            hint="import a template into this pool",
            field="templateId",
        )
    template = found[0]
    if size_bytes < template.size_bytes:
        raise Invalid(
            f"{field} is {size_bytes}; the image of template {template.id} has"
            f" {template.size_bytes} bytes",
            field=field,
        )
    return template
