import asyncio
import itertools
from collections.abc import Sequence

import pytest

from appliance.core.errors import Conflict, KowabungaError, Unavailable
from appliance.store.base import Consistency, Row, Statement, Store
from appliance.store.migrate import Migration, migrate, parse_migration, shipped_migrations
from tests.contract.store.conftest import OpenStore
from tests.support.clock import ManualClock

_SHIPPED = shipped_migrations()
_NOTES = parse_migration(
    f"{len(_SHIPPED) + 1:04}_notes.sql",
    """
    -- Notes; with a semicolon in a comment.
    CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL DEFAULT ';') STRICT;
    INSERT INTO note (id) VALUES (1);
    CREATE TRIGGER note_copy AFTER INSERT ON note WHEN NEW.id < 10 BEGIN
        INSERT INTO note (id) VALUES (NEW.id + 10);
        UPDATE note SET text = 'copy' WHERE id = NEW.id + 10;
    END;
    INSERT INTO note (id, text) VALUES (2, 'it''s; fine');
    """,
)


async def _schema(store: Store) -> list[Row]:
    return await store.query(Statement("SELECT type, name, sql FROM sqlite_master ORDER BY name"))


class _Interposed:
    """A store that a test can act on right before each batch goes out."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.batches: list[Sequence[Statement]] = []

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        return await self._store.query(statement, consistency)

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        self.batches.append(statements)
        await self.before_batch()
        return await self._store.batch(statements)

    async def before_batch(self) -> None: ...

    async def close(self) -> None: ...


async def test_shipped_migrations_make_the_schema_from_nothing(open_store: OpenStore) -> None:
    async with open_store(()) as store:
        interposed = _Interposed(store)
        await migrate(interposed, clock=ManualClock(now_ms=1234))
        rows = await store.query(Statement("SELECT * FROM schema_migration ORDER BY number"))
        assert [
            (row["number"], row["name"], row["sha256"], row["applied_at_ms"]) for row in rows
        ] == [(ours.number, ours.name, ours.sha256, 1234) for ours in _SHIPPED]
        assert len(interposed.batches) == len(_SHIPPED), "one batch each"


async def test_a_second_run_changes_nothing(open_store: OpenStore) -> None:
    async with open_store(_SHIPPED) as store:
        before = await _schema(store)
        interposed = _Interposed(store)
        await migrate(interposed, clock=ManualClock())
        assert interposed.batches == []
        assert await _schema(store) == before


async def test_an_existing_state_is_brought_forward(open_store: OpenStore) -> None:
    async with open_store(_SHIPPED) as store:
        await migrate(store, clock=ManualClock(), migrations=[*_SHIPPED, _NOTES])
        rows = await store.query(Statement("SELECT id, text FROM note ORDER BY id"))
        assert rows == [
            {"id": 1, "text": ";"}, {"id": 2, "text": "it's; fine"}, {"id": 12, "text": "copy"},
        ]  # fmt: skip


async def test_a_newer_schema_is_refused_with_both_numbers(open_store: OpenStore) -> None:
    newer, known = len(_SHIPPED) + 1, len(_SHIPPED)
    async with open_store([*_SHIPPED, _NOTES]):
        pass
    with pytest.raises(Conflict, match=f"schema {newer}, this program knows only {known}") as old:
        async with open_store(_SHIPPED):
            pytest.fail("opened")
    assert old.value.context == {"schema": newer, "known": known}
    async with open_store([*_SHIPPED, _NOTES]):
        pass


@pytest.mark.parametrize("change", ["text", "name"])
async def test_a_changed_migration_is_refused(open_store: OpenStore, change: str) -> None:
    first = parse_migration("0001_a.sql", _FIRST)
    changed = (
        parse_migration("0001_a.sql", _FIRST + "-- a word more\n")
        if change == "text"
        else parse_migration("0001_b.sql", _FIRST)
    )
    async with open_store([first]):
        pass
    with pytest.raises(Conflict, match=r"schema 1 \(a\) was not made by"):
        async with open_store([changed]):
            pytest.fail("opened")


_FIRST = """
CREATE TABLE schema_migration (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL,
    applied_at_ms INTEGER NOT NULL
) STRICT;
"""


@pytest.mark.parametrize("migration", [*_SHIPPED, _NOTES], ids=lambda given: given.name)
async def test_interrupted_at_any_statement_it_leaves_nothing(
    open_store: OpenStore, migration: Migration
) -> None:
    fault = Statement("UPDATE sqlite_sequence_that_is_not_there SET n = 1")
    before_it = [*_SHIPPED, _NOTES][: migration.number - 1]
    for stop in range(len(migration.statements) + 1):
        broken = Migration(
            migration.number,
            migration.name,
            migration.sha256,
            (*migration.statements[:stop], fault, *migration.statements[stop:]),
        )
        async with open_store(before_it) as store:
            before = await _schema(store)
            with pytest.raises(KowabungaError, match="no such table"):
                await migrate(store, clock=ManualClock(), migrations=[*before_it, broken])
            assert await _schema(store) == before
    async with open_store([*before_it, migration]) as store:
        assert await _schema(store) != before


async def test_racing_processes_apply_each_migration_once(open_store: OpenStore) -> None:
    async with open_store(()) as store:
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(migrate(store, clock=ManualClock()))
        rows = await store.query(Statement("SELECT number FROM schema_migration ORDER BY number"))
        assert [row["number"] for row in rows] == [ours.number for ours in _SHIPPED]


async def test_losing_the_race_to_a_newer_program_is_refused(open_store: OpenStore) -> None:
    class Overtaken(_Interposed):
        async def before_batch(self) -> None:
            await migrate(store, clock=ManualClock(), migrations=[*_SHIPPED, _NOTES])

    async with open_store(()) as store:
        with pytest.raises(Conflict, match="knows only"):
            await migrate(Overtaken(store), clock=ManualClock())


async def test_a_store_that_cannot_write_says_so(open_store: OpenStore) -> None:
    class Full(_Interposed):
        async def before_batch(self) -> None:
            raise Unavailable("no space left")

    async with open_store(()) as store:
        with pytest.raises(Unavailable, match="no space left"):
            await migrate(Full(store), clock=ManualClock())
        assert await _schema(store) == []


def test_shipped_migrations_are_numbered_without_gaps() -> None:
    assert [ours.number for ours in _SHIPPED] == list(range(1, len(_SHIPPED) + 1))
    for earlier, later in itertools.pairwise(_SHIPPED):
        assert earlier.name != later.name


@pytest.mark.parametrize(
    "name", ["1_a.sql", "0001-a.sql", "0001_A.sql", "0001_a.txt", "x0001_a.sql"]
)
def test_a_misnamed_file_is_refused(name: str) -> None:
    with pytest.raises(KowabungaError, match="is not named like"):
        parse_migration(name, _FIRST)


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE a (n INTEGER) STRICT",
        _FIRST + "DROP TABLE a",
        "CREATE TABLE a (t TEXT DEFAULT ';",
    ],
)
def test_a_statement_without_its_end_is_refused(text: str) -> None:
    with pytest.raises(KowabungaError, match="ends within a statement"):
        parse_migration("0001_a.sql", text)


@pytest.mark.parametrize("text", ["", "\n-- only a comment; nothing else\n", "; ;"])
def test_a_file_may_hold_no_statement(text: str) -> None:
    assert parse_migration("0001_a.sql", text).statements == ()
