"""Create, read, change and delete objects that are rows and nothing else.

One implementation for every such kind: what is peculiar to a kind is in its `Table`. Each change is
one batch. Constraints and guards decide, and what they refuse is explained afterwards.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import Conflict, Invalid, NotFound, Stale, Unavailable
from appliance.core.ids import ID_PATTERN, new_id
from appliance.resources.fields import merged, with_defaults
from appliance.resources.names import quoted
from appliance.resources.table import GENERATION, Children, Part, Rule, Table, View
from appliance.store.base import Consistency, Row, Statement, Store, guard, guard_none

S = TypeVar("S", bound=msgspec.Struct)
# Where the Struct does not matter.
AnyTable = Table[Any]
AnyView = View[Any]
AnyPart = Part[Any]
TRIES: Final = 16  # of one change that others overtake
_ID: Final = re.compile(ID_PATTERN)


class Catalog:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def list_ids(self, table: AnyView, *, of_user: str | None = None) -> list[str]:
        """Return all visible ids in order of creation; of a user, those of their projects."""
        ids = _ids(await self._store.query(table.list_ids))
        if of_user is None:
            return ids
        own = set(_ids(await self._store.query(objects_of_user(of_user))))
        return [each for each in ids if each in own]

    async def list_below(
        self, below: Callable[[str], Statement], parent: AnyView, parent_id: str
    ) -> list[str]:
        """Return the ids that `below` selects for one parent.

        Raises:
            NotFound: the parent does not exist.
        """
        ids = _ids(await self._store.query(below(parent_id))) if is_id(parent_id) else []
        if not ids:
            await self.require(parent, parent_id)
        return ids

    async def get(self, table: View[S], object_id: str) -> S:
        """Return one object.

        Raises:
            NotFound: it does not exist, or is not visible yet.
        """
        found, _ = await self.read(table, object_id, Consistency.WEAK)
        return found

    async def get_part(self, table: AnyView, part: Part[S], object_id: str) -> S:
        """Return something else that the row of an object tells.

        Raises:
            NotFound: the object does not exist.
        """
        rows = await self._store.query(part.read(object_id)) if is_id(object_id) else []
        if not rows:
            raise missing(table, object_id)
        return part.decode(rows[0])

    async def require(self, table: AnyView, object_id: str) -> None:
        """Raise NotFound unless the object exists."""
        await self.read(table, object_id, Consistency.WEAK)

    async def create(
        self, table: Table[S], sent: S, parent: AnyView | None = None, parent_id: str = ""
    ) -> S:
        """Write a new object and return it as it can be read from now on.

        Raises:
            NotFound: the parent does not exist.
            Invalid: a rule is broken, or a reference leads nowhere.
            Conflict: the name is taken.
        """
        if parent is not None:
            await self.require(parent, parent_id)
        wanted = with_defaults(sent)
        table.check(wanted)
        object_id = new_id()
        for _ in range(TRIES):
            insert = table.insert(object_id, parent_id, wanted, self._clock.now_ms())
            try:
                await self._store.batch(
                    [*ruled(table.rules, object_id, parent_id, wanted), *insert]
                )
            except Stale:
                await self.refuse_taken(table, parent_id, wanted)  # a repeated create breaks rules
                await self.refuse_offenders(table.rules, object_id, parent_id, wanted)
            except Conflict as conflict:
                if parent is not None:
                    await self.require(parent, parent_id)  # it may have gone meanwhile
                raise await self.taken(table, parent_id, wanted, conflict) from conflict
            else:
                return await self.get(table, object_id)
        raise Unavailable(f"what {table.title} {object_id} depends on is being changed by many")

    async def update(self, table: Table[S], object_id: str, sent: S) -> S:
        """Replace what was sent, keep the rest, and return the object.

        An update without a difference writes nothing, so it always succeeds.

        Raises:
            NotFound: it does not exist.
            Invalid: a rule is broken, a reference leads nowhere, or the name is another's.
        """
        for _ in range(TRIES):
            stored, generation = await self.read(table, object_id, Consistency.LINEARIZABLE)
            wanted = merged(stored, sent)
            if wanted == stored:
                return stored
            table.check(wanted)
            table.check_change(stored, wanted)
            unchanged = guard(table.guard(object_id, generation))
            update = table.update(object_id, wanted, self._clock.now_ms())
            try:
                await self._store.batch(
                    [*unchanged, *ruled(table.rules, object_id, "", wanted), *update]
                )
            except Stale:
                await self.refuse_offenders(table.rules, object_id, "", wanted)
            except Conflict as conflict:
                taken = await self.taken(table, "", wanted, conflict)
                raise Invalid(taken.detail, field="name") from conflict
            else:
                return await self.get(table, object_id)
        raise Unavailable(f"{table.title} {object_id} is being changed by many at once")

    async def set_default(
        self, table: AnyTable, object_id: str, parent: AnyView, parent_id: str
    ) -> None:
        """Make an object the default of its parent, instead of the one before.

        Raises:
            NotFound: the parent does not exist, or has no such object.
        """
        assert table.set_default is not None
        await self.require(parent, parent_id)
        await self.require(table, object_id)
        *_, changed = await self._store.batch(table.set_default(parent_id, object_id))
        if not changed:
            raise NotFound(
                f"{table.title} {object_id} does not belong to {parent.title} {parent_id}"
            )

    async def delete(self, table: AnyTable, object_id: str) -> None:
        """Remove an object.

        Raises:
            NotFound: it does not exist.
            Conflict: others are left that belong to it or refer to it.
        """
        await self.read(table, object_id, Consistency.LINEARIZABLE)
        try:
            changed = await self._store.batch(table.delete(object_id))
        except Conflict as conflict:
            raise await self.in_use(table, table.children, object_id) from conflict
        if not any(changed):
            raise missing(table, object_id)

    async def read(self, table: View[S], object_id: str, consistency: Consistency) -> tuple[S, int]:
        # Ids are opaque: any other text, a name too, is the id of nothing.
        rows = (
            await self._store.query(table.read(object_id), consistency) if is_id(object_id) else []
        )
        if not rows:
            raise missing(table, object_id)
        generation = rows[0].pop(GENERATION)
        assert isinstance(generation, int)
        return table.decode(rows[0]), generation

    async def taken(
        self, table: View[S], parent_id: str, wanted: S, conflict: Conflict
    ) -> Conflict:
        """Return the conflict in the words of the user who met it."""
        if conflict.context.get("constraint") != "unique":
            return conflict
        try:
            await self.refuse_taken(table, parent_id, wanted)
        except Conflict as taken:
            return taken
        return conflict

    async def refuse_taken(self, table: View[S], parent_id: str, wanted: S) -> None:
        """Raise Conflict when an object has the name of one that was to be made."""
        name: str | None = getattr(wanted, "name", None)
        if name is None:
            return
        rows = await self._store.query(table.find_named(parent_id, name), Consistency.LINEARIZABLE)
        if rows:
            (taken_by,) = _ids(rows)
            raise Conflict(
                f"{table.title} {quoted(name)} exists already as {taken_by}",
                hint="choose another name",
                id=taken_by,
            )

    async def refuse_offenders(
        self, rules: Sequence[Rule[S]], object_id: str, parent_id: str, wanted: S
    ) -> None:
        """Refuse what breaks a rule; the rules may hold again by now."""
        for rule in rules:
            rows = await self._store.query(
                rule.offenders(object_id, parent_id, wanted), Consistency.LINEARIZABLE
            )
            if rows:
                rule.refuse(wanted, rows[0])

    async def in_use(self, table: AnyView, kinds: Sequence[Children], object_id: str) -> Conflict:
        """Return the conflict that names what keeps an object from being deleted."""
        left: list[str] = []
        for children in kinds:
            (row,) = await self._store.query(children.count(object_id), Consistency.LINEARIZABLE)
            if row["children"]:
                left.append(f"{children.plural} ({row['children']})")
        return Conflict(
            f"{table.title} {object_id} is in use by {', '.join(left) or 'others'}",
            hint="remove those first",
        )


def objects_of_user(user_id: str) -> Statement:
    """Select the ids of what belongs to the projects of a user's teams."""
    return Statement(
        "SELECT object_id AS id FROM project_object JOIN project_team USING (project_id)"
        " JOIN team_user USING (team_id) WHERE user_id = ?",
        (user_id,),
    )


def ruled(
    rules: Sequence[Rule[S]], object_id: str, parent_id: str, wanted: S
) -> Iterator[Statement]:
    """Return what lets a batch apply only while no rule is broken."""
    for rule in rules:
        yield from guard_none(rule.offenders(object_id, parent_id, wanted))


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def check_id(table: AnyView, object_id: str) -> None:
    """Raise NotFound for a text that is the id of nothing."""
    if not is_id(object_id):
        raise missing(table, object_id)


def _ids(rows: list[Row]) -> list[str]:
    return [str(row["id"]) for row in rows]


def missing(table: AnyView, object_id: str) -> NotFound:
    return NotFound(f"{table.title} {quoted(object_id)} does not exist")
