"""Operations per second of the durable engine, each commit synced to the disk.

The steps do nothing, so this measures the engine and its store. The ratios are against as many
commits of one row into the same store, made the same way: one after the other, or 64 at a time.
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog

from appliance.core.clock import SystemClock
from appliance.core.errors import Unavailable
from appliance.core.ids import new_id
from appliance.model.target import target
from appliance.operations.engine import Engine
from appliance.operations.operation import State
from appliance.operations.step import OnFailure, OperationKind, Step, StepContext, Submission
from appliance.rpc.gateway import Command
from appliance.rpc.method import Method
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

_COUNT: Final = 512
_SUBMITTERS: Final = (1, 64)


class _Arguments(msgspec.Struct, frozen=True):
    pass


class _NoAgents:
    def reachable(self, agent_id: str) -> bool:
        return False

    async def call(
        self,
        agent_id: str,
        method: Method[P, R],
        params: P,
        *,
        timeout_s: float | None = None,
        command: Command | None = None,
    ) -> R:
        raise Unavailable(f"agent {agent_id} is not connected")


async def _nothing(_: StepContext[_Arguments]) -> None:
    return


def _kind(steps: int) -> OperationKind[_Arguments]:
    return OperationKind(
        name=f"noop{steps}",
        arguments=_Arguments,
        steps=tuple(Step(f"step{number}", _nothing) for number in range(steps)),
        on_failure=OnFailure.UNDO,
        budget_s=60,
    )


async def _per_second(act: Callable[[], Awaitable[None]], submitters: int) -> float:
    async def repeat() -> None:
        for _ in range(_COUNT // submitters):
            await act()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(submitters):
            group.create_task(repeat())
    return _COUNT / (time.perf_counter() - began)


async def _measure(folder: Path) -> dict[str, float]:
    clock = SystemClock()
    store = await SqliteStore.open(folder / "state" / "state.db", clock=clock)
    cluster = "INSERT INTO cluster (singleton, id, epoch, created_at_ms) VALUES (1, ?, 1, 0)"
    await store.batch([Statement(cluster, (new_id(),))])
    kinds = [_kind(1), _kind(3)]
    engine = Engine(store, _NoAgents(), kinds, clock=clock, alone=True)
    running = asyncio.create_task(engine.run())
    await asyncio.sleep(0)

    async def commit() -> None:
        row = "INSERT INTO target_fence (target, fence) VALUES (?, 1)"
        await store.batch([Statement(row, (new_id(),))])

    async def operate(kind: OperationKind[_Arguments]) -> None:
        submission = Submission(
            kind=kind,
            arguments=_Arguments(),
            targets=(target("bench", new_id()),),
            principal="master",
        )
        operation = await engine.wait(await engine.submit(submission), 60)
        assert operation.state is State.DONE

    figures: dict[str, float] = {}
    for submitters in _SUBMITTERS:
        commits = await _per_second(commit, submitters)
        for kind in kinds:
            rate = await _per_second(lambda kind=kind: operate(kind), submitters)  # type: ignore[misc]
            name = f"{len(kind.steps)} steps, {submitters} submitters"
            figures[f"operations/s, {name}"] = rate
            # submit + one commit per step but the last + the end
            figures[f"of bare commits, {name}"] = rate * (len(kind.steps) + 1) / commits
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await store.close()
    return figures


def run() -> dict[str, float]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(_measure(Path(folder)))
    finally:
        structlog.reset_defaults()
