"""A role of a node as the supervisor starts it, but it dies where a test says.

The points at which it can: of an agent, before and after each admission of a fence, and before and
after what each method does on the node; of a Kahuna, before and after each commit of an operation's
submission, of its steps and of its end. `death.arm` names one, and it dies there, once.

Run: python -m tests.support.mortal_role FILE, with the assignment on standard input. Its clock is
wrong by what FILE.clock says, if that is there (`wrong_clock`).
"""

import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.agent.compute import EventSender
from appliance.agent.dispatch import Handler
from appliance.agent.fences import FenceBook
from appliance.core.clock import SystemClock
from appliance.model.node import Role
from appliance.model.node_status import RoleState
from appliance.model.target import Fence
from appliance.roles.agent_role import Drivers, Served, run_agent
from appliance.roles.kahuna import Ready, run_kahuna
from appliance.roles.kaktus import Health, kaktus_drivers, until_installed
from appliance.roles.node import (
    Assignment,
    Tell,
    agent_config,
    kahuna_config,
    serve_assignment,
)
from appliance.store.base import Consistency, Row, Statement, Store
from tests.support.death import Death
from tests.support.wrong_clock import clock_of, skew

BEFORE: Final = "before"
AFTER: Final = "after"


# --- an agent


def mortal_fences(death: Death) -> type[FenceBook]:
    """Points: `fence KIND before`, `fence KIND after`, by the kind of the target."""

    class MortalFences(FenceBook):
        async def admit(self, target: str, fence: Fence) -> None:
            kind = target.partition("/")[0]
            death.pass_by(f"fence {kind} {BEFORE}")
            await super().admit(target, fence)
            death.pass_by(f"fence {kind} {AFTER}")

    return MortalFences


def mortal_drivers(drivers: Drivers, death: Death) -> Drivers:
    """Points: `METHOD before`, `METHOD after`."""

    @asynccontextmanager
    async def opened(send_event: EventSender) -> AsyncGenerator[Served]:
        async with drivers(send_event) as served:
            yield Served(_mortal_handlers(served.handlers, death), served.streams)

    return opened


def _mortal_handlers(handlers: Mapping[str, Handler], death: Death) -> dict[str, Handler]:
    def mortal(name: str, handler: Handler) -> Handler:
        async def handle(params: Any) -> msgspec.Struct:  # noqa: ANN401 - as Handler has it
            death.pass_by(f"{name} {BEFORE}")
            result = await handler(params)
            death.pass_by(f"{name} {AFTER}")
            return result

        return handle

    return {name: mortal(name, handler) for name, handler in handlers.items()}


async def _play_kaktus(assignment: Assignment, tell: Tell, death: Death) -> None:
    config, clock = agent_config(Role.KAKTUS, assignment.node), SystemClock()
    await until_installed(clock, tell)
    health = Health(tell)
    drivers = partial(kaktus_drivers, config, assignment.node.kaktus, clock, health)
    await run_agent(
        config,
        ready=health.connected,
        drivers=mortal_drivers(drivers, death),
        fence_book=mortal_fences(death),
    )


# --- a Kahuna


class MortalStore:
    """Points: `submit KIND`, `KIND step STEP`, `KIND finish`, each with `before` or `after`.

    The last step's record is in the batch that finishes.
    """

    def __init__(self, store: Store, death: Death) -> None:
        self._store = store
        self._death = death
        self._kinds: dict[object, object] = {}  # of operations, by id

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        rows = await self._store.query(statement, consistency)
        self._kinds |= {row["id"]: row["kind"] for row in rows if {"id", "kind"} <= row.keys()}
        return rows

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        point = self._point(statements)
        if point is None:
            return await self._store.batch(statements)
        self._death.pass_by(f"{point} {BEFORE}")
        done = await self._store.batch(statements)
        self._death.pass_by(f"{point} {AFTER}")
        return done

    async def close(self) -> None:
        await self._store.close()

    def _point(self, statements: Sequence[Statement]) -> str | None:
        point = None
        for statement in statements:
            sql, values = statement.sql.lstrip(), statement.parameters
            if sql.startswith("INSERT INTO operation ("):
                self._kinds[values[0]] = values[1]
                point = f"submit {values[1]}"
            elif sql.startswith("INSERT INTO operation_step"):
                point = f"{self._kinds.get(values[0])} step {values[2]}"
            elif sql.startswith("UPDATE operation SET state = ?"):
                point = f"{self._kinds.get(values[-1])} finish"
        return point


async def _play_kahuna(assignment: Assignment, tell: Tell, death: Death) -> None:
    def ready(answer: Ready) -> None:
        tell(RoleState.RUNNING, answer.url)

    await run_kahuna(
        kahuna_config(assignment.node),
        ready=ready,
        store_of=lambda store: MortalStore(store, death),
    )


async def _play(death: Death, assignment: Assignment, tell: Tell) -> None:
    plays = {Role.KAHUNA: _play_kahuna, Role.KAKTUS: _play_kaktus}
    await plays[assignment.role](assignment, tell, death)


if __name__ == "__main__":
    if (clock_file := clock_of(Path(sys.argv[1]))).exists():
        skew(clock_file)
    serve_assignment(partial(_play, Death(Path(sys.argv[1]))))
