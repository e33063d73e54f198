"""Every field of every kind goes into its rows and comes back, so Struct and SQL cannot drift."""

import pkgutil
import re
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import pytest_asyncio

from appliance import resources
from appliance.core.errors import Conflict, Stale
from appliance.core.ids import new_id
from appliance.resources.fields import given, merged, with_defaults
from appliance.resources.storage_pool import STORAGE_POOLS, StoragePool
from appliance.resources.table import GENERATION, Table
from appliance.store.base import Statement, guard, guard_none
from appliance.store.migrate import shipped_migrations
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock
from tests.unit.resources.samples import SAMPLES, Sample, World, make_world

_EACH: Final = pytest.mark.parametrize(
    "sample", SAMPLES, ids=[sample.table.kind for sample in SAMPLES]
)
_COUNTED: Final = re.compile(r"COUNT\(\*\) AS children FROM (\w+)")


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "state.db", clock=ManualClock())
    yield store
    await store.close()


@pytest_asyncio.fixture
async def world(store: SqliteStore) -> World:
    pool, made = new_id(), await make_world(store)
    ceph = with_defaults(StoragePool(name="ceph", pool="rbd", agents=[]))
    await store.batch([*STORAGE_POOLS.insert(pool, made.region, ceph, 1)])
    return replace(made, pool=pool)


def _tables() -> list[Table[Any]]:
    modules = [
        import_module(f"{resources.__name__}.{module.name}")
        for module in pkgutil.iter_modules(resources.__path__)
    ]
    found = {id(each): each for module in modules for each in vars(module).values()}
    return [each for each in found.values() if isinstance(each, Table)]


def test_every_table_has_a_sample() -> None:
    assert {table.kind for table in _tables()} == {sample.table.kind for sample in SAMPLES}


@_EACH
async def test_a_sample_sets_every_field_and_changes_every_field(
    world: World, sample: Sample
) -> None:
    full, changed = sample.full(world), sample.changed(world)
    for name in sorted(_writable(sample.table.struct) - sample.fixed.keys()):
        before, after = getattr(full, name), getattr(changed, name)
        assert given(before, None) is not None, name
        assert given(after, None) is not None, name
        assert before != after, name
    for each in (full, changed):
        sample.table.check(each)


@_EACH
async def test_what_is_inserted_comes_back_equal(
    store: SqliteStore, world: World, sample: Sample
) -> None:
    full = sample.full(world)
    object_id = await _insert(store, world, sample)
    read, generation = await _read(store, sample, object_id)
    assert read == msgspec.structs.replace(full, id=object_id)
    assert generation == 1


@_EACH
async def test_what_was_left_out_comes_back_as_its_default(
    store: SqliteStore, world: World, sample: Sample
) -> None:
    full = msgspec.to_builtins(sample.full(world))
    required = {
        field.encode_name: full[field.encode_name]
        for field in msgspec.structs.fields(sample.table.struct)
        if field.required
    }
    minimal = with_defaults(msgspec.convert(required, sample.table.struct))
    object_id = await _insert(store, world, sample, minimal)
    read, _ = await _read(store, sample, object_id)
    assert read == msgspec.structs.replace(minimal, id=object_id)


@_EACH
async def test_an_update_changes_every_field_and_raises_the_generation(
    store: SqliteStore, world: World, sample: Sample
) -> None:
    changed = sample.changed(world)
    object_id = await _insert(store, world, sample)
    await store.batch([*sample.table.update(object_id, changed, 6)])
    read, generation = await _read(store, sample, object_id)
    assert read == msgspec.structs.replace(changed, id=object_id)
    assert generation == 2
    assert merged(read, msgspec.structs.replace(changed, id="another")) == read


@_EACH
async def test_an_update_touches_no_other_object(
    store: SqliteStore, world: World, sample: Sample
) -> None:
    first = await _insert(store, world, sample)
    changed = sample.changed(world)
    second = await _insert(store, world, sample, changed)
    before = await _read(store, sample, first)
    await store.batch([*sample.table.update(second, changed, 6)])
    await store.batch([*sample.table.delete(second)])
    assert await _read(store, sample, first) == before


@_EACH
async def test_the_guard_holds_for_the_generation_that_was_read_and_no_other(
    store: SqliteStore, world: World, sample: Sample
) -> None:
    object_id = await _insert(store, world, sample)
    await store.batch([*guard(sample.table.guard(object_id, 1))])
    for wrong in ((object_id, 2), (new_id(), 1)):
        with pytest.raises(Stale):
            await store.batch([*guard(sample.table.guard(*wrong))])


@_EACH
async def test_it_is_listed_and_found_by_its_name(
    store: SqliteStore, world: World, sample: Sample
) -> None:
    table, parent = sample.table, sample.parent(world)
    object_id = await _insert(store, world, sample)
    name = getattr(sample.full(world), "name", "")
    assert {"id": object_id} in await store.query(table.list_ids)
    assert await store.query(table.find_named(parent, name)) == [{"id": object_id}]
    assert await store.query(table.find_named(parent, name.upper())) == []
    if table.list_children_ids is not None:
        assert {"id": object_id} in await store.query(table.list_children_ids(parent))
        assert await store.query(table.list_children_ids(new_id())) == []


@_EACH
async def test_a_name_is_unique(store: SqliteStore, world: World, sample: Sample) -> None:
    await _insert(store, world, sample)
    with pytest.raises(Conflict) as refused:
        await _insert(store, world, sample)
    assert refused.value.context["constraint"] == "unique"


@_EACH
async def test_a_sample_breaks_no_rule_and_its_children_are_none(
    store: SqliteStore, world: World, sample: Sample
) -> None:
    table, full = sample.table, sample.full(world)
    for rule in table.rules:
        await store.batch([*guard_none(rule.offenders(new_id(), sample.parent(world), full))])
    object_id = await _insert(store, world, sample)
    for rule in table.rules:
        await store.batch([*guard_none(rule.offenders(object_id, "", full))])
    for children in table.children:
        assert await store.query(children.count(object_id)) == [{"children": 0}]


@_EACH
async def test_a_delete_leaves_no_row(store: SqliteStore, world: World, sample: Sample) -> None:
    before = await _rows(store)
    object_id = await _insert(store, world, sample)
    changed = await store.batch([*sample.table.delete(object_id)])
    assert sum(changed) >= 1
    assert await store.query(sample.table.read(object_id)) == []
    assert await _rows(store) == before


@_EACH
def test_all_that_refer_to_it_are_counted_before_a_delete(sample: Sample) -> None:
    counted = {
        match[1]
        for children in sample.table.children
        if (match := _COUNTED.search(children.count("").sql))
    }
    uncounted = _referring_tables(sample.table.kind) - counted
    # The rows of some go with a row that is counted.
    assert {table for table in uncounted if not _owners(table) & counted} == set()
    assert counted <= _referring_tables(sample.table.kind)


def _writable(struct: type[msgspec.Struct]) -> set[str]:
    read_only = {"id"}
    return set(struct.__struct_fields__) - read_only


async def _insert(
    store: SqliteStore, world: World, sample: Sample, wanted: msgspec.Struct | None = None
) -> str:
    object_id = new_id()
    insert = sample.table.insert(object_id, sample.parent(world), wanted or sample.full(world), 5)
    await store.batch([*insert, *sample.reveal(object_id)])
    return object_id


async def _read(store: SqliteStore, sample: Sample, object_id: str) -> tuple[Any, object]:
    (row,) = await store.query(sample.table.read(object_id))
    generation = row.pop(GENERATION)
    return sample.table.decode(row), generation


async def _rows(store: SqliteStore) -> dict[str, list[dict[str, Any]]]:
    names = _ask_schema("SELECT name FROM sqlite_schema WHERE type = 'table'")
    return {name: await store.query(Statement(f"SELECT * FROM {name}")) for name in names}


def _referring_tables(kind: str) -> set[str]:
    """Return the tables whose rows keep a row of this one from being deleted."""
    return _ask_schema(
        "SELECT referring.name FROM pragma_table_list AS referring,"
        " pragma_foreign_key_list(referring.name) AS reference"
        " WHERE reference.\"table\" = ? AND reference.on_delete <> 'CASCADE'",
        kind,
    )


def _owners(table: str) -> set[str]:
    """Return the tables with whose rows those of this one are deleted."""
    return _ask_schema(
        "SELECT \"table\" FROM pragma_foreign_key_list(?) WHERE on_delete = 'CASCADE'", table
    )


def _ask_schema(query: str, *parameters: str) -> set[str]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for migration in shipped_migrations():
            for statement in migration.statements:
                connection.execute(statement.sql)
        return {name for (name,) in connection.execute(query, parameters)}
