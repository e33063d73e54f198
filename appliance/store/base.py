"""The Store protocol: `query` and atomic `batch`, and nothing else to misuse.

No interactive transaction exists, because rqlite has none. Ids, times and random numbers are made
in Python: statements replicate as text and must mean the same on every member.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, TypeVar

import msgspec

from appliance.core.errors import NotFound

# No float: rqlite's JSON turns 3.0 into 3. No blob: its JSON has none. Encode as text or integer.
SqlValue = str | int | None
Row = dict[str, SqlValue]

T = TypeVar("T", bound=msgspec.Struct)


class Consistency(StrEnum):
    """How fresh a read must be; names are rqlite's read levels. SQLite is always linearizable."""

    NONE = "none"  # dashboards: any member, maybe stale
    WEAK = "weak"  # lists and single reads
    LINEARIZABLE = "linearizable"  # reads that feed a decision


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement with `?` placeholders. The text is a literal, never built from values."""

    sql: str
    parameters: tuple[SqlValue, ...] = ()


class Store(Protocol):
    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        """Run one SELECT and return its rows, keyed by column name.

        Raises:
            Invalid: a value cannot be stored (see `statements`).
            Unavailable: nobody can answer at this consistency now.
            Corrupt: the database file is damaged.
        """
        ...

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        """Run the statements as one transaction; return the number of rows each changed.

        Durable when it returns. Any error means that nothing happened, except
        DeadlineExceeded, whose outcome is unknown: read back the ids that you made.

        Raises:
            Conflict: a UNIQUE, PRIMARY KEY, FOREIGN KEY, NOT NULL or CHECK constraint refused;
                `context["constraint"]` is its kind ("unique", "foreign_key", ...) and
                `context["columns"]` names what clashed ("agent.name"), where SQLite tells. A
                primary key is "unique" too; a wrong type is "datatype".
            Invalid: a value cannot be stored: an integer beyond 64 bits, a NUL in a text.
            Stale: a guard (see `guard`) did not hold.
            Unavailable: nothing was written; try again.
            DeadlineExceeded: the answer did not come.
        """
        ...

    async def close(self) -> None: ...


_EMPTY_GUARD: Final = Statement("DELETE FROM txn_guard")


def guard(condition: Statement) -> tuple[Statement, Statement]:
    """Return the two statements that make a batch apply only if `condition` selects 1.

    `condition` is a SELECT of one 0-or-1 value; no row, or NULL, counts as 0. Put the first
    statement before what it protects and the second anywhere after it. The CHECK of
    `txn_guard.ok` breaks the whole batch.
    """
    return Statement(
        "INSERT INTO txn_guard (ok) SELECT coalesce((" + condition.sql + "), 0)",
        condition.parameters,
    ), _EMPTY_GUARD


def guard_none(query: Statement) -> tuple[Statement, Statement]:
    """Return the two statements that make a batch apply only if `query` selects no row.

    Used like those of `guard`.
    """
    return Statement(
        "INSERT INTO txn_guard (ok) SELECT NOT EXISTS (" + query.sql + ")", query.parameters
    ), _EMPTY_GUARD


async def fetch(
    store: Store, kind: type[T], statement: Statement, consistency: Consistency = Consistency.WEAK
) -> list[T]:
    """Query and convert each row to `kind`; 0 and 1 become booleans where the field is one."""
    rows = await store.query(statement, consistency)
    return [msgspec.convert(row, kind, strict=False) for row in rows]


async def fetch_one(
    store: Store,
    kind: type[T],
    statement: Statement,
    what: str,
    consistency: Consistency = Consistency.WEAK,
) -> T:
    """Query the single row of `what` (for the message: "agent 0123..").

    Raises:
        NotFound: no row.
    """
    rows = await fetch(store, kind, statement, consistency)
    if not rows:
        raise NotFound(f"{what} does not exist")
    return rows[0]
