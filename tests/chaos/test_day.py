"""A day on a Kahuna, in manual time: what comes goes again, and nothing piles up."""

import asyncio
import gc
import json
import os
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pytest

from appliance.core.logs import LogLevel
from appliance.operations import sql
from appliance.store.base import Statement
from tests.chaos.day import HOUR, NODES, Day, lived, open_day
from tests.chaos.gauges import grown, sample
from tests.support.faults import What, Where, breaks
from tests.support.leap import LeapingClock, run_leaping
from tests.support.logs import captured_logs

_MIB: Final = 1024**2
_SAMPLES: Final = 24  # each collects garbage, which in a long run of tests takes its time
_DAY_MS: Final = 24 * 3600 * 1000
_PRUNED_EVERY_MS: Final = 3600 * 1000
_ALWAYS_KEPT: Final = 1000  # operations
# Grows by design, one row for each rotation of the data key; and what retention bounds.
_MAY_GROW: Final = frozenset({"data_key_retired"})
_KEPT: Final = frozenset({"operation", "operation_step", "database"})
_SLACK: Final = {
    "memory": 8.0 * _MIB,
    "objects": 5000.0,
    "tasks": 30.0,
    "files": 10.0,
    "threads": 2.0,
    "database": 256.0 * 1024,
    "log": 4.0 * _MIB,
    "target_fence": 150.0,  # as many as an hour brings
}
_ROWS: Final = 20.0  # come and go in each table


@dataclass(frozen=True, slots=True)
class Length:
    """How long it goes on.

    Attributes:
        hours: in all.
        settled: hour from which on everything must be flat.
    """

    hours: float
    settled: float


_SHORT: Final = Length(hours=4, settled=1)
_LONG: Final = Length(hours=36, settled=26)


async def _figures(day: Day, tables: list[str]) -> dict[str, float]:
    gc.collect()
    taken = sample(os.getpid())
    assert taken is not None
    counts = await day.rows(
        "SELECT " + ", ".join(f"(SELECT COUNT(*) FROM {each}) AS {each}" for each in tables)
    )
    return {
        **asdict(taken),
        "tasks": len(asyncio.all_tasks()),
        "objects": len(gc.get_objects()),
        "database": (day.state / "state.db").stat().st_size,
        "log": (day.state / "state.db-wal").stat().st_size,
        **counts[0],
    }


async def _tables(day: Day) -> list[str]:
    return [
        str(row["name"])
        for row in await day.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")
    ]


async def _live(day: Day, length: Length) -> dict[str, list[float]]:
    """Return the figures from when on they must be flat."""
    clock, series = day.clock, dict[str, list[float]]()
    tables = await _tables(day)
    pause = (length.hours - length.settled) * HOUR / _SAMPLES
    async with lived(day):
        while clock.monotonic() < length.hours * HOUR:
            await clock.sleep(pause)
            await _check_that_history_ends(day)
            if clock.monotonic() >= length.settled * HOUR:
                for name, value in (await _figures(day, tables)).items():
                    series.setdefault(name, []).append(value)
    return series


async def _check_that_history_ends(day: Day) -> None:
    old = Statement(
        "SELECT id FROM operation WHERE finished_at_ms < ? AND rowid NOT IN"
        " (SELECT rowid FROM operation ORDER BY rowid DESC LIMIT ?)",
        (day.clock.now_ms() - _DAY_MS - _PRUNED_EVERY_MS - 60_000, _ALWAYS_KEPT),
    )
    assert await day.store.query(old) == []


def _check_timers(day: Day, began: float) -> None:
    """What is done from time to time is done as often as it should be."""
    seconds, asked = day.clock.monotonic() - began, day.store.asked
    for statement, every_s in (
        (sql.UNFINISHED.sql, 1),
        ("SELECT id, credential_serial FROM agent", 5),
        ("SELECT id FROM agent WHERE type = 'Kaktus' ORDER BY id", 300),
        (sql.prune(0).sql, 3600),
    ):
        wanted = seconds / every_s
        assert 0.95 * wanted - 2 <= asked[statement] <= 1.5 * wanted + 2, (statement, asked)


async def _check_alarms(day: Day, hours: float) -> None:
    """What nobody knows is told at each look, and is one row."""
    (stranger,) = await day.rows("SELECT count FROM alarm WHERE kind = 'image_unknown'")
    assert stranger["count"] > 0.9 * NODES * hours * HOUR / 300


async def _day(directory: Path, clock: LeapingClock, seed: int, length: Length) -> None:
    async with open_day(directory, clock, random.Random(seed)) as day:
        began = clock.monotonic()
        series = await _live(day, length)
        print(day.did)
        for name, values in series.items():
            print(f"{name}: {values[::6]} {values[-1]}")
        _check_timers(day, began)
        await _check_alarms(day, length.hours)
    slack = dict.fromkeys(series, _ROWS) | _SLACK
    may_grow = _MAY_GROW if length is _LONG else _MAY_GROW | _KEPT
    found = grown({name: series[name] for name in series if name not in may_grow}, slack)
    assert found == {}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "length",
    [
        pytest.param(
            _SHORT,
            id="hours",
            marks=breaks(
                What.CROWD,
                "a day in manual time, some hours of it: creates, reboots, reconnects, consoles and"
                " prunes",
                expected="rows, tasks, memory and files stay flat, and timers go on",
                where=Where.SIMULATED,
            ),
        ),
        pytest.param(
            _LONG,
            id="days",
            marks=breaks(
                What.CROWD,
                "a day in manual time, whole, and half of the next",
                expected="rows, tasks, memory and files stay flat, timers go on, and history ends",
                where=Where.SIMULATED,
                long=True,
            ),
        ),
    ],
)
def test_after_a_day_there_is_no_more_than_before(tmp_path: Path, length: Length) -> None:
    clock = LeapingClock(round(time.time() * 1000))
    with captured_logs(LogLevel.WARNING) as log:
        run_leaping(clock, _day(tmp_path, clock, 1, length))
    lines = map(json.loads, log.getvalue().splitlines())
    ours = [line for line in lines if line["logger"].startswith("appliance")]
    assert [line for line in ours if line["level"] not in ("warning", "info")] == []
