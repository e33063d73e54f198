"""Batches per second of the store, against sqlite3 used directly with the same PRAGMAs.

Both take turns in small rounds, so that a busy machine slows both alike. The event loop is the
one that a Kahuna runs.
"""

import asyncio
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Final

import uvloop

from appliance.core.clock import SystemClock
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore

_ROUNDS: Final = 15
_BATCHES: Final = 200  # per round
_CALLERS: Final = 64
_INSERT: Final = (
    "INSERT INTO setting (name, value, updated_at_ms, updated_by) VALUES (?, '1', ?, ?)"
)


def run() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="kowabunga-bench-") as directory:
        return uvloop.run(_measure(Path(directory)))


async def _measure(directory: Path) -> dict[str, float]:
    store = await SqliteStore.open(directory / "store" / "state.db", clock=SystemClock())
    try:
        (table,) = await store.query(
            Statement("SELECT sql FROM sqlite_master WHERE name = 'setting'")
        )
        with closing(_open_raw(directory / "raw.db", str(table["sql"]))) as raw:
            return await _compare(store, raw)
    finally:
        await store.close()


async def _compare(store: SqliteStore, raw: sqlite3.Connection) -> dict[str, float]:
    names = (f"name-{number}" for number in count())

    async def one() -> None:
        await store.batch([Statement(_INSERT, (next(names), 1, "bench"))])

    async def caller(batches: int) -> None:
        for _ in range(batches):
            await one()

    raw_s, single_s, many_s = [], [], []
    commits = 0
    for _ in range(_ROUNDS):
        raw_s.append(_time_raw(raw, [next(names) for _ in range(_BATCHES)]))
        start = time.perf_counter()
        await caller(_BATCHES)
        single_s.append((time.perf_counter() - start) / _BATCHES)
        start, before = time.perf_counter(), store.commits
        async with asyncio.TaskGroup() as group:
            for _ in range(_CALLERS):
                group.create_task(caller(_BATCHES // 10))
        many_s.append((time.perf_counter() - start) / (_CALLERS * (_BATCHES // 10)))
        commits += store.commits - before
    raw_rate, single_rate, many_rate = (
        1 / statistics.median(seconds) for seconds in (raw_s, single_s, many_s)
    )
    return {
        "raw_sqlite3_batches_per_s": raw_rate,
        "batches_per_s_1_caller": single_rate,
        "batches_per_s_64_callers": many_rate,
        "ratio_1_caller": statistics.median(r / s for r, s in zip(raw_s, single_s, strict=True)),
        "ratio_64_callers": statistics.median(r / m for r, m in zip(raw_s, many_s, strict=True)),
        "batches_per_commit_64_callers": _ROUNDS * _CALLERS * (_BATCHES // 10) / commits,
    }


def _open_raw(path: Path, table_sql: str) -> sqlite3.Connection:
    raw = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        raw.execute(f"PRAGMA {pragma}")
    raw.execute(table_sql)
    return raw


def _time_raw(raw: sqlite3.Connection, names: list[str]) -> float:
    start = time.perf_counter()
    for name in names:
        raw.execute("BEGIN IMMEDIATE")
        raw.execute(_INSERT, (name, 1, "bench"))
        raw.execute("COMMIT")
    return (time.perf_counter() - start) / len(names)
