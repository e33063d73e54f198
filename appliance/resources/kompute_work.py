"""What is done to Komputes: their kinds of operations.

Each is one operation over all parts: disks, the seed, the domain, then power; and back.
"""

from collections.abc import Sequence
from typing import Final

from appliance.core.errors import Problem
from appliance.operations.step import OnFailure, OperationKind, Outputs, Step, StepContext
from appliance.resources.disk import Disk, disks_of_kompute, ensure_disk, ensure_disk_absent
from appliance.resources.domain import (
    DEFINE,
    RUN,
    define,
    ensure_domain_absent,
    record_domain,
    run,
)
from appliance.resources.kompute import forget_kompute
from appliance.resources.seed import SEED, ensure_seed, ensure_seed_absent
from appliance.resources.table import as_json
from appliance.resources.work import (
    CHANGE_BUDGET_S,
    CREATE_BUDGET_S,
    Work,
    read_rows,
)
from appliance.store.base import Statement


async def _ensure_disks(context: StepContext[Work]) -> None:
    for disk in await read_rows(context, Disk, disks_of_kompute(context.arguments.id)):
        await ensure_disk(context, disk)


async def _ensure_disks_absent(context: StepContext[Work]) -> None:
    for disk in await read_rows(context, Disk, disks_of_kompute(context.arguments.id)):
        await ensure_disk_absent(context, disk)


def _record(work: Work, outputs: Outputs) -> Sequence[Statement]:
    return [
        record_domain(work, outputs),
        Statement(
            "UPDATE volume SET phase = 'ready', problem = NULL, observed_generation = generation"
            " WHERE kompute_id = ?",
            (work.id,),
        ),
        Statement("UPDATE kompute SET phase = 'ready', problem = NULL WHERE id = ?", (work.id,)),
    ]


def _mark_error(work: Work, problem: Problem) -> Sequence[Statement]:
    told = as_json(problem)
    return [
        Statement("UPDATE kompute SET phase = 'error', problem = ? WHERE id = ?", (told, work.id)),
        Statement(
            "UPDATE instance SET phase = 'error', problem = ? WHERE kompute_id = ?",
            (told, work.id),
        ),
    ]


KOMPUTE_CREATE: Final = OperationKind(
    name="kompute_create",
    arguments=Work,
    steps=(
        Step("disks", _ensure_disks, _ensure_disks_absent),
        Step(SEED, ensure_seed, ensure_seed_absent),
        Step(DEFINE, define, ensure_domain_absent),
        Step(RUN, run),
    ),
    on_failure=OnFailure.UNDO,
    budget_s=CREATE_BUDGET_S,
    finish=_record,
    withdraw=lambda work: forget_kompute(work.id),
)
KOMPUTE_UPDATE: Final = OperationKind(
    name="kompute_update",
    arguments=Work,
    steps=(
        Step("disks", _ensure_disks),
        Step(SEED, ensure_seed),
        Step(DEFINE, define),
        Step(RUN, run),
    ),
    on_failure=OnFailure.LEAVE,
    budget_s=CHANGE_BUDGET_S,
    finish=_record,
    mark_failed=_mark_error,
)
KOMPUTE_DELETE: Final = OperationKind(
    name="kompute_delete",
    arguments=Work,
    steps=(
        Step(DEFINE, ensure_domain_absent),
        Step(SEED, ensure_seed_absent),
        Step("disks", _ensure_disks_absent),
    ),
    on_failure=OnFailure.LEAVE,
    budget_s=CHANGE_BUDGET_S,
    finish=lambda work, _: forget_kompute(work.id),
    # It stays wanted gone: reconciliation goes on trying.
    mark_failed=lambda work, problem: [
        Statement("UPDATE kompute SET problem = ? WHERE id = ?", (as_json(problem), work.id))
    ],
)
