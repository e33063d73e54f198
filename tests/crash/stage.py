"""Runs real engines in manual time, and kills or freezes them at chosen points."""

import asyncio
import json
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.agent.fences import FenceBook
from appliance.operations import sql
from appliance.operations.engine import Engine
from appliance.operations.equipment import EngineSettings
from appliance.operations.operation import State
from appliance.operations.step import AnyKind
from appliance.operations.vault import Vault
from appliance.rpc.gateway import Command
from appliance.rpc.method import Method
from appliance.store.base import Consistency, Row, Statement, Store, fetch
from tests.crash.world import KINDS, Agent, Thing, real_store, thing_target
from tests.support.drive import Drive, JumpingClock

_MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None
SETTINGS: Final = EngineSettings(claim_s=3.0, poll_s=1.0)


class Died(BaseException):
    """The process is gone: no handler, no release, nothing of it goes on."""


class Stage:
    """One store, one agent, own time; engines come and go."""

    def __init__(self, store: Store, agent: Agent, clock: JumpingClock) -> None:
        self.store = store
        self.agent = agent
        self.clock = clock
        self.drive = Drive(clock)


class Incarnation:
    """One engine process: its store, its sockets, and what is done to it at which point.

    `at` is called before and after each commit and each driver call, with the name of the point.
    It may raise Died, or return after as long as it likes.
    """

    def __init__(
        self,
        stage: Stage,
        at: Callable[["Incarnation", str], Awaitable[None]],
        *,
        guarded: bool = True,
        kinds: Sequence[AnyKind] = KINDS,
        vault: Callable[["Incarnation"], Vault] | None = None,
    ) -> None:
        self._stage = stage
        self._at = at
        self._guarded = guarded
        self.dead = False
        self.working = asyncio.Event()  # cleared: frozen, but for its observers
        self.observing = asyncio.Event()
        self.working.set()
        self.observing.set()
        self.engine = Engine(
            self,
            self,
            kinds,
            clock=stage.clock,
            settings=SETTINGS,
            vault=None if vault is None else vault(self),
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self.engine.run())

    def freeze(self) -> None:
        self.working.clear()
        self.observing.clear()

    def die(self) -> None:
        self.dead = True
        raise Died

    async def bury(self) -> None:
        """End what is left of the process, without letting it do anything more."""
        self.dead = True
        self.working.set()
        self.observing.set()
        if self._task is not None:
            self._task.cancel()
            with suppress(BaseException):
                await self._task

    async def see_through(self, operation_id: str) -> None:
        """Let the stage run until the operation is finished, or this process is dead or frozen."""
        waiting = asyncio.get_running_loop().create_task(self.engine.wait(operation_id, 1e6))
        await self._stage.drive.until(
            lambda: self.dead or not self.working.is_set() or waiting.done()
        )
        waiting.cancel()
        with suppress(BaseException):
            await waiting

    async def until_idle(self, operation_id: str) -> None:
        """Let the stage run until this process has no worker for the operation any more."""
        runner = self.engine._runner
        await self._stage.drive.until(lambda: not runner.works_on(operation_id))

    # --- the store, as this process reaches it

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        await (self.observing if statement is sql.UNFINISHED else self.working).wait()
        self._stop_if_dead()
        with self._stage.drive.in_thread():
            rows = await self._stage.store.query(statement, consistency)
        self._stop_if_dead()
        return rows

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        observing = not statements or not statements[0].sql.lstrip().startswith("INSERT")
        await (self.observing if observing else self.working).wait()
        self._stop_if_dead()
        if not observing:
            await self._at(self, "before commit")
        if not self._guarded:
            statements = [s for s in statements if "txn_guard" not in s.sql]
        with self._stage.drive.in_thread():
            changed = await self._stage.store.batch(statements)
        self._stop_if_dead()
        if not observing:
            await self._at(self, "after commit")
        return changed

    async def close(self) -> None: ...

    # --- its socket to the agent

    def reachable(self, agent_id: str) -> bool:
        return True

    async def call(
        self,
        agent_id: str,
        method: Method[Any, Any],
        params: msgspec.Struct,
        *,
        timeout_s: float | None = None,
        command: Command | None = None,
    ) -> Any:  # noqa: ANN401 - the method's own result type
        await self.working.wait()
        self._stop_if_dead()
        await self._at(self, "before call")
        with self._stage.drive.in_thread():
            made = await self._stage.agent.handle(method.name, params, command)
        self._stop_if_dead()
        await self._at(self, "after call")
        return made

    def _stop_if_dead(self) -> None:
        if self.dead:
            raise Died


class Ended(msgspec.Struct, frozen=True):
    id: str
    state: State


async def find_operation(stage: Stage, thing: Thing) -> Ended | None:
    """Return the operation of a thing, if its submission was committed at all."""
    sql_text = "SELECT id, state FROM operation WHERE targets = ?"
    targets = json.dumps([thing_target(thing)])
    found = await fetch(stage.store, Ended, Statement(sql_text, (targets,)))
    return found[0] if found else None


@asynccontextmanager
async def staged(fences: type[FenceBook] = FenceBook) -> AsyncGenerator[Stage]:
    """Set up a real store and a real agent, on files in memory where there is such a place."""
    clock = JumpingClock()
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        async with (
            real_store(Path(folder) / "state" / "state.db", clock) as store,
            fences.open(Path(folder) / "fences.db") as book,
        ):
            agent = Agent(book)
            async with agent.running():
                yield Stage(store, agent, clock)
