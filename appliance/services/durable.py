"""Requests whose work is an operation: begun in one batch, answered when the work is done.

All that the kinds with effects have in common. What a kind writes and what it refuses is in its own
service, as a `prepare` that may run several times and guards what it decided on.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import (
    Busy,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    DriverError,
    InsufficientResource,
    Invalid,
    KowabungaError,
    Stale,
    Unavailable,
    from_problem,
)
from appliance.operations import sql
from appliance.operations.engine import Engine
from appliance.operations.operation import Operation, State
from appliance.operations.step import OnFailure, OperationKind, Submission
from appliance.resources.choice import PoolChoice, pools_by_id
from appliance.resources.host_name import check_fits_domain
from appliance.resources.project import (
    Demand,
    domain_guard,
    domain_of,
    over_quota,
    refuse_over_quota,
)
from appliance.resources.table import as_json
from appliance.resources.work import Work
from appliance.rpc.gateway import AgentGateway
from appliance.services.catalog import TRIES
from appliance.store.base import Consistency, Statement, Store, fetch, fetch_one, guard

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")

# Deadlines lie under those of the contract's clients: create 30, the others 5 minutes.
CREATE_S: Final = 1740.0
CHANGE_S: Final = 285.0

# What is wrong with the request itself is told as it is; the rest is trouble of ours.
_TOLD: Final = (Invalid, InsufficientResource, Cancelled)


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, and what tells the same request from another one; None: it is like no other."""

    principal: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Begun(Generic[T]):
    """A request whose work goes on by itself.

    `outcome` waits, within the deadline of the request, and returns what the client gets; it raises
    as `Durable.finish` does. There is no operation when nothing was to be done.
    """

    operation_id: str | None
    outcome: Callable[[], Awaitable[T]]


def object_of(operation: Operation) -> str:
    """Return the id of the object that an operation is about: its first target."""
    return operation.targets[0].partition("/")[2]


Prepare = Callable[[], Awaitable[Submission[Work]]]
Explain = Callable[[Conflict], Awaitable[KowabungaError | None]]


async def _unexplained(_: Conflict) -> None:
    return None


async def _nameless() -> None:
    return


class Durable:
    def __init__(self, store: Store, engine: Engine, gateway: AgentGateway, clock: Clock) -> None:
        self._store = store
        self._engine = engine
        self._gateway = gateway
        self._clock = clock

    @property
    def now_ms(self) -> int:
        return self._clock.now_ms()

    async def begin(
        self,
        asked: Asked,
        kind: OperationKind[Work],
        prepare: Prepare,
        after: Callable[[Operation], Awaitable[T]],
        *,
        explain: Explain = _unexplained,
        refuse_taken: Callable[[], Awaitable[None]] = _nameless,
    ) -> Begun[T]:
        """Submit what `prepare` returns, or join the same request while that is unfinished.

        `prepare` reads, refuses in the user's words, and returns a submission that guards what it
        read; if the guard fails, it runs again. `explain` says what a constraint refused, or None
        when another try may succeed. `after` makes the answer from the operation that is done.
        `refuse_taken` raises Conflict when the name of what is to be made is taken: a repeated
        create is told so, not which of the things it made is now in its own way.

        Raises:
            DeadlineExceeded: other operations held the objects all the time.
            Unavailable: others changed what it depends on again and again.
            KowabungaError: what `prepare` and `explain` raise; nothing was written.
        """
        end = self._clock.monotonic() + deadline_s(kind)
        operation_id = await self._find_same(asked)
        if operation_id is None:
            try:
                operation_id = await self._submit(prepare, end, explain)
            except (Invalid, InsufficientResource):
                operation_id = await self._find_same(asked)  # begun meanwhile: it is in the way
                if operation_id is None:
                    await refuse_taken()
                    raise
        return self._begun(operation_id, kind, after, end)

    async def begin_delete(
        self,
        asked: Asked,
        kind: OperationKind[Work],
        held: str,
        creates: OperationKind[Work],
        prepare: Prepare,
    ) -> Begun[None]:
        """Begin a delete; an object that is still being made is withdrawn instead.

        `held` is the target of the object; otherwise as `begin`.
        """

        async def after(_: Operation) -> None:
            return

        end = self._clock.monotonic() + deadline_s(kind)
        operation_id = await self._find_same(asked)
        if operation_id is None:
            making = await self._engine.find_unfinished(held)
            if making is not None and making.kind == creates.name:
                ended = await self._engine.cancel_and_wait(making.id, self._left_s(end))
                if ended.state in (State.CANCELLED, State.FAILED):
                    return nothing_to_do(None)
            operation_id = await self._submit(prepare, end, _unexplained)
        return self._begun(operation_id, kind, after, end)

    async def finish(self, operation_id: str, kind: OperationKind[Work], end: float) -> Operation:
        """Return the operation once it is done.

        Raises:
            DeadlineExceeded: it goes on, or it gave up without knowing; the reason names it.
            Unavailable: it failed; the reason names it. What was wished for stays wished for.
            KowabungaError: a create failed and was undone: its own error.
        """
        operation = await self._engine.wait(operation_id, self._left_s(end))
        if operation.state is State.DONE:
            return operation
        raise _failure(operation, kind)

    def agent_among(self, agents: Sequence[str], what: str) -> str:
        """Return the first agent that is connected.

        Raises:
            Unavailable: none is.
            Invalid: there is none at all.
        """
        for agent_id in agents:
            if self._gateway.reachable(agent_id):
                return agent_id
        if not agents:
            raise Invalid(f"no agent acts for {what}", hint="add an agent to it")
        raise Unavailable(
            f"no agent of {what} is connected ({', '.join(agents)})",
            hint="look after the node, then try again",
        )

    async def storage_agents(self, pool_ids: Sequence[str]) -> dict[str, str]:
        """Return a connected agent for each of the storage pools; raises as `agent_among`."""
        pools = await self.rows(PoolChoice, pools_by_id(as_json(pool_ids)))
        return {pool.storage_pool_id: self.agent_of_pool(pool) for pool in pools}

    def agent_of_pool(self, pool: PoolChoice) -> str:
        """Return a connected agent of a storage pool; raises as `agent_among`."""
        return self.agent_among(pool.list_agents(), f"storage pool {pool.storage_pool_id}")

    async def check_quota(self, project_id: str, demand: Demand) -> None:
        """Raise InsufficientResource when a project would have more than its quota."""
        exceeded = await self._store.query(over_quota(project_id, demand), Consistency.LINEARIZABLE)
        if exceeded:
            refuse_over_quota(project_id, exceeded[0])

    async def check_room(self, room: Statement, host_name: str) -> None:
        """Raise InsufficientResource unless the guard of a change of size holds."""
        (row,) = await self._store.query(room, Consistency.LINEARIZABLE)
        if not any(row.values()):
            raise InsufficientResource(
                f"Kaktus {host_name} has no room for so much more",
                hint="ask for less, or make room on that host",
            )

    async def write(
        self,
        change: Callable[[], Awaitable[Sequence[Statement]]],
        *,
        explain: Explain = _unexplained,
    ) -> None:
        """Write rows that need no work; `change` runs again when what it guards has changed."""
        for _ in range(TRIES):
            statements = await change()
            try:
                await self._store.batch(statements)
            except Stale:
                continue
            except Conflict as conflict:
                await _explain(conflict, explain)
            else:
                return
        raise Unavailable("what this request changes is being changed by many at once")

    async def fit_name(self, project_id: str, name: str) -> tuple[Statement, Statement]:
        """Refuse a machine's name that is too long under its project's domain.

        Returns what lets a batch apply only while the project has this domain.

        Raises:
            Invalid: over 253 characters together.
        """
        rows = await self._store.query(domain_of(project_id), Consistency.LINEARIZABLE)
        domain = str(rows[0]["domain"]) if rows else ""
        check_fits_domain(name, domain)
        return guard(domain_guard(project_id, domain))

    async def rows(self, kind: type[S], statement: Statement) -> list[S]:
        """Return what a decision is based on."""
        return await fetch(self._store, kind, statement, Consistency.LINEARIZABLE)

    async def require(self, kind: type[S], statement: Statement, what: str) -> S:
        """Return the one row of `what` ("volume 0123.."), hidden objects included.

        Raises:
            NotFound: there is none.
        """
        return await fetch_one(self._store, kind, statement, what, Consistency.LINEARIZABLE)

    def _begun(
        self,
        operation_id: str,
        kind: OperationKind[Work],
        after: Callable[[Operation], Awaitable[T]],
        end: float,
    ) -> Begun[T]:
        async def outcome() -> T:
            return await after(await self.finish(operation_id, kind, end))

        return Begun(operation_id, outcome)

    async def _submit(self, prepare: Prepare, end: float, explain: Explain) -> str:
        for _ in range(TRIES):
            try:
                return await self._engine.submit_when_free(prepare, self._left_s(end))
            except Stale:
                continue  # `prepare` says what changed
            except Busy as busy:
                raise DeadlineExceeded(
                    f"{busy.detail}, and was not free in time",
                    hint="try again when that operation is finished",
                    operation=busy.context["operation"],
                ) from busy
            except Conflict as conflict:
                await _explain(conflict, explain)
        raise Unavailable("what this request depends on is being changed by many at once")

    async def _find_same(self, asked: Asked) -> str | None:
        """Return the operation of the same request, before anything is decided a second time."""
        if asked.key is None:
            return None
        rows = await self._store.query(sql.by_request(asked.key), Consistency.LINEARIZABLE)
        return str(rows[0]["id"]) if rows else None

    def _left_s(self, end: float) -> float:
        return max(end - self._clock.monotonic(), 0.0)


async def _explain(conflict: Conflict, explain: Explain) -> None:
    """Raise what a conflict means to the user; return when another try may tell or succeed."""
    constraint = conflict.context.get("constraint")
    if constraint is None:
        raise conflict  # a refusal in the user's words already
    if constraint == "foreign_key":
        return  # something is gone, or came
    explained = await explain(conflict)
    if explained is not None:
        raise explained from conflict


def refuse_owned(kind: str, object_id: str, kompute_id: str | None) -> None:
    """Raise Conflict for a part of a Kompute: it changes and goes with the whole."""
    if kompute_id is not None:
        raise Conflict(
            f"{kind} {object_id} is owned by kompute {kompute_id}",
            hint="change or remove the Kompute",
        )


def refuse_going(kind: str, object_id: str, phase: str) -> None:
    """Raise Conflict for what is being deleted, or could not be deleted yet."""
    if phase == "deleting":
        raise Conflict(f"{kind} {object_id} is being deleted", hint="delete it again")


def deadline_s(kind: OperationKind[Work]) -> float:
    return CREATE_S if kind.on_failure is OnFailure.UNDO else CHANGE_S


def nothing_to_do(answer: T) -> Begun[T]:
    """Return what a request gets that needs no work."""

    async def outcome() -> T:
        return answer

    return Begun(None, outcome)


def _failure(operation: Operation, kind: OperationKind[Work]) -> KowabungaError:
    problem = operation.problem
    if problem is None:
        return KowabungaError(f"operation {operation.id} ended as {operation.state}")
    told = from_problem(problem)
    if kind.on_failure is OnFailure.UNDO:
        if isinstance(told, _TOLD):
            return told
        return (Unavailable if told.retryable else DriverError)(
            f"operation {operation.id} failed and was undone: {told.detail}",
            hint=told.hint,
            operation=operation.id,
        )
    unknown = isinstance(told, DeadlineExceeded)
    kept = "what you asked for is kept, and tried again by itself"
    return (DeadlineExceeded if unknown else Unavailable)(
        f"operation {operation.id} failed: {told.detail}",
        hint=kept if told.hint is None else f"{kept}; {told.hint}",
        operation=operation.id,
    )
