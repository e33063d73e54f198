"""Templates: imported and removed by operations; everything else is the catalog's."""

import msgspec

from appliance.core.errors import Conflict, Invalid, KowabungaError
from appliance.core.ids import new_id
from appliance.model.compute import Architecture, Firmware, Tpm
from appliance.model.target import target
from appliance.operations.operation import Operation
from appliance.operations.step import Submission
from appliance.resources.choice import pool_guard
from appliance.resources.fields import with_defaults
from appliance.resources.storage_pool import STORAGE_POOLS
from appliance.resources.template import (
    TEMPLATE_CREATE,
    TEMPLATE_DELETE,
    TEMPLATES,
    Template,
    TemplatePlace,
    TemplatePlatform,
    begin_delete_template,
    check_template,
    platform_of,
    set_platform,
    template_pool,
    volumes_of_template,
)
from appliance.resources.work import Work
from appliance.services.catalog import Catalog, check_id
from appliance.services.durable import Asked, Begun, Durable, object_of
from appliance.services.jobs import template_job
from appliance.store.base import Statement, guard, guard_none


class _Clone(msgspec.Struct, frozen=True):
    id: str


class _Platform(msgspec.Struct, frozen=True):
    firmware: Firmware
    tpm: Tpm
    architecture: Architecture


class Templates:
    def __init__(self, durable: Durable, catalog: Catalog) -> None:
        self._durable = durable
        self._catalog = catalog

    async def create(self, asked: Asked, pool_id: str, sent: Template) -> Begun[Template]:
        """Import an image into a storage pool; takes as long as the download.

        Raises:
            NotFound: the pool does not exist.
            Invalid: a rule is broken, or no agent acts for the pool.
            Conflict: the name is taken in that pool.
            Unavailable: no agent of the pool is connected.
        """
        template_id = new_id()
        wanted = with_defaults(sent)

        async def prepare() -> Submission[Work]:
            await self._catalog.require(STORAGE_POOLS, pool_id)
            check_template(wanted)
            job = await template_job(self._durable, template_id, pool_id)
            return job.submission(
                asked,
                TEMPLATE_CREATE,
                (
                    *guard(pool_guard(pool_id, job.work.storage_agents[pool_id])),
                    *TEMPLATES.insert(template_id, pool_id, wanted, self._durable.now_ms),
                ),
            )

        async def explain(conflict: Conflict) -> KowabungaError:
            return await self._catalog.taken(TEMPLATES, pool_id, wanted, conflict)

        async def after(operation: Operation) -> Template:
            return await self._catalog.get(TEMPLATES, object_of(operation))

        return await self._durable.begin(
            asked,
            TEMPLATE_CREATE,
            prepare,
            after,
            explain=explain,
            refuse_taken=lambda: self._catalog.refuse_taken(TEMPLATES, pool_id, wanted),
        )

    async def get_platform(self, template_id: str) -> TemplatePlatform:
        """Return the firmware and the TPM of machines from a template.

        Raises:
            NotFound: it does not exist.
        """
        await self._catalog.require(TEMPLATES, template_id)
        (found,) = await self._durable.rows(_Platform, platform_of(template_id))
        return TemplatePlatform(found.firmware, found.tpm)

    async def set_platform(self, template_id: str, platform: TemplatePlatform) -> None:
        """Decide it, before the first machine: an installed system does not change its firmware.

        Raises:
            NotFound: the template does not exist.
            Invalid: its architecture has no such firmware.
            Conflict: volumes were cloned from it, and it would be another platform.
        """
        if await self.get_platform(template_id) == platform:
            return
        (found,) = await self._durable.rows(_Platform, platform_of(template_id))
        if found.architecture is Architecture.AARCH64 and platform.firmware is Firmware.BIOS:
            raise Invalid("firmware cannot be bios: the template is for aarch64", field="firmware")

        async def build() -> list[Statement]:
            if await self._durable.rows(_Clone, clones):
                raise await self._catalog.in_use(TEMPLATES, TEMPLATES.children, template_id)
            unused, closed = guard_none(clones)
            return [unused, set_platform(template_id, platform), closed]

        clones = volumes_of_template(template_id)
        await self._durable.write(build)

    async def delete(self, asked: Asked, template_id: str) -> Begun[None]:
        """Remove a template, or stop its import.

        Raises:
            NotFound: it does not exist.
            Conflict: volumes were cloned from it.
            Unavailable: no agent of its pool is connected.
        """
        check_id(TEMPLATES, template_id)
        clones = volumes_of_template(template_id)

        async def prepare() -> Submission[Work]:
            where = await self._durable.require(
                TemplatePlace, template_pool(template_id), f"template {template_id}"
            )
            if await self._durable.rows(_Clone, clones):
                raise await self._catalog.in_use(TEMPLATES, TEMPLATES.children, template_id)
            unused, closed = guard_none(clones)
            job = await template_job(self._durable, template_id, where.storage_pool_id)
            return job.submission(
                asked,
                TEMPLATE_DELETE,
                (unused, begin_delete_template(template_id), closed),
            )

        return await self._durable.begin_delete(
            asked, TEMPLATE_DELETE, target("template", template_id), TEMPLATE_CREATE, prepare
        )
