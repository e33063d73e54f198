import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.core.errors import Conflict, Invalid, KowabungaError, Stale
from appliance.store.base import SqlValue, Statement, guard
from appliance.store.constraints import constraint_error
from appliance.store.migrate import parse_migration
from appliance.store.sqlite import SqliteStore
from appliance.store.statements import shape, tokens
from tests.support.clock import ManualClock

_BOUNDED: Final = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
_TABLE: Final = (
    Statement("CREATE TABLE txn_guard (ok INTEGER CONSTRAINT txn_guard CHECK (ok = 1)) STRICT"),
    Statement(
        "CREATE TABLE thing (key INTEGER PRIMARY KEY, text TEXT UNIQUE, number INTEGER) STRICT"
    ),
)
_TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_INTEGERS: Final = st.integers(-(2**63), 2**63 - 1)


@asynccontextmanager
async def _store() -> AsyncGenerator[SqliteStore]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "state.db"
        store = await SqliteStore.open(path, clock=ManualClock(), migrations=())
        try:
            await store.batch(_TABLE)
            yield store
        finally:
            await store.close()


@_BOUNDED
@given(st.lists(st.tuples(st.none() | _TEXTS, st.none() | _INTEGERS), max_size=20))
async def test_every_value_comes_back_as_it_went(
    rows: list[tuple[str | None, int | None]],
) -> None:
    insert = "INSERT INTO thing (key, text, number) VALUES (?, ?, ?) ON CONFLICT (text) DO NOTHING"
    async with _store() as store:
        batch = [Statement(insert, (key, *row)) for key, row in enumerate(rows)]
        counts = await store.batch(batch)
        stored = await store.query(Statement("SELECT key, text, number FROM thing ORDER BY key"))
    kept = [key for key, changed in enumerate(counts) if changed]
    assert [(row["text"], row["number"]) for row in stored] == [rows[key] for key in kept]


@_BOUNDED
@given(st.one_of(
    st.text(), st.integers(), st.floats(), st.binary(), st.none(), st.booleans(),
    st.lists(st.integers()),
))  # fmt: skip
async def test_anything_is_stored_faithfully_or_refused(value: SqlValue) -> None:
    async with _store() as store:
        try:
            rows = await store.query(Statement("SELECT ? AS value", (value,)))
        except Invalid:
            assert value is not None
            with pytest.raises(Invalid):
                await store.batch([Statement("UPDATE thing SET text = ?", (value,))])
        else:
            assert rows == [{"value": value}]


_KEYS: Final = st.integers(0, 4)
_WORDS: Final = st.sampled_from(["a", "b", "c"])
_CHANGES: Final = st.one_of(
    st.tuples(st.just("insert"), _KEYS, _WORDS),
    st.tuples(st.just("rename"), _KEYS, _WORDS),
    st.tuples(st.just("delete"), _KEYS, _WORDS),
    st.tuples(st.just("guard"), _KEYS, _WORDS),
)


def _statements(kind: str, key: int, word: str) -> tuple[Statement, ...]:
    match kind:
        case "insert":
            return (Statement("INSERT INTO thing (key, text) VALUES (?, ?)", (key, word)),)
        case "rename":
            return (Statement("UPDATE thing SET text = ? WHERE key = ?", (word, key)),)
        case "delete":
            return (Statement("DELETE FROM thing WHERE key = ?", (key,)),)
        case _:
            return guard(Statement("SELECT text = ? FROM thing WHERE key = ?", (word, key)))


def _model(things: dict[int, str], changes: list[tuple[str, int, str]]) -> type[Exception] | None:
    """Do to a plain dict what the batch should do; return the error that stops it."""
    for kind, key, word in changes:
        others = {text for other, text in things.items() if other != key}
        match kind:
            case "insert":
                if key in things or word in things.values():
                    return Conflict
                things[key] = word
            case "rename" if key in things:
                if word in others:
                    return Conflict
                things[key] = word
            case "delete":
                things.pop(key, None)
            case "guard" if things.get(key) != word:
                return Stale
    return None


@_BOUNDED
@given(st.lists(st.lists(_CHANGES, min_size=1, max_size=6), max_size=12))
async def test_batches_do_what_a_dict_would(batches: list[list[tuple[str, int, str]]]) -> None:
    things: dict[int, str] = {}
    async with _store() as store:
        for changes in batches:
            after = dict(things)
            stopped = _model(after, changes)
            batch = [statement for change in changes for statement in _statements(*change)]
            if stopped:
                with pytest.raises(stopped):
                    await store.batch(batch)
            else:
                await store.batch(batch)
                things = after
            rows = await store.query(Statement("SELECT key, text FROM thing"))
            assert {row["key"]: row["text"] for row in rows} == things
        assert await store.query(Statement("SELECT ok FROM txn_guard")) == []


@given(st.text())
def test_any_text_is_read_or_refused(sql: str) -> None:
    list(tokens(sql))
    with suppress(KowabungaError):
        shape(sql)
    assert constraint_error(sql) is None or "constraint failed" in sql or "cannot store" in sql


_PIECES: Final = st.sampled_from([
    "CREATE TABLE t (n INTEGER)", "INSERT INTO t VALUES (';')", "-- remark; more\nDELETE FROM t",
    "/* ; */ UPDATE t SET n = 1", 'SELECT ";" FROM t',
    "CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM t; SELECT 1; END",
])  # fmt: skip


@given(st.lists(_PIECES))
def test_a_script_falls_into_its_statements(pieces: list[str]) -> None:
    script = "".join(f"{piece};\n\n" for piece in pieces)
    found = parse_migration("0001_a.sql", script).statements
    assert [statement.sql for statement in found] == pieces
