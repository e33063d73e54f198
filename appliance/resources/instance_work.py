"""What is done to instances: their kinds of operations."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from appliance.core.errors import Problem
from appliance.model.domain_state import Power
from appliance.model.target import target
from appliance.operations.step import OnFailure, OperationKind, Outputs, Step, StepContext
from appliance.resources.domain import (
    DEFINE,
    GRACE_S,
    RUN,
    Running,
    as_running,
    define,
    ensure_domain_absent,
    ensure_power,
    record_domain,
    run,
)
from appliance.resources.instance import detach
from appliance.resources.seed import SEED, ensure_seed, ensure_seed_absent, guest_owner
from appliance.resources.table import as_json
from appliance.resources.work import CHANGE_BUDGET_S, CREATE_BUDGET_S, Work
from appliance.rpc.compute import COMPUTE_REBOOT, COMPUTE_RESET, DomainRef
from appliance.store.base import Statement


class PowerAction(StrEnum):
    """What the contract lets people do to a running, paused or stopped guest."""

    START = "start"
    STOP = "stop"
    SHUTDOWN = "shutdown"
    REBOOT = "reboot"
    RESET = "reset"
    SUSPEND = "suspend"
    RESUME = "resume"

    @property
    def desired(self) -> Power:
        """The state that is wanted from now on."""
        return _DESIRED[self]


_DESIRED: Final = {
    PowerAction.START: Power.RUNNING,
    PowerAction.STOP: Power.STOPPED,
    PowerAction.SHUTDOWN: Power.STOPPED,
    PowerAction.REBOOT: Power.RUNNING,
    PowerAction.RESET: Power.RUNNING,
    PowerAction.SUSPEND: Power.PAUSED,
    PowerAction.RESUME: Power.RUNNING,
}


async def _act(context: StepContext[Work]) -> Running:
    """Do what was asked; a reboot and a reset may happen twice if the answer was lost."""
    action, instance_id = PowerAction(context.arguments.action), context.arguments.instance_id
    if action in (PowerAction.REBOOT, PowerAction.RESET):
        method = COMPUTE_REBOOT if action is PowerAction.REBOOT else COMPUTE_RESET
        observed = await context.call(
            context.arguments.host_agent,
            method,
            DomainRef(instance_id),
            target=target("instance", instance_id),
        )
        return as_running(observed)
    if action is PowerAction.START:
        await define(context)  # after a reboot of the host its bridges are gone
    grace_s = GRACE_S if action is PowerAction.SHUTDOWN else 0
    return as_running(await ensure_power(context, action.desired, grace_s=grace_s))


def _forget(instance_id: str) -> Sequence[Statement]:
    """What was attached stays, for others to take."""
    return [
        *detach(instance_id),
        Statement("DELETE FROM secret WHERE owner = ?", (guest_owner(instance_id),)),
        Statement("DELETE FROM instance WHERE id = ?", (instance_id,)),
    ]


def _mark_error(work: Work, problem: Problem) -> Sequence[Statement]:
    return [
        Statement(
            "UPDATE instance SET phase = 'error', problem = ? WHERE id = ?",
            (as_json(problem), work.id),
        )
    ]


def _record_power(work: Work, outputs: Outputs) -> Sequence[Statement]:
    running = outputs.get(RUN, Running)
    return [
        Statement(
            "UPDATE instance SET observed_state = ?, observed_reason = ?,"
            " phase = CASE WHEN observed_generation = generation THEN 'ready' ELSE phase END,"
            " problem = CASE WHEN observed_generation = generation THEN NULL ELSE problem END"
            " WHERE id = ?",
            (running.state.value, running.reason.value, work.id),
        )
    ]


INSTANCE_CREATE: Final = OperationKind(
    name="instance_create",
    arguments=Work,
    steps=(
        Step(SEED, ensure_seed, ensure_seed_absent),
        Step(DEFINE, define, ensure_domain_absent),
        Step(RUN, run),
    ),
    on_failure=OnFailure.UNDO,
    budget_s=CREATE_BUDGET_S,
    finish=lambda work, outputs: [record_domain(work, outputs)],
    withdraw=lambda work: _forget(work.id),
)
INSTANCE_UPDATE: Final = OperationKind(
    name="instance_update",
    arguments=Work,
    steps=(Step(SEED, ensure_seed), Step(DEFINE, define), Step(RUN, run)),
    on_failure=OnFailure.LEAVE,
    budget_s=CHANGE_BUDGET_S,
    finish=lambda work, outputs: [record_domain(work, outputs)],
    mark_failed=_mark_error,
)
INSTANCE_POWER: Final = OperationKind(
    name="instance_power",
    arguments=Work,
    steps=(Step(RUN, _act),),
    on_failure=OnFailure.LEAVE,
    budget_s=CHANGE_BUDGET_S,
    finish=_record_power,
    mark_failed=_mark_error,
)
INSTANCE_DELETE: Final = OperationKind(
    name="instance_delete",
    arguments=Work,
    steps=(Step(DEFINE, ensure_domain_absent), Step(SEED, ensure_seed_absent)),
    on_failure=OnFailure.LEAVE,
    budget_s=CHANGE_BUDGET_S,
    finish=lambda work, _: _forget(work.id),
    # It stays wanted gone: reconciliation goes on trying.
    mark_failed=lambda work, problem: [
        Statement("UPDATE instance SET problem = ? WHERE id = ?", (as_json(problem), work.id))
    ],
)
