"""How a kind of operation is declared, and what a step may touch.

Steps are data, not replayed code: `do` makes true what should be (`ensure_x`), `undo` that it is
not (`ensure_x_absent`). Both may run any number of times, also after a crash half-way. When a step
runs is not decided here: see `worker.py`.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import (
    DeadlineExceeded,
    KowabungaError,
    NotFound,
    Problem,
    Unavailable,
)
from appliance.model.target import Fence
from appliance.operations.operation import Origin
from appliance.operations.vault import Vault
from appliance.rpc.gateway import AgentGateway, Command
from appliance.rpc.method import Method
from appliance.store.base import Consistency, Row, Statement, Store

A = TypeVar("A", bound=msgspec.Struct)
P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T", bound=msgspec.Struct)


class OnFailure(StrEnum):
    UNDO = "undo"  # creates: in the end nothing is left
    LEAVE = "leave"  # updates and deletes: the desired values stay, the object is in error


class AgentOutOfReach(Unavailable):
    """This process holds no session with the agent; another one may."""

    def __init__(self, agent_id: str) -> None:
        super().__init__(
            f"agent {agent_id} is not connected",
            hint="the work goes on by itself once the agent is back",
            agent=agent_id,
        )
        self.agent_id = agent_id


class Outputs:
    """What the steps done so far returned, by the name of the step."""

    def __init__(self, encoded: Mapping[str, str]) -> None:
        self._encoded = dict(encoded)

    def __contains__(self, step: str) -> bool:
        return step in self._encoded

    def record(self, step: str, output: msgspec.Struct | None) -> str:
        """Keep the output and return the JSON that is stored."""
        encoded = msgspec.json.encode(output).decode()
        self._encoded[step] = encoded
        return encoded

    def find(self, step: str, kind: type[T]) -> T | None:
        """Return the output, or None: an undo may run although its step was never recorded."""
        encoded = self._encoded.get(step)
        return None if encoded is None else msgspec.json.decode(encoded, type=kind)

    def get(self, step: str, kind: type[T]) -> T:
        """Return the output of a step that is done.

        Raises:
            NotFound: it has none yet.
        """
        found = self.find(step, kind)
        if found is None:
            raise NotFound(f"step {step!r} has no output yet", step=step)
        return found


@dataclass(slots=True)
class Tries:
    """Numbers the tries of one worker, and keeps the calls whose outcome is unknown.

    While one is in doubt the number stays, and with it the request ids: the agent then answers
    from its store or joins the repeat to the running call, and a command that was only late
    cannot run again after those that followed it.
    """

    number: int = 0
    in_doubt: set[str] = field(default_factory=set[str])

    def failed(self) -> None:
        if not self.in_doubt:
            self.number += 1


class Lanes:
    """Bounds the calls that run at once, agent by agent: one that hangs holds up no other."""

    def __init__(self, calls_per_agent: int) -> None:
        self._calls = calls_per_agent
        self._lanes: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, agent_id: str) -> asyncio.Semaphore:
        """Return the agent's lane; it lasts as long as somebody is in it or waits for it."""
        return self._lanes.setdefault(agent_id, asyncio.Semaphore(self._calls))


@dataclass(slots=True)
class StepContext(Generic[A]):
    """All that a step may touch, for one try."""

    operation_id: str
    arguments: A
    outputs: Outputs
    clock: Clock
    request_prefix: str  # operation, claim, step and direction
    tries: Tries
    fences: Mapping[str, Fence]
    store: Store
    gateway: AgentGateway
    lanes: Lanes
    vault: Vault
    _calls: dict[str, int] = field(default_factory=dict[str, int])

    def fence(self, target: str) -> Fence:
        """Return this worker's right to act on a target that the operation holds."""
        try:
            return self.fences[target]
        except KeyError as unlocked:
            raise KowabungaError(f"{target} is not a target of this operation") from unlocked

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.LINEARIZABLE
    ) -> list[Row]:
        return await self.store.query(statement, consistency)

    async def call(
        self,
        agent_id: str,
        method: Method[P, R],
        params: P,
        *,
        target: str,
        timeout_s: float | None = None,
    ) -> R:
        """Call an agent about a target, under this worker's fence if the method has an effect.

        Raises:
            AgentOutOfReach: not connected to this process; the engine hands the operation over.
            DeadlineExceeded: the outcome is unknown; the repeat carries the same request id.
            Stale: another worker took over.
            KowabungaError: the agent's own error.
        """
        if not self.gateway.reachable(agent_id):
            raise AgentOutOfReach(agent_id)
        async with self.lanes.of(agent_id):
            if not method.effectful:
                return await self.gateway.call(agent_id, method, params, timeout_s=timeout_s)
            return await self._command(agent_id, method, params, target, timeout_s)

    async def _command(
        self, agent_id: str, method: Method[P, R], params: P, target: str, timeout_s: float | None
    ) -> R:
        request_id = self._request_id(agent_id, method.name, params, target)
        command = Command(request_id, target, self.fence(target))
        in_doubt = self.tries.in_doubt
        was_in_doubt = request_id in in_doubt
        in_doubt.add(request_id)
        try:
            result = await self.gateway.call(
                agent_id, method, params, timeout_s=timeout_s, command=command
            )
        except DeadlineExceeded:
            raise
        except Unavailable as unavailable:
            # This call did nothing, which says nothing about an earlier one with the same id.
            if not was_in_doubt:
                in_doubt.discard(request_id)
            if not self.gateway.reachable(agent_id):
                raise AgentOutOfReach(agent_id) from unavailable
            raise
        except KowabungaError:
            in_doubt.discard(request_id)
            raise
        in_doubt.discard(request_id)
        return result

    def _request_id(self, agent_id: str, method: str, params: msgspec.Struct, target: str) -> str:
        content = msgspec.json.encode((agent_id, method, target, params))
        digest = hashlib.sha256(content).hexdigest()[:16]
        repeat = self._calls[digest] = self._calls.get(digest, 0) + 1
        return f"{self.request_prefix}.{self.tries.number}.{digest}.{repeat}"


@dataclass(frozen=True, slots=True)
class Step(Generic[A]):
    """`do` may return a Struct, which later steps and `finish` can read."""

    name: str
    do: Callable[[StepContext[A]], Awaitable[msgspec.Struct | None]]
    undo: Callable[[StepContext[A]], Awaitable[None]] | None = None


def _no_statements(*_: object) -> Sequence[Statement]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationKind(Generic[A]):
    """One kind of change.

    Arguments should name what to change and leave its values to the desired row, which steps
    read: then a late retry applies what is wanted today.

    Attributes:
        budget_s: how long retryable errors are retried, in elapsed time over all workers.
        finish: statements of the batch that makes the operation `done`.
        withdraw: UNDO only: statements of the batch that ends an undone operation.
        mark_failed: LEAVE only: statements of the batch that ends a failed or cancelled one.
    """

    name: str
    arguments: type[A]
    steps: tuple[Step[A], ...]
    on_failure: OnFailure
    budget_s: float
    finish: Callable[[A, Outputs], Sequence[Statement]] = _no_statements
    withdraw: Callable[[A], Sequence[Statement]] = _no_statements
    mark_failed: Callable[[A, Problem], Sequence[Statement]] = _no_statements

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if len(set(names)) < len(names):
            raise ValueError(f"operation kind {self.name}: two steps of one name in {names}")


# Any: the engine holds kinds of every arguments type; rows bind each to its own.
AnyKind = OperationKind[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission(Generic[A]):
    """A change to be made.

    Attributes:
        targets: all that the operation locks (`model/target.py`); at least one.
        principal: who asked, in text form.
        request_key: hash of principal, method, path, query and body; the same unfinished request
            attaches instead of starting twice.
        statements: the desired rows and whatever else must be written together with the operation.
    """

    kind: OperationKind[A]
    arguments: A
    targets: tuple[str, ...]
    principal: str
    origin: Origin = Origin.USER
    request_key: str | None = None
    statements: Sequence[Statement] = ()
