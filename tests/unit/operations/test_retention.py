"""Finished operations are kept for their time, and a wrong clock makes them no older."""

import msgspec
import pytest

from appliance.operations import sql
from appliance.operations.engine import Engine
from appliance.operations.equipment import EngineSettings
from appliance.operations.step import Step
from appliance.store.base import Statement
from tests.support.faults import What, Where, breaks
from tests.unit.operations.lab import Lab, a_submission, kind_of, nothing

HOUR = 3600.0
DAY_MS = 86_400_000
YEAR_MS = 366 * DAY_MS
KIND = kind_of(Step("only", nothing))
SETTINGS = EngineSettings(keep_finished_s=86_400.0, poll_s=600.0, claim_s=9_000.0)
OLD = 20  # more than are always kept


async def engine(lab: Lab) -> Engine:
    return await lab.engine(KIND, settings=SETTINGS, alone=True)


async def count(lab: Lab) -> int:
    return int(await lab.value("SELECT COUNT(*) FROM operation") or 0)


async def add_finished(lab: Lab, number: int, *, at_ms: int) -> None:
    """Write operations that finished at a stamp, as some earlier process did."""
    done = await lab.run(await engine(lab), a_submission(KIND))
    assert done.finished_at_ms is not None
    await lab.store.real.batch(
        [
            Statement(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                " INSERT INTO operation (id, kind, origin, principal, arguments, targets, state,"
                " budget_ms, created_at_ms, finished_at_ms)"
                " SELECT printf('%024x', i), 'kind', 'user', 'master', '{}', '[]', 'done', 1, ?, ?"
                " FROM n",
                (number, at_ms, at_ms),
            )
        ]
    )


async def test_what_is_old_is_forgotten_but_for_the_last_thousand(lab: Lab) -> None:
    old_ms = lab.clock.now_ms() - 2 * DAY_MS
    await lab.store.real.batch(
        [
            Statement(
                "INSERT INTO operation (id, kind, origin, principal, arguments, targets, state,"
                " budget_ms, created_at_ms) VALUES (?, 'stuck', 'user', 'master', '{}', '[]',"
                " 'running', 1, ?)",
                ("f" * 24, old_ms),
            )
        ]
    )
    await add_finished(lab, sql.ALWAYS_KEPT + sql.PRUNED_AT_ONCE + OLD, at_ms=old_ms)
    await lab.let_pass(2 * HOUR)
    # Nor what is not finished, nor what has finished now.
    assert await count(lab) == sql.ALWAYS_KEPT + 2
    assert await lab.value("SELECT COUNT(*) FROM operation WHERE finished_at_ms IS NULL") == 1


async def test_what_is_not_old_yet_is_kept(lab: Lab) -> None:
    made = sql.ALWAYS_KEPT + OLD
    await add_finished(lab, made, at_ms=lab.clock.now_ms() - DAY_MS // 2)
    await lab.let_pass(2 * HOUR)
    assert await count(lab) == made + 1
    await lab.let_pass(12 * HOUR)
    assert await count(lab) == sql.ALWAYS_KEPT + 1


@breaks(
    What.CLOCK,
    "the clock of a Kahuna is a year ahead when it starts, or from some moment on",
    expected="no finished operation is forgotten for that: not one when it jumps, not the last "
    "thousand when it starts so",
    where=Where.SIMULATED,
)
@pytest.mark.parametrize("jump_ms", [YEAR_MS, -3_600_000])
async def test_a_clock_that_jumps_makes_nothing_old(lab: Lab, jump_ms: int) -> None:
    made = sql.ALWAYS_KEPT + OLD
    await add_finished(lab, made, at_ms=lab.clock.now_ms())
    lab.clock.set_wall_clock(lab.clock.now_ms() + jump_ms)
    await lab.let_pass(5 * HOUR)
    assert await count(lab) == made + 1
    lab.clock.set_wall_clock(lab.clock.now_ms() - jump_ms)
    await lab.let_pass(5 * HOUR)
    assert await count(lab) == made + 1


@breaks(
    What.CLOCK,
    "the clock of a Kahuna is a year ahead when it starts, or from some moment on",
    expected="no finished operation is forgotten for that: not one when it jumps, not the last "
    "thousand when it starts so",
    where=Where.SIMULATED,
)
async def test_a_start_a_year_ahead_keeps_the_last_thousand_and_all_if_it_is_soon_set_right(
    lab: Lab,
) -> None:
    made = sql.ALWAYS_KEPT + OLD
    await add_finished(lab, made, at_ms=lab.clock.now_ms())
    lab.clock.set_wall_clock(lab.clock.now_ms() + YEAR_MS)
    soon = await engine(lab)  # starts now
    await lab.let_pass(HOUR / 2)
    lab.clock.set_wall_clock(lab.clock.now_ms() - YEAR_MS)
    await lab.let_pass(5 * HOUR)
    assert await count(lab) == made + 1
    await lab.stop(soon)
    lab.clock.set_wall_clock(lab.clock.now_ms() + YEAR_MS)
    await engine(lab)
    await lab.let_pass(5 * HOUR)
    assert await count(lab) == sql.ALWAYS_KEPT


@breaks(
    What.CLOCK,
    "the clock of a Kahuna jumps a year ahead and back while operations run",
    expected="they end as they would have; nobody works more often than before",
    where=Where.SIMULATED,
)
@pytest.mark.parametrize("jump_ms", [YEAR_MS, -3_600_000])
async def test_a_jump_lets_operations_end_and_makes_nobody_busy(lab: Lab, jump_ms: int) -> None:
    running = await engine(lab)
    await lab.let_pass(HOUR)
    lab.store.batches.clear()
    await lab.let_pass(6 * HOUR)
    usual = len(lab.store.batches)
    lab.clock.set_wall_clock(lab.clock.now_ms() + jump_ms)
    lab.store.batches.clear()
    await lab.let_pass(6 * HOUR)
    assert abs(len(lab.store.batches) - usual) <= 2  # who happens to be at an edge
    done = await lab.run(running, a_submission(KIND))
    assert done.state == "done"
    listed = await lab.do(running.list(unfinished=False, limit=10))
    assert listed[0].id == done.id


async def test_the_newest_operations_come_first_whatever_their_ids_say(lab: Lab) -> None:
    await add_finished(lab, 3, at_ms=lab.clock.now_ms())
    listed = await lab.do((await engine(lab)).list(unfinished=False, limit=2))
    assert [each.id for each in listed] == [f"{3:024x}", f"{2:024x}"]
    assert msgspec.json.encode(listed)
