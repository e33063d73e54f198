"""An engine's surroundings under control: a real store, time by hand, an agent by script."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import KowabungaError, Problem
from appliance.core.ids import new_id
from appliance.model.target import target
from appliance.operations.engine import Engine
from appliance.operations.equipment import EngineSettings
from appliance.operations.operation import Operation, Origin, State
from appliance.operations.step import (
    AnyKind,
    OnFailure,
    OperationKind,
    Outputs,
    Step,
    StepContext,
    Submission,
)
from appliance.rpc.gateway import Command
from appliance.rpc.method import Method
from appliance.store.base import Consistency, Row, Statement
from appliance.store.sqlite import SqliteStore
from tests.support.drive import Drive, JumpingClock

R = TypeVar("R")
AGENT: Final = "a" * 24
OTHER_AGENT: Final = "b" * 24


class Arguments(msgspec.Struct, frozen=True):
    name: str = "x"


class Note(msgspec.Struct, frozen=True):
    text: str


POKE: Final = Method(
    "test.poke", Note, Note, 5.0, effectful=True, answered_by="agent", about="test"
)
PEEK: Final = Method(
    "test.peek", Note, Note, 5.0, effectful=False, answered_by="agent", about="test"
)
Do = Callable[[StepContext[Arguments]], Awaitable[msgspec.Struct | None]]
Undo = Callable[[StepContext[Arguments]], Awaitable[None]]


async def nothing(_: StepContext[Arguments]) -> None:
    return


async def poke(context: StepContext[Arguments]) -> Note:
    (locked,) = context.fences
    return await context.call(AGENT, POKE, Note("poke"), target=locked)


def log(entry: str) -> Statement:
    return Statement("INSERT INTO log (entry) VALUES (?)", (entry,))


def kind_of(
    *steps: Step[Arguments],
    name: str = "kind",
    on_failure: OnFailure = OnFailure.UNDO,
    budget_s: float = 60,
) -> OperationKind[Arguments]:
    """Return a kind whose ends each leave a line in `log`."""

    def finish(arguments: Arguments, outputs: Outputs) -> Sequence[Statement]:
        return (log("finish"),)

    def withdraw(arguments: Arguments) -> Sequence[Statement]:
        return (log("withdraw"),)

    def mark_failed(arguments: Arguments, problem: Problem) -> Sequence[Statement]:
        return (log(f"mark_failed {problem.code}"),)

    return OperationKind(
        name=name,
        arguments=Arguments,
        steps=steps,
        on_failure=on_failure,
        budget_s=budget_s,
        finish=finish,
        withdraw=withdraw,
        mark_failed=mark_failed,
    )


def a_submission(
    kind: OperationKind[Arguments],
    *targets: str,
    origin: Origin = Origin.USER,
    request_key: str | None = None,
    statements: Sequence[Statement] = (),
) -> Submission[Arguments]:
    return Submission(
        kind=kind,
        arguments=Arguments(),
        targets=targets or (target("thing", new_id()),),
        principal="master",
        origin=origin,
        request_key=request_key,
        statements=statements,
    )


@dataclass
class Fault:
    """What goes wrong with the next batch that contains a text."""

    text: str
    error: KowabungaError
    after: bool = False  # the batch is applied, only its answer is an error


class LabStore:
    def __init__(self, real: SqliteStore, drive: Drive) -> None:
        self.real = real
        self.drive = drive
        self.batches: list[Sequence[Statement]] = []
        self.faults: list[Fault] = []

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        for fault in self.faults:
            if fault.text in statement.sql:
                self.faults.remove(fault)
                raise fault.error
        with self.drive.in_thread():
            return await self.real.query(statement, consistency)

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        found = [f for f in self.faults if any(f.text in s.sql for s in statements)]
        if found:
            self.faults.remove(found[0])
            if found[0].after:
                with self.drive.in_thread():
                    await self.real.batch(statements)
            raise found[0].error
        self.batches.append(statements)
        with self.drive.in_thread():
            return await self.real.batch(statements)

    async def close(self) -> None: ...


@dataclass
class Agents:
    """A gateway: who is connected, what each call did, and what it is to answer."""

    connected: set[str] = field(default_factory=lambda: {AGENT})
    answer: Callable[[str], Awaitable[Note]] | None = None
    commands: list[Command | None] = field(default_factory=list)

    def reachable(self, agent_id: str) -> bool:
        return agent_id in self.connected

    async def call(
        self,
        agent_id: str,
        method: Method[Any, Any],
        params: msgspec.Struct,
        *,
        timeout_s: float | None = None,
        command: Command | None = None,
    ) -> Any:  # noqa: ANN401 - the method's own result type
        self.commands.append(command)
        return Note("done") if self.answer is None else await self.answer(agent_id)


class Lab:
    def __init__(self, real: SqliteStore, clock: JumpingClock) -> None:
        self.clock = clock
        self.drive = Drive(clock)
        self.store = LabStore(real, self.drive)
        self.agents = Agents()
        self._running: dict[Engine, asyncio.Task[None]] = {}

    async def engine(
        self,
        *kinds: AnyKind,
        alone: bool = False,
        settings: EngineSettings | None = None,
        agents: Agents | None = None,
        store: LabStore | None = None,
        clock: Clock | None = None,
    ) -> Engine:
        """Return an engine that runs until `stop` or the end of the test."""
        engine = Engine(
            store or self.store,
            agents or self.agents,
            kinds,
            clock=clock or self.clock,
            alone=alone,
            settings=settings,
        )
        self._running[engine] = asyncio.create_task(engine.run())
        await self.drive.until(lambda: True)
        return engine

    async def stop(self, engine: Engine) -> None:
        task = self._running.pop(engine)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def kill(self, engine: Engine) -> None:
        """End an engine without letting it release anything."""
        self.store.faults.append(Fault("claimed_by = NULL", KowabungaError("dead")))
        await self.stop(engine)
        self.store.faults.clear()

    async def do(self, work: Coroutine[Any, Any, R]) -> R:
        """Let time pass until the work has ended, and return its result."""
        task = asyncio.create_task(work)
        await self.drive.until(task.done)
        return await task

    async def let_pass(self, seconds: float) -> None:
        """Let time pass, with all that it brings about."""
        end = self.clock.monotonic() + seconds
        await self.drive.until(lambda: self.clock.monotonic() >= end)

    async def run(self, engine: Engine, submission: Submission[Arguments]) -> Operation:
        operation_id = await self.do(engine.submit(submission))
        return await self.do(engine.wait(operation_id, 1e6))

    async def until_state(
        self, engine: Engine, operation_id: str, wanted: Callable[[Operation], bool]
    ) -> Operation:
        """Let time pass until the operation looks as wanted."""
        for _ in range(10_000):
            operation = await self.do(engine.get(operation_id))
            if wanted(operation):
                return operation
            await self.clock.advance(0.25)
        raise AssertionError(f"it never looked as wanted: {operation}")

    async def log(self) -> list[str]:
        rows = await self.store.real.query(Statement("SELECT entry FROM log ORDER BY rowid"))
        return [str(row["entry"]) for row in rows]

    async def value(self, sql: str, *parameters: str | int) -> str | int | None:
        """Return the first column of the first row."""
        rows = await self.store.real.query(Statement(sql, parameters))
        return next(iter(rows[0].values()))

    async def close(self) -> None:
        for engine in list(self._running):
            await self.stop(engine)


def is_in(*states: State) -> Callable[[Operation], bool]:
    return lambda operation: operation.state in states


@asynccontextmanager
async def a_lab(folder: Path) -> AsyncGenerator[Lab]:
    clock = JumpingClock()
    real = await SqliteStore.open(folder / "state" / "state.db", clock=clock)
    try:
        cluster = "INSERT INTO cluster (singleton, id, epoch, created_at_ms) VALUES (1, ?, 7, 0)"
        await real.batch(
            [
                Statement(cluster, (new_id(),)),
                Statement("CREATE TABLE log (entry TEXT NOT NULL) STRICT"),
            ]
        )
        lab = Lab(real, clock)
        try:
            yield lab
        finally:
            await lab.close()
    finally:
        await real.close()
