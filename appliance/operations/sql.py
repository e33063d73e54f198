"""Every statement of the engine, as literals.

Decides nothing. A worker's write is always `guarded`: it applies only while the claim holds.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from appliance.core.errors import Problem
from appliance.operations.operation import Origin, State
from appliance.operations.rows import Unfinished, encode
from appliance.store.base import Statement, guard

# --- creating

_INSERT: Final = """
INSERT INTO operation (id, kind, origin, principal, request_key, arguments, targets, state,
    claimed_by, budget_ms, created_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, 'running', ?, ?, ?)
"""
_TAKE_FENCES: Final = """
INSERT INTO target_fence (target, fence)
SELECT value, (SELECT fence FROM fence_floor) + 1 FROM json_each(?) WHERE true
ON CONFLICT (target) DO UPDATE SET fence = fence + 1
"""
_LOCK_TARGETS: Final = """
INSERT INTO operation_target (target, operation_id, fence)
SELECT target, ?, fence FROM target_fence WHERE target IN (SELECT value FROM json_each(?))
"""


def create(
    operation_id: str,
    *,
    kind: str,
    origin: Origin,
    principal: str,
    request_key: str | None,
    arguments: msgspec.Struct,
    targets: Sequence[str],
    engine_id: str,
    budget_ms: int,
    now_ms: int,
) -> tuple[Statement, ...]:
    """Return the operation, claimed by `engine_id`, with fresh fences and its locks.

    The request key clashes before the targets do, so the same request attaches.
    """
    names = encode(targets)
    return (
        Statement(
            _INSERT,
            (
                operation_id, kind, origin.value, principal, request_key, encode(arguments), names,
                engine_id, budget_ms, now_ms,
            ),
        ),
        Statement(_TAKE_FENCES, (names,)),
        Statement(_LOCK_TARGETS, (operation_id, names)),
    )  # fmt: skip


# --- reading

_OPERATION: Final = """
SELECT id, kind, origin, principal, state, targets, cancel_requested, claimed_by, needs_agent,
    attempts, problem, created_at_ms, finished_at_ms,
    (SELECT json_group_array(name) FROM (
        SELECT name FROM operation_step WHERE operation_id = operation.id ORDER BY number)) AS steps
FROM operation
"""
_BY_ID: Final = _OPERATION + "WHERE id = ?"
# By the order of their rows: ids begin with the time, and clocks have been put right since.
_NEWEST: Final = _OPERATION + "ORDER BY rowid DESC LIMIT ?"
_NEWEST_UNFINISHED: Final = _OPERATION + "WHERE finished_at_ms IS NULL ORDER BY rowid DESC LIMIT ?"


def by_id(operation_id: str) -> Statement:
    return Statement(_BY_ID, (operation_id,))


def newest(limit: int, *, unfinished: bool) -> Statement:
    return Statement(_NEWEST_UNFINISHED if unfinished else _NEWEST, (limit,))


def by_request(request_key: str) -> Statement:
    return Statement(
        "SELECT id FROM operation WHERE request_key = ? AND finished_at_ms IS NULL", (request_key,)
    )


def holders(targets: Sequence[str]) -> Statement:
    return Statement(
        "SELECT target, operation_id, origin FROM operation_target"
        " JOIN operation ON operation.id = operation_id"
        " WHERE target IN (SELECT value FROM json_each(?)) ORDER BY target LIMIT 1",
        (encode(targets),),
    )


def template(operation_id: str) -> Statement:
    return Statement("SELECT kind, arguments, targets FROM operation WHERE id = ?", (operation_id,))


def steps(operation_id: str) -> Statement:
    return Statement(
        "SELECT name, output FROM operation_step WHERE operation_id = ? ORDER BY number",
        (operation_id,),
    )


UNFINISHED: Final = Statement(
    "SELECT id, kind, state, claimed_by, claim, beat, needs_agent, elapsed_ms, budget_ms,"
    " cancel_requested, nudges FROM operation WHERE finished_at_ms IS NULL ORDER BY id"
)


def claimed(operation_id: str, claim: int, engine_id: str) -> Statement:
    return Statement(
        "SELECT kind, state, arguments, cancel_requested, nudges, budget_ms, attempts, problem,"
        " failure, target, fence, (SELECT epoch FROM cluster) AS epoch"
        " FROM operation JOIN operation_target ON operation_id = id"
        " WHERE id = ? AND claim = ? AND claimed_by = ?",
        (operation_id, claim, engine_id),
    )


# --- claiming


def _raise_fences(operation_id: str) -> tuple[Statement, Statement]:
    return (
        Statement(
            "UPDATE target_fence SET fence = fence + 1"
            " WHERE target IN (SELECT target FROM operation_target WHERE operation_id = ?)",
            (operation_id,),
        ),
        Statement(
            "UPDATE operation_target SET fence ="
            " (SELECT f.fence FROM target_fence f WHERE f.target = operation_target.target)"
            " WHERE operation_id = ?",
            (operation_id,),
        ),
    )


def take(row: Unfinished, engine_id: str, elapsed_ms: int) -> list[Statement]:
    """Claim what nobody works on; Stale if anything moved since `row` was read."""
    opened, closed = guard(
        Statement(
            "SELECT EXISTS (SELECT 1 FROM operation"
            " WHERE id = ? AND claim = ? AND beat = ? AND finished_at_ms IS NULL)",
            (row.id, row.claim, row.beat),
        )
    )
    claim = Statement(
        "UPDATE operation SET claimed_by = ?, claim = claim + 1, needs_agent = NULL, elapsed_ms = ?"
        " WHERE id = ?",
        (engine_id, elapsed_ms, row.id),
    )
    return [opened, claim, *_raise_fences(row.id), closed]


def beat(operation_id: str, claim: int, engine_id: str, elapsed_ms: int) -> Statement:
    """Show that the worker lives; changes no row once the claim is lost."""
    return Statement(
        "UPDATE operation SET beat = beat + 1, elapsed_ms = ?"
        " WHERE id = ? AND claim = ? AND claimed_by = ?",
        (elapsed_ms, operation_id, claim, engine_id),
    )


def count_waiting(row: Unfinished, elapsed_ms: int) -> Statement:
    """Charge the time that an unclaimed operation waited, once, whoever observed it."""
    return Statement(
        "UPDATE operation SET beat = beat + 1, elapsed_ms = ?"
        " WHERE id = ? AND claim = ? AND beat = ? AND claimed_by IS NULL",
        (elapsed_ms, row.id, row.claim, row.beat),
    )


def release_all(engine_id: str) -> Statement:
    return Statement(
        "UPDATE operation SET claimed_by = NULL, beat = beat + 1"
        " WHERE claimed_by = ? AND finished_at_ms IS NULL",  # the index of the unfinished
        (engine_id,),
    )


# --- a worker's writes


def guarded(
    operation_id: str,
    claim: int,
    engine_id: str,
    statements: Sequence[Statement],
    *,
    unless_cancelled: bool = False,
) -> list[Statement]:
    opened, closed = guard(
        Statement(
            "SELECT EXISTS (SELECT 1 FROM operation"
            " WHERE id = ? AND claim = ? AND claimed_by = ? AND cancel_requested <= ?)",
            (operation_id, claim, engine_id, 0 if unless_cancelled else 1),
        )
    )
    return [opened, *statements, closed]


def record_step(operation_id: str, number: int, name: str, output: str, now_ms: int) -> Statement:
    return Statement(
        "INSERT INTO operation_step (operation_id, number, name, output, done_at_ms)"
        " VALUES (?, ?, ?, ?, ?)",
        (operation_id, number, name, output, now_ms),
    )


def record_failure(
    operation_id: str, attempts: int, problem: Problem, elapsed_ms: int
) -> Statement:
    return Statement(
        "UPDATE operation SET attempts = ?, problem = ?, elapsed_ms = ?, beat = beat + 1"
        " WHERE id = ?",
        (attempts, encode(problem), elapsed_ms, operation_id),
    )


def show_problem(operation_id: str, problem: Problem, elapsed_ms: int) -> Statement:
    return Statement(
        "UPDATE operation SET problem = ?, elapsed_ms = ?, beat = beat + 1 WHERE id = ?",
        (encode(problem), elapsed_ms, operation_id),
    )


def release(operation_id: str, agent_id: str, problem: Problem, elapsed_ms: int) -> Statement:
    return Statement(
        "UPDATE operation SET claimed_by = NULL, needs_agent = ?, problem = ?, elapsed_ms = ?,"
        " beat = beat + 1 WHERE id = ?",
        (agent_id, encode(problem), elapsed_ms, operation_id),
    )


def compensate(
    operation_id: str, attempts: int, failure: Problem, elapsed_ms: int
) -> tuple[Statement, ...]:
    """Turn to undoing, under new fences: a command of ours that is only late is refused."""
    return (
        Statement(
            "UPDATE operation SET state = 'compensating', attempts = ?, problem = ?, failure = ?,"
            " elapsed_ms = ?, beat = beat + 1 WHERE id = ?",
            (attempts, encode(failure), encode(failure), elapsed_ms, operation_id),
        ),
        *_raise_fences(operation_id),
    )


def finish(
    operation_id: str,
    state: State,
    *,
    attempts: int,
    problem: Problem | None,
    elapsed_ms: int,
    now_ms: int,
) -> tuple[Statement, Statement]:
    """End the operation and free its targets. Their fences stay."""
    return (
        Statement(
            "UPDATE operation SET state = ?, attempts = ?, problem = ?, elapsed_ms = ?,"
            " claimed_by = NULL, needs_agent = NULL, finished_at_ms = ? WHERE id = ?",
            (
                state.value, attempts, None if problem is None else encode(problem), elapsed_ms,
                now_ms, operation_id,
            ),
        ),
        Statement("DELETE FROM operation_target WHERE operation_id = ?", (operation_id,)),
    )  # fmt: skip


# --- requests about an operation


def request_cancel(operation_id: str) -> Statement:
    """What is being undone already, or finished, is left as it is."""
    return Statement(
        "UPDATE operation SET cancel_requested = 1 WHERE id = ? AND state = 'running'",
        (operation_id,),
    )


def nudge(operation_id: str) -> Statement:
    return Statement(
        "UPDATE operation SET nudges = nudges + 1 WHERE id = ? AND finished_at_ms IS NULL",
        (operation_id,),
    )


def abandon(operation_id: str, problem: Problem, now_ms: int) -> list[Statement]:
    """End it as it stands, with its claim and its fences void; Stale if it is finished."""
    opened, closed = guard(
        Statement(
            "SELECT EXISTS (SELECT 1 FROM operation WHERE id = ? AND finished_at_ms IS NULL)",
            (operation_id,),
        )
    )
    return [
        opened,
        *_raise_fences(operation_id),
        Statement(
            "UPDATE operation SET state = 'abandoned', claim = claim + 1, claimed_by = NULL,"
            " needs_agent = NULL, problem = coalesce(failure, problem, ?), finished_at_ms = ?"
            " WHERE id = ?",
            (encode(problem), now_ms, operation_id),
        ),
        Statement("DELETE FROM operation_target WHERE operation_id = ?", (operation_id,)),
        closed,
    ]


PRUNED_AT_ONCE: Final = 1000
ALWAYS_KEPT: Final = 1000  # the last that were submitted, whatever a clock says of their age


def prune(before_ms: int) -> Statement:
    """Forget operations that finished before a stamp, oldest first, so many at once."""
    return Statement(
        "DELETE FROM operation WHERE id IN (SELECT id FROM operation"
        " WHERE finished_at_ms < ? AND rowid <="
        " (SELECT rowid FROM operation ORDER BY rowid DESC LIMIT 1 OFFSET ?)"
        " ORDER BY finished_at_ms, id LIMIT ?)",
        (before_ms, ALWAYS_KEPT, PRUNED_AT_ONCE),
    )


def forget_fences() -> tuple[Statement, Statement]:
    """Forget the fences of so many targets that nobody works on; the second counts.

    Most of them are of objects that are gone. What comes back begins above all of them, so no
    agent takes it for stale.
    """
    return (
        Statement(
            "UPDATE fence_floor SET fence = max(fence, (SELECT coalesce(max(fence), 0)"
            " FROM target_fence WHERE target NOT IN (SELECT target FROM operation_target)))"
        ),
        Statement(
            "DELETE FROM target_fence WHERE target IN (SELECT target FROM target_fence"
            " WHERE target NOT IN (SELECT target FROM operation_target) LIMIT ?)",
            (PRUNED_AT_ONCE,),
        ),
    )
