"""Die before and after every commit and every driver call of what is done to a Kompute.

Whatever happens, the operation ends in exactly the desired world, or in nothing left behind; what
failed for good is marked, and mended once the fault is gone. The rows and the simulated node are
judged against each other by the checker that `kowabunga state verify` uses. Lines with the number
of schedules are printed: run with `-s` to see them.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from appliance.agent.dispatch import Dispatcher
from appliance.agent.fences import FenceBook
from appliance.agent.simulated import simulated_handlers
from appliance.core.errors import DeadlineExceeded
from appliance.drivers.fake.faults import Faults
from appliance.drivers.fake.node import NodeTraits, SimulatedNode
from appliance.drivers.fake.world import World
from appliance.model.agent import AgentType
from appliance.model.storage import RbdPool
from appliance.operations.operation import State
from appliance.resources.kompute import Kompute, forget_kompute
from appliance.rpc.gateway import Command
from appliance.rpc.method import Method
from appliance.services.alarms import Alarms
from appliance.services.catalog import Catalog
from appliance.services.cluster import ensure_cluster
from appliance.services.compute import COMPUTE_KINDS, Compute
from appliance.services.komputes import KomputeOptions
from appliance.services.secrets import Secrets
from appliance.services.verify import verify_world
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore
from tests.crash.stage import _MEMORY, SETTINGS, Died, Ended, Incarnation, Stage
from tests.support.clock import settle
from tests.support.cloud import (
    ASKED,
    GIB,
    TRAITS,
    Cloud,
    Nodes,
    Player,
    build_cloud,
    furnish,
    open_keyring,
)
from tests.support.cloud import kompute as wanted_kompute
from tests.support.drive import JumpingClock

if TYPE_CHECKING:
    from tests.crash.world import Agent

Plan = tuple[int, str] | None  # what happens at which point of the schedule
Act = Callable[[Compute, Cloud, Kompute | None, str], Awaitable[object]]
POOL = RbdPool(pool="ssd", monitor_address="ceph.example", monitor_port=3300)
_names = (f"web-{number}" for number in count())


class OneNode(Nodes):
    """The only node: its agent dies and starts again with nothing but its fence book."""

    def __init__(self, directory: Path, clock: JumpingClock, world: World) -> None:
        super().__init__(directory, clock, world)
        self._path = directory / "one.fences"
        self._jumping = clock
        self._dispatcher: Dispatcher | None = None
        self._restart = asyncio.Event()
        self._started = asyncio.Event()
        self.node: SimulatedNode | None = None

    async def play(self, agent_id: str, traits: NodeTraits = TRAITS) -> Player:
        node = SimulatedNode(agent_id, self.world, clock=self._jumping, traits=traits)
        self.node = node
        self._started.clear()
        self._restart.set()
        await self._started.wait()
        assert self._dispatcher is not None
        return Player(agent_id, node, self._dispatcher)

    async def run(self) -> None:
        async with FenceBook.open(self._path) as fences:
            while True:
                await self._restart.wait()
                self._restart.clear()
                assert self.node is not None
                handlers = simulated_handlers(
                    self.node,
                    AgentType.KAKTUS,
                    version="test",
                    boot_id="boot",
                    send_event=lambda _: None,
                )
                async with Dispatcher(handlers, fences) as dispatcher:
                    self._dispatcher = dispatcher
                    self._started.set()
                    await self._restart.wait()

    async def restart(self) -> None:
        self._started.clear()
        self._restart.set()
        await self._started.wait()

    def reachable(self, agent_id: str) -> bool:
        return self.node is not None and agent_id == self.node.node_id

    async def handle(self, method: str, params: msgspec.Struct, command: Command | None) -> Any:  # noqa: ANN401 - the method's own result type
        assert self._dispatcher is not None
        return await self._dispatcher.handle(method, msgspec.json.encode(params), command)

    async def call(
        self,
        agent_id: str,
        method: Method[Any, Any],
        params: msgspec.Struct,
        *,
        timeout_s: float | None = None,
        command: Command | None = None,
    ) -> Any:  # noqa: ANN401 - the method's own result type
        return await self.handle(method.name, params, command)


@dataclass
class Schedule:
    """Counts the points of one run over all engines, and acts at the planned one."""

    node: OneNode
    plan: Plan
    points: list[str] = field(default_factory=list)

    async def at(self, engine: Incarnation, point: str) -> None:
        self.points.append(point)
        if self.plan is None or len(self.points) - 1 != self.plan[0]:
            return
        if self.plan[1] == "engine dies":
            engine.die()
        await self.node.restart()
        raise DeadlineExceeded("no answer came")

    def accidents(self) -> list[Plan]:
        return [
            (index, accident)
            for index, point in enumerate(self.points)
            for accident in ("engine dies", "agent dies")
            if accident == "engine dies" or point.endswith("call")
        ]


@dataclass
class Rig:
    stage: Stage
    cloud: Cloud
    node: OneNode

    def compute(self, engine: Incarnation) -> Compute:
        clock = self.stage.clock
        return Compute.joined(
            engine,
            engine.engine,
            engine,
            Catalog(engine, clock),
            self.secrets(engine),
            alarm=Alarms(engine, clock).raise_alarm,
            clock=clock,
        )

    def secrets(self, engine: Incarnation) -> Secrets:
        """Return the secrets as this process reads and writes them."""
        return Secrets(engine, open_keyring(engine, self.node.directory, self.stage.clock))

    async def begin(self, at: Callable[[Incarnation, str], Awaitable[None]]) -> Incarnation:
        engine = Incarnation(self.stage, at, kinds=COMPUTE_KINDS, vault=self.secrets)
        engine.start()
        await settle()
        return engine

    async def known(self) -> set[str]:
        """Return the ids of all operations: two engines may make ids in any order."""
        rows = await self.stage.store.query(Statement("SELECT id FROM operation"))
        return {str(row["id"]) for row in rows}

    async def new(self, known: set[str]) -> Ended | None:
        """Return the operation that has come since."""
        rows = await self.stage.store.query(Statement("SELECT id, state FROM operation"))
        return next((msgspec.convert(row, Ended) for row in rows if row["id"] not in known), None)

    async def differences(self) -> list[str]:
        """Return what does not fit; bridges apart, which reconciliation removes after the last."""
        verdict = await verify_world(self.stage.store, self.node, self.cloud.compute.seeds)
        return [
            f"{each.target}: {each.detail}"
            for each in verdict.differences
            if not (each.target.startswith("kaktus/") and "no instance here needs" in each.detail)
        ]

    async def look(self) -> Ended | None:
        """Reconcile once; return what that began, when it has ended."""
        engine = await self.begin(_calm)
        known = await self.known()
        await self.compute(engine).reconciler.look(self.cloud.agents[0])
        mending = await self.new(known)
        if mending is not None:
            await engine.see_through(mending.id)
        await engine.bury()
        return mending

    async def clear(self) -> None:
        """Remove every Kompute, rows and things, without anybody's help."""
        assert self.node.node is not None
        node, store = self.node.node, self.stage.store
        for domain in await node.compute.list_domains():
            await node.compute.ensure_domain_absent(domain.domain_id)
        for row in await store.query(
            Statement("SELECT id FROM volume UNION SELECT id FROM instance")
        ):
            await node.storage.ensure_image_absent(POOL, str(row["id"]))
        for row in await store.query(Statement("SELECT id FROM kompute")):
            await store.batch(forget_kompute(str(row["id"])))


async def _calm(_engine: Incarnation, _point: str) -> None:
    return


@asynccontextmanager
async def _rig() -> AsyncGenerator[Rig]:
    clock = JumpingClock()
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder, World() as world:
        path = Path(folder)
        store = await SqliteStore.open(path / "state" / "state.db", clock=clock)
        try:
            async with asyncio.TaskGroup() as group:
                await ensure_cluster(store, clock)
                node = OneNode(path, clock, world)
                playing = group.create_task(node.run())
                cloud = build_cloud(store, node, clock, settings=SETTINGS)
                running = group.create_task(cloud.engine.run())
                await settle()
                await furnish(cloud, hosts=1)
                running.cancel()
                # All that is asked of an agent there is `handle`.
                yield Rig(Stage(store, cast("Agent", node), clock), cloud, node)
                playing.cancel()
        finally:
            await store.close()


@dataclass
class Sweep:
    """One request, at each of whose points somebody dies once.

    Attributes:
        act: makes the request; is told the Kompute that exists, if `exists`, and a free name.
        faulty: a method that fails for good.
    """

    rig: Rig
    act: Act
    exists: bool = False
    faulty: str | None = None
    end: State = State.DONE

    async def run_all(self) -> list[tuple[Plan, list[str]]]:
        schedule, wrong = await self._run(None)
        plans = schedule.accidents()
        found: list[tuple[Plan, list[str]]] = [(None, wrong)] if wrong else []
        for plan in plans:
            _, wrong = await self._run(plan)
            if wrong:
                found.append((plan, wrong))
        await self.rig.look()
        verdict = await verify_world(
            self.rig.stage.store, self.rig.node, self.rig.cloud.compute.seeds
        )
        if not verdict.is_clean:
            found.append((None, [str(verdict)]))
        print(f"crash sweep: {len(plans) + 1} schedules, {len(found)} violations")
        return found

    async def _run(self, plan: Plan) -> tuple[Schedule, list[str]]:
        rig, faults = self.rig, self._faults()
        name = next(_names)
        existing = await self._make_existing(name) if self.exists else None
        known = await rig.known()
        if self.faulty is not None:
            faults.fail(method=self.faulty, times=None)
        schedule = Schedule(rig.node, plan)
        engine = await rig.begin(schedule.at)
        with suppress(Died):
            await self.act(rig.compute(engine), rig.cloud, existing, name)
        operation = await rig.new(known)
        while operation is not None and not operation.state.finished:
            if engine.dead:
                await engine.bury()
                engine = await rig.begin(schedule.at)
            await engine.see_through(operation.id)
            operation = await rig.new(known)
        await engine.bury()
        faults.mend()
        wrong = await self._judge(operation, existing, name)
        await rig.clear()
        return schedule, wrong

    async def _make_existing(self, name: str) -> Kompute:
        rig = self.rig
        engine = await rig.begin(_calm)
        begun = await rig.compute(engine).komputes.create(
            ASKED,
            rig.cloud.project,
            rig.cloud.zone,
            wanted_kompute(name, vcpus=2),
            KomputeOptions(),
        )
        await engine.see_through(str(begun.operation_id))
        made = await begun.outcome()
        await engine.bury()
        return made

    async def _judge(
        self, operation: Ended | None, existing: Kompute | None, name: str
    ) -> list[str]:
        rig = self.rig
        wrong = []
        if operation is not None and operation.state is not self.end:
            wrong.append(f"ended {operation.state}, not {self.end}")
        failed = operation is not None and operation.state is State.FAILED
        if failed and self.exists:
            wrong += await self._mend()
        wrong += await rig.differences()
        rows = await rig.cloud.store.query(
            Statement(
                "SELECT kompute.phase, vcpus FROM kompute JOIN instance ON kompute_id = kompute.id"
            )
        )
        left = [(row["phase"], row["vcpus"]) for row in rows]
        if left != self.expected(happened=operation is not None):
            wrong.append(f"left: {left}")
        return wrong

    def expected(self, *, happened: bool) -> list[tuple[str, int]]:
        """Return phase and size of what must be left."""
        if not happened:
            return [("ready", 2)] if self.exists else []
        if self.act is _create and self.end is not State.DONE:
            return []
        return [] if self.act is _delete else [("ready", 1)]

    async def _mend(self) -> list[str]:
        """Let reconciliation mend what failed for good, now that the fault is gone."""
        rig = self.rig
        wrong = [] if await rig.differences() else ["what failed is not marked"]
        if await rig.look() is None:
            wrong.append("nobody mends it")
        return wrong

    def _faults(self) -> Faults:
        assert self.rig.node.node is not None
        return self.rig.node.node.faults


async def _create(compute: Compute, cloud: Cloud, _: Kompute | None, name: str) -> None:
    wanted = wanted_kompute(name, data_disk=GIB)
    await compute.komputes.create(ASKED, cloud.project, cloud.zone, wanted, KomputeOptions())


async def _update(compute: Compute, _: Cloud, existing: Kompute | None, _name: str) -> None:
    """A smaller machine, which takes a restart, with a larger disk and one more."""
    assert existing is not None
    wanted = msgspec.structs.replace(existing, vcpus=1, disk=2 * GIB, data_disk=GIB)
    await compute.komputes.update(ASKED, str(existing.id), wanted)


async def _delete(compute: Compute, _: Cloud, existing: Kompute | None, _name: str) -> None:
    assert existing is not None
    await compute.komputes.delete(ASKED, str(existing.id))


async def test_a_create_survives_any_crash() -> None:
    async with _rig() as rig:
        assert await Sweep(rig, _create).run_all() == []


async def test_a_create_that_fails_leaves_nothing_after_any_crash() -> None:
    async with _rig() as rig:
        sweep = Sweep(rig, _create, faulty="compute.ensure_power", end=State.FAILED)
        assert await sweep.run_all() == []


async def test_an_update_survives_any_crash() -> None:
    async with _rig() as rig:
        assert await Sweep(rig, _update, exists=True).run_all() == []


async def test_an_update_that_fails_keeps_the_wish_after_any_crash() -> None:
    async with _rig() as rig:
        sweep = Sweep(rig, _update, exists=True, faulty="compute.ensure_domain", end=State.FAILED)
        assert await sweep.run_all() == []


async def test_a_delete_survives_any_crash() -> None:
    async with _rig() as rig:
        assert await Sweep(rig, _delete, exists=True).run_all() == []


async def test_a_delete_that_fails_is_finished_later_after_any_crash() -> None:
    async with _rig() as rig:
        sweep = Sweep(
            rig, _delete, exists=True, faulty="storage.ensure_image_absent", end=State.FAILED
        )
        assert await sweep.run_all() == []
