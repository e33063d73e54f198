"""What an operation looks like from outside: Structs only, no behaviour."""

from enum import StrEnum

import msgspec

from appliance.core.errors import Problem


class Origin(StrEnum):
    USER = "user"
    RECONCILE = "reconcile"  # a difference was observed; gives way to users, never undoes
    SYSTEM = "system"


class State(StrEnum):
    RUNNING = "running"
    COMPENSATING = "compensating"  # being undone
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"  # an operator let go of it; what exists was left

    @property
    def finished(self) -> bool:
        return self not in (State.RUNNING, State.COMPENSATING)


class Operation(msgspec.Struct, frozen=True):
    """One row of `operation` with the names of its recorded steps."""

    id: str
    kind: str
    origin: Origin
    principal: str
    state: State
    targets: tuple[str, ...]
    steps: tuple[str, ...]  # recorded as done, in order
    cancel_requested: bool
    claimed_by: str | None  # the engine that works on it
    needs_agent: str | None  # it waits until some engine reaches this agent
    attempts: int  # failures so far, all steps together
    problem: Problem | None  # the last error; once finished, the one that decided
    created_at_ms: int
    finished_at_ms: int | None

    @property
    def finished(self) -> bool:
        return self.state.finished


class StepRecord(msgspec.Struct, frozen=True):
    name: str
    output: msgspec.Raw


class Abandoned(msgspec.Struct, frozen=True):
    """What an abandoned operation leaves behind, for the operator to look after."""

    operation: Operation
    left: tuple[StepRecord, ...]  # effects known to exist; the step after them may exist as well
    warning: str
