"""A small world to break: things made of an image, a domain and a name, on one real agent.

The engine, the store, the agent's dispatcher and its fence book are the real ones; only what the
handlers would do to a machine is a set in memory.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from appliance.agent.dispatch import Dispatcher
from appliance.agent.fences import FenceBook
from appliance.core.errors import Conflict, DriverError, Problem
from appliance.core.ids import new_id
from appliance.model.target import Fence, target
from appliance.operations.step import (
    OnFailure,
    OperationKind,
    Outputs,
    Step,
    StepContext,
    Submission,
)
from appliance.rpc.gateway import Command
from appliance.rpc.method import Method
from appliance.store.base import Statement, Store
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock

AGENT: Final = "a" * 24


class Thing(msgspec.Struct, frozen=True):
    id: str


class Made(msgspec.Struct, frozen=True):
    name: str


PARTS: Final = ("image", "domain", "name")


def _method(verb: str, part: str) -> Method[Thing, Made]:
    name = f"test.{verb}_{part}"
    return Method(name, Thing, Made, 5.0, effectful=True, answered_by="agent", about="test")


ENSURE: Final = {part: _method("ensure", part) for part in PARTS}
ABSENT: Final = {part: _method("absent", part) for part in PARTS}
_METHODS: Final = {m.name: m for m in (*ENSURE.values(), *ABSENT.values())}

_SCHEMA: Final = (
    Statement("CREATE TABLE thing (id TEXT PRIMARY KEY, phase TEXT NOT NULL) STRICT"),
    Statement("CREATE TABLE address (thing TEXT PRIMARY KEY, address TEXT NOT NULL) STRICT"),
    # What must happen exactly once leaves a line here.
    Statement("CREATE TABLE ledger (thing TEXT NOT NULL, entry TEXT NOT NULL) STRICT"),
)


def _enter(thing: Thing, entry: str) -> Statement:
    return Statement("INSERT INTO ledger (thing, entry) VALUES (?, ?)", (thing.id, entry))


def _forget(thing: Thing) -> tuple[Statement, ...]:
    return (
        Statement("DELETE FROM address WHERE thing = ?", (thing.id,)),
        Statement("DELETE FROM thing WHERE id = ?", (thing.id,)),
    )


def _phase(thing: Thing, phase: str) -> Statement:
    return Statement("UPDATE thing SET phase = ? WHERE id = ?", (phase, thing.id))


async def _ensure(part: str, context: StepContext[Thing]) -> Made:
    for earlier in PARTS[: PARTS.index(part)]:
        assert context.outputs.get(earlier, Made).name == f"{earlier}-{context.arguments.id}"
    return await context.call(
        AGENT, ENSURE[part], context.arguments, target=thing_target(context.arguments)
    )


async def _ensure_absent(part: str, context: StepContext[Thing]) -> None:
    await context.call(
        AGENT, ABSENT[part], context.arguments, target=thing_target(context.arguments)
    )


def _create_finish(thing: Thing, outputs: Outputs) -> Sequence[Statement]:
    assert all(part in outputs for part in PARTS)
    return (_phase(thing, "ready"), _enter(thing, "finish"))


def create_kind(name: str = "create", undone: Sequence[str] = PARTS) -> OperationKind[Thing]:
    return OperationKind(
        name=name,
        arguments=Thing,
        steps=tuple(
            Step(
                part,
                partial(_ensure, part),
                partial(_ensure_absent, part) if part in undone else None,
            )
            for part in PARTS
        ),
        on_failure=OnFailure.UNDO,
        budget_s=3600,
        finish=_create_finish,
        withdraw=lambda thing: (*_forget(thing), _enter(thing, "withdraw")),
    )


def _mark_failed(thing: Thing, problem: Problem) -> Sequence[Statement]:
    return (_phase(thing, "error"), _enter(thing, f"mark_failed {problem.code}"))


CREATE: Final = create_kind()
CREATE_FORGETFUL: Final = create_kind("create_forgetful", undone=("domain", "name"))
DELETE: Final = OperationKind(
    name="delete",
    arguments=Thing,
    steps=tuple(Step(part, partial(_ensure_absent, part)) for part in reversed(PARTS)),
    on_failure=OnFailure.LEAVE,
    budget_s=3600,
    finish=lambda thing, _: (*_forget(thing), _enter(thing, "finish")),
    mark_failed=_mark_failed,
)
KINDS: Final = (CREATE, CREATE_FORGETFUL, DELETE)


def thing_target(thing: Thing) -> str:
    return target("thing", thing.id)


def _desired_row(thing: Thing, phase: str) -> tuple[Statement, ...]:
    return (
        Statement("INSERT INTO thing (id, phase) VALUES (?, ?)", (thing.id, phase)),
        Statement("INSERT INTO address (thing, address) VALUES (?, '10.0.0.1')", (thing.id,)),
    )


def submission(kind: OperationKind[Thing], thing: Thing) -> Submission[Thing]:
    creating = kind.on_failure is OnFailure.UNDO
    return Submission(
        kind=kind,
        arguments=thing,
        targets=(thing_target(thing),),
        principal="master",
        statements=_desired_row(thing, "creating") if creating else (_phase(thing, "deleting"),),
    )


class Agent:
    """The agent process: dies and starts again with nothing but its fence book."""

    def __init__(self, fences: FenceBook) -> None:
        self._fences = fences
        self._dispatcher: Dispatcher | None = None
        self._restart = asyncio.Event()
        self._started = asyncio.Event()
        self.world: dict[str, set[str]] = {part: set() for part in PARTS}
        self.faulty: set[str] = set()  # parts that can never be made
        self.idempotent = True

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as group:
            host = group.create_task(self._host())
            await self._started.wait()
            yield
            host.cancel()

    async def _host(self) -> None:
        while True:
            async with Dispatcher(self._handlers(), self._fences, methods=_METHODS) as dispatcher:
                self._dispatcher = dispatcher
                self._started.set()
                await self._restart.wait()
            self._restart.clear()

    async def restart(self) -> None:
        self._started.clear()
        self._restart.set()
        await self._started.wait()

    async def handle(self, method: str, params: msgspec.Struct, command: Command | None) -> Made:
        assert self._dispatcher is not None
        raw = msgspec.json.encode(params)
        result = await self._dispatcher.handle(method, raw, command)
        assert isinstance(result, Made)
        return result

    def existing(self, thing: Thing) -> set[str]:
        return {part for part in PARTS if thing.id in self.world[part]}

    def _handlers(self) -> dict[str, Callable[[Thing], Awaitable[Made]]]:
        return {
            **{ENSURE[part].name: partial(self._make, part) for part in PARTS},
            **{ABSENT[part].name: partial(self._unmake, part) for part in PARTS},
        }

    async def _make(self, part: str, thing: Thing) -> Made:
        await asyncio.sleep(0)
        if part in self.faulty:
            raise DriverError(f"{part} cannot be made")
        if not self.idempotent and thing.id in self.world[part]:
            raise Conflict(f"{part} exists already")
        self.world[part].add(thing.id)
        return Made(f"{part}-{thing.id}")

    async def _unmake(self, part: str, thing: Thing) -> Made:
        await asyncio.sleep(0)
        if f"un{part}" in self.faulty:
            raise DriverError(f"{part} cannot be removed")
        self.world[part].discard(thing.id)
        return Made("")


async def exist_already(store: Store, agent: Agent, thing: Thing) -> None:
    await store.batch(_desired_row(thing, "ready"))
    for part in PARTS:
        agent.world[part].add(thing.id)


class NoFence(FenceBook):
    """An agent that forgot its fence: everybody is admitted."""

    async def admit(self, target: str, fence: Fence) -> None:
        return


@asynccontextmanager
async def real_store(path: Path, clock: ManualClock) -> AsyncGenerator[SqliteStore]:
    store = await SqliteStore.open(path, clock=clock)
    try:
        cluster = "INSERT INTO cluster (singleton, id, epoch, created_at_ms) VALUES (1, ?, 1, 0)"
        await store.batch([Statement(cluster, (new_id(),)), *_SCHEMA])
        yield store
    finally:
        await store.close()


async def violations(store: Store, agent: Agent, thing: Thing, expected: str) -> list[str]:
    """Compare everything that is left of a thing with what the end of its operation promises.

    `expected` is "ready", "nothing" or "error".
    """
    rows: dict[str, list[object]] = {}
    for name, sql in _LEFT.items():
        found = await store.query(Statement(sql, (thing.id,)))
        rows[name] = [next(iter(row.values())) for row in found]
    locked = await store.query(Statement("SELECT target FROM operation_target"))
    count = len(rows["address"])
    existing = agent.existing(thing)
    everything, nothing = set(PARTS), set[str]()
    wrong: list[str] = []
    if locked:
        wrong.append(f"targets still locked: {locked}")
    match expected:
        case "ready":
            if existing != everything or rows["phase"] != ["ready"] or count != 1:
                wrong.append(f"should be whole: {existing} {rows}")
        case "nothing":
            if existing != nothing or rows["phase"] or count:
                wrong.append(f"should be gone: {existing} {rows}")
        case _:
            if rows["phase"] != ["error"] or count != 1:
                wrong.append(f"should be in error: {existing} {rows}")
    return wrong + ([f"not exactly once: {rows['ledger']}"] if len(rows["ledger"]) > 1 else [])


_LEFT: Final = {
    "phase": "SELECT phase FROM thing WHERE id = ?",
    "address": "SELECT address FROM address WHERE thing = ?",
    "ledger": "SELECT entry FROM ledger WHERE thing = ?",
}
