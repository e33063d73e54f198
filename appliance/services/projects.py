"""Projects: rows, a private subnet in each region, and a password that is kept sealed."""

from typing import Final

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import (
    Conflict,
    Forbidden,
    InsufficientResource,
    Invalid,
    Stale,
    Unavailable,
)
from appliance.core.ids import new_id
from appliance.core.secret import Secret
from appliance.resources.allocation import exhausted, regions_without_subnet
from appliance.resources.fields import given, merged, with_defaults
from appliance.resources.names import quoted
from appliance.resources.project import (
    DEFAULT_SUBNET_SIZE,
    PROJECT_CHILDREN,
    PROJECT_RULES,
    PROJECTS,
    ROOT_PASSWORD,
    Project,
    check_project,
    check_subnet_size,
    delete_project,
    insert_project,
    secret_owner,
    unchanged,
    update_project,
)
from appliance.services.catalog import TRIES, Catalog, ruled
from appliance.services.secrets import Sealer, Secrets, forget
from appliance.store.base import Consistency, Statement, Store, guard

NO_SUBNET_LEFT: Final = "project_region.subnet_id"


class Projects:
    """Listing is the catalog's."""

    def __init__(self, store: Store, catalog: Catalog, secrets: Secrets, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._secrets = secrets
        self._clock = clock

    async def get(self, project_id: str) -> Project:
        """Return a project, its password included.

        Raises:
            NotFound: it does not exist.
            Corrupt: the password was tampered with.
        """
        project, _ = await self._read(project_id, Consistency.WEAK)
        return project

    async def create(self, sent: Project, subnet_size: int | None) -> Project:
        """Make a project with a private subnet in each of its regions.

        Args:
            sent: as it came.
            subnet_size: prefix length of the smallest subnet that will do.

        Raises:
            Invalid: a rule is broken, or a team or region does not exist.
            Conflict: the name is taken.
            InsufficientResource: a region has no free private subnet that is large enough.
        """
        prefix_length = DEFAULT_SUBNET_SIZE if subnet_size is None else subnet_size
        check_subnet_size(prefix_length)
        wanted = with_defaults(sent)
        check_project(wanted)
        project_id = new_id()
        for _ in range(TRIES):
            rows = [
                *ruled(PROJECT_RULES, project_id, "", wanted),
                *insert_project(project_id, wanted, prefix_length, self._clock.now_ms()),
            ]
            try:
                await self._write(project_id, wanted, rows)
            except Stale:
                await self._catalog.refuse_offenders(PROJECT_RULES, project_id, "", wanted)
            except Conflict as conflict:
                if not exhausted(conflict, NO_SUBNET_LEFT):
                    raise await self._catalog.taken(PROJECTS, "", wanted, conflict) from conflict
                await self._refuse_without_subnet(project_id, wanted, prefix_length)
            else:
                return await self.get(project_id)
        raise Unavailable("what the project depends on is being changed by many")

    async def update(
        self, project_id: str, sent: Project, *, may_change_limits: bool = True
    ) -> Project:
        """Replace what was sent, keep the rest.

        A region that is added gives a subnet, one that is left out gets its own back. A quota may
        be set below what is in use: then nothing more can be made.

        Raises:
            NotFound: it does not exist.
            Forbidden: quotas, teams or regions change, and the caller may not change them.
            Invalid: a rule is broken, a reference leads nowhere, the name is another's, or machines
                are left in a region that was left out.
            InsufficientResource: an added region has no free private subnet that is large enough.
        """
        for _ in range(TRIES):
            stored, generation = await self._read(project_id, Consistency.LINEARIZABLE)
            wanted = merged(stored, sent)
            # As they are told: the order in which they were sent means nothing.
            wanted = msgspec.structs.replace(
                wanted, teams=sorted(wanted.teams), regions=sorted(wanted.regions)
            )
            if wanted == stored:
                return stored
            if not may_change_limits:
                _keep_limits(stored, wanted)
            check_project(wanted)
            rows = [
                *guard(unchanged(project_id, generation)),
                *ruled(PROJECT_RULES, project_id, "", wanted),
                *update_project(project_id, wanted, self._clock.now_ms()),
            ]
            try:
                await self._write(project_id, wanted, rows)
            except Stale:
                await self._catalog.refuse_offenders(PROJECT_RULES, project_id, "", wanted)
            except Conflict as conflict:
                if not exhausted(conflict, NO_SUBNET_LEFT):
                    taken = await self._catalog.taken(PROJECTS, "", wanted, conflict)
                    raise Invalid(taken.detail, field="name") from conflict
                await self._refuse_without_subnet(project_id, wanted, DEFAULT_SUBNET_SIZE)
            else:
                return await self.get(project_id)
        raise Unavailable(f"project {project_id} is being changed by many at once")

    async def delete(self, project_id: str) -> None:
        """Remove a project; its subnets and its password are free and gone at once.

        Raises:
            NotFound: it does not exist.
            Conflict: it has machines or disks, or services of its own.
        """
        await self._catalog.require(PROJECTS, project_id)
        try:
            *_, removed = await self._store.batch(delete_project(project_id))
        except Conflict as conflict:
            raise await self._catalog.in_use(PROJECTS, PROJECT_CHILDREN, project_id) from conflict
        if not removed:
            await self._catalog.require(PROJECTS, project_id)  # another was faster

    async def _read(self, project_id: str, consistency: Consistency) -> tuple[Project, int]:
        # The password is read last: if it changed in between, so did the generation.
        project, generation = await self._catalog.read(PROJECTS, project_id, consistency)
        password = await self._secrets.find(secret_owner(project_id), ROOT_PASSWORD)
        if password is not None:
            project = msgspec.structs.replace(project, root_password=password.reveal_text())
        return project, generation

    async def _write(self, project_id: str, wanted: Project, rows: list[Statement]) -> None:
        owner = secret_owner(project_id)
        password = given(wanted.root_password, "")

        def build(sealer: Sealer) -> list[Statement]:
            if not password:
                return [*rows, forget(owner, ROOT_PASSWORD)]
            return [*rows, sealer.put(owner, ROOT_PASSWORD, Secret(password))]

        await self._secrets.batch(build)

    async def _refuse_without_subnet(
        self, project_id: str, wanted: Project, prefix_length: int
    ) -> None:
        """Refuse if a region has no subnet to give; by now it may have one again."""
        query = regions_without_subnet(
            project_id, msgspec.json.encode(wanted.regions).decode(), prefix_length
        )
        if rows := await self._store.query(query, Consistency.LINEARIZABLE):
            raise InsufficientResource(
                f"region {quoted(str(rows[0]['name']))} has no free private subnet of"
                f" /{rows[0]['prefix_length']} or larger",
                hint="add a subnet to a private virtual network of the region",
            )


def _keep_limits(stored: Project, wanted: Project) -> None:
    """Refuse what decides how much of the cloud a project gets, and who gets it."""
    for name in ("quotas", "teams", "regions"):
        if getattr(stored, name) != getattr(wanted, name):
            raise Forbidden(
                f"the {name} of a project are for super administrators to change", field=name
            )
