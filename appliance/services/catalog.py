"""Create, read, change and delete objects that are rows and nothing else.

One implementation for every such kind: what is peculiar to a kind is in its `Table`. Each change is
one batch. Constraints decide, and what they refuse is explained afterwards.
"""

from typing import Any, Final, TypeVar

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import Conflict, Invalid, NotFound, Stale, Unavailable
from appliance.core.ids import new_id
from appliance.resources.fields import merged, with_defaults
from appliance.resources.names import quoted
from appliance.resources.table import GENERATION, Table
from appliance.store.base import Consistency, Row, Store, guard

S = TypeVar("S", bound=msgspec.Struct)
AnyTable = Table[Any]  # where the Struct of a parent or a child does not matter
_TRIES: Final = 16  # of one change that others overtake


class Catalog:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def list_ids(self, table: AnyTable) -> list[str]:
        """Return all visible ids in order of creation."""
        return _ids(await self._store.query(table.list_ids))

    async def list_children_ids(
        self, table: AnyTable, parent: AnyTable, parent_id: str
    ) -> list[str]:
        """Return the ids under one parent.

        Raises:
            NotFound: the parent does not exist.
        """
        assert table.list_children_ids is not None
        ids = _ids(await self._store.query(table.list_children_ids(parent_id)))
        if not ids:
            await self.require(parent, parent_id)
        return ids

    async def get(self, table: Table[S], object_id: str) -> S:
        """Return one object.

        Raises:
            NotFound: it does not exist, or is not visible yet.
        """
        found, _ = await self._read(table, object_id, Consistency.WEAK)
        return found

    async def require(self, table: AnyTable, object_id: str) -> None:
        """Raise NotFound unless the object exists."""
        await self._read(table, object_id, Consistency.WEAK)

    async def create(
        self, table: Table[S], sent: S, parent: AnyTable | None = None, parent_id: str = ""
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
        try:
            await self._store.batch(
                table.insert(object_id, parent_id, wanted, self._clock.now_ms())
            )
        except Conflict as conflict:
            await self._explain_references(table, wanted, conflict)
            if conflict.context.get("constraint") == "foreign_key" and parent is not None:
                await self.require(parent, parent_id)
            raise await self._taken(table, parent_id, wanted, conflict) from conflict
        return await self.get(table, object_id)

    async def update(self, table: Table[S], object_id: str, sent: S) -> S:
        """Replace what was sent, keep the rest, and return the object.

        Raises:
            NotFound: it does not exist.
            Invalid: a rule is broken, a reference leads nowhere, or the name is another's.
        """
        for _ in range(_TRIES):
            stored, generation = await self._read(table, object_id, Consistency.LINEARIZABLE)
            wanted = merged(stored, sent)
            table.check(wanted)
            table.check_change(stored, wanted)
            unchanged, end = guard(table.guard(object_id, generation))
            change = table.update(object_id, wanted, self._clock.now_ms())
            try:
                await self._store.batch([unchanged, *change, end])
            except Stale:
                continue
            except Conflict as conflict:
                await self._explain_references(table, wanted, conflict)
                taken = await self._taken(table, "", wanted, conflict)
                raise Invalid(taken.detail, field="name") from conflict
            return await self.get(table, object_id)
        raise Unavailable(f"{table.title} {object_id} is being changed by many at once")

    async def delete(self, table: AnyTable, object_id: str) -> None:
        """Remove an object.

        Raises:
            NotFound: it does not exist.
            Conflict: others are left that belong to it or refer to it.
        """
        await self._read(table, object_id, Consistency.LINEARIZABLE)
        try:
            changed = await self._store.batch(table.delete(object_id))
        except Conflict as conflict:
            raise await self._in_use(table, object_id) from conflict
        if not any(changed):
            raise _missing(table, object_id)

    async def _read(
        self, table: Table[S], object_id: str, consistency: Consistency
    ) -> tuple[S, int]:
        rows = await self._store.query(table.read(object_id), consistency)
        if not rows:
            raise _missing(table, object_id)
        generation = rows[0].pop(GENERATION)
        assert isinstance(generation, int)
        return table.decode(rows[0]), generation

    async def _taken(
        self, table: Table[S], parent_id: str, wanted: S, conflict: Conflict
    ) -> Conflict:
        """Return the conflict in the words of the user who met it."""
        name: str | None = getattr(wanted, "name", None)
        if conflict.context.get("constraint") != "unique" or name is None:
            return conflict
        rows = await self._store.query(table.find_named(parent_id, name), Consistency.LINEARIZABLE)
        if not rows:
            return conflict
        (taken_by,) = _ids(rows)
        return Conflict(
            f"{table.title} {quoted(name)} exists already as {taken_by}",
            hint="choose another name",
            id=taken_by,
        )

    async def _explain_references(self, table: Table[S], wanted: S, conflict: Conflict) -> None:
        if conflict.context.get("constraint") != "foreign_key":
            return
        for reference in table.references:
            rows = await self._store.query(
                reference.missing(msgspec.json.encode(reference.ids(wanted)).decode()),
                Consistency.LINEARIZABLE,
            )
            if missing := _ids(rows):
                raise Invalid(
                    f"{reference.field} names {quoted(missing[0])}, which does not exist",
                    field=reference.field,
                ) from conflict

    async def _in_use(self, table: AnyTable, object_id: str) -> Conflict:
        left: list[str] = []
        for children in table.children:
            (row,) = await self._store.query(children.count(object_id), Consistency.LINEARIZABLE)
            if row["children"]:
                left.append(f"{children.plural} ({row['children']})")
        return Conflict(
            f"{table.title} {object_id} is in use by {', '.join(left) or 'others'}",
            hint="remove those first",
        )


def _ids(rows: list[Row]) -> list[str]:
    return [str(row["id"]) for row in rows]


def _missing(table: AnyTable, object_id: str) -> NotFound:
    return NotFound(f"{table.title} {quoted(object_id)} does not exist")
