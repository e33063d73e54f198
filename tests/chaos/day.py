"""A whole simulated Kahuna in manual time, and what goes on there all day long.

Requests come over its local socket, the agents dial in memory; time leaps (`tests.support.leap`).
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from websockets.asyncio.client import unix_connect
from websockets.exceptions import ConnectionClosed

from appliance.api.services import Services
from appliance.core.files import ensure_private_directory
from appliance.drivers.fake.world import World
from appliance.model.principal import MASTER
from appliance.model.setting import OPERATION_DAYS
from appliance.model.storage import ImagePurpose, ObservedImage
from appliance.roles.cast import Cast
from appliance.roles.kahuna import LOCAL_SOCKET, KahunaConfig, open_kahuna
from appliance.rpc.local import LocalDialer
from appliance.store.base import Statement, Store
from tests.support.leap import LeapingClock, LeapingStore

EXT: Final = "/api/ext/v1"
V1: Final = "/api/v1"
MINUTE: Final = 60.0
HOUR: Final = 3600.0
NODES: Final = 4
_GIB: Final = 1024**3
_SLOTS: Final = 8
_MACHINE: Final = {"memory": _GIB, "vcpus": 1, "disk": 2 * _GIB}
_STRANGER: Final = "f" * 24


@dataclass(slots=True)
class Day:
    clock: LeapingClock
    store: LeapingStore
    services: Services
    cast: Cast
    client: httpx.AsyncClient
    state: Path
    luck: random.Random
    agents: list[str] = field(default_factory=list[str])
    machines: set[str] = field(default_factory=set[str])
    did: dict[str, int] = field(default_factory=dict[str, int])
    region: str = ""
    zone: str = ""
    pool: str = ""
    subnet: str = ""
    project: str = ""

    async def try_(self, method: str, path: str, **body: Any) -> httpx.Response:  # noqa: ANN401
        return await self.client.request(method, path, json=body or None)

    async def ask(self, method: str, path: str, **body: Any) -> Any:  # noqa: ANN401 - JSON
        answer = await self.try_(method, path, **body)
        assert answer.is_success, (method, path, answer.text)
        return answer.json() if answer.content else None

    async def make(self, path: str, **body: object) -> str:
        made: str = (await self.ask("POST", V1 + path, **body))["id"]
        return made

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.store.query(Statement(sql))]

    async def persist(self, method: str, path: str, **body: Any) -> httpx.Response:  # noqa: ANN401
        """Ask until it works: nodes are away now and then."""
        while True:
            answer = await self.try_(method, path, **body)
            if answer.status_code not in (503, 504, 507):
                gone = method == "DELETE" and answer.status_code == 404  # it went by itself
                assert answer.is_success or gone, (method, path, answer.text)
                return answer
            await self.clock.sleep(10)

    def count(self, what: str) -> None:
        self.did[what] = self.did.get(what, 0) + 1


@asynccontextmanager
async def open_day(
    directory: Path, clock: LeapingClock, luck: random.Random
) -> AsyncGenerator[Day]:
    """Serve for the life of the block, with machines, users and trouble."""
    cast = Cast(clock, look_s=MINUTE)
    state = directory / "state"
    stores: list[LeapingStore] = []

    def store_of(store: Store) -> Store:
        stores.append(LeapingStore(store, clock))
        return stores[-1]

    config = KahunaConfig(state=state, host="127.0.0.1", port=0, node_name="n1")
    async with open_kahuna(config, clock, store_of=store_of) as earlier:
        await earlier.services.settings.set(OPERATION_DAYS.name, 1, MASTER)  # read at the start
    async with open_kahuna(
        config, clock, directory_of=cast.directory_of, stage=cast, store_of=store_of
    ) as kahuna:
        place = state / "simulation"
        ensure_private_directory(place)
        ready = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            dialer = LocalDialer(kahuna.services.hub)
            running = [
                group.create_task(kahuna.serve(lambda _: ready.set())),
                group.create_task(cast.play(place, kahuna.services.agents, dialer)),
            ]
            await ready.wait()
            transport = httpx.AsyncHTTPTransport(uds=str(state / LOCAL_SOCKET))
            try:
                async with httpx.AsyncClient(
                    transport=transport, base_url="http://localhost", timeout=None
                ) as client:
                    day = Day(clock, stores[-1], kahuna.services, cast, client, state, luck)
                    await _furnish(day)
                    yield day
            finally:
                for task in running:
                    task.cancel()


async def _furnish(day: Day) -> None:
    day.region = await day.make("/region", name="eu", domain="eu.example.org")
    day.zone = await day.make(f"/region/{day.region}/zone", name="eu-a")
    for number in range(NODES):
        agent = await day.make("/agent", name=f"node-{number}", type="Kaktus")
        day.agents.append(agent)
        await day.make(f"/zone/{day.zone}/kaktus", name=f"node-{number}", agents=[agent])
    vnet = await day.make(f"/region/{day.region}/vnet", name="in", vlan=100, interface="br100")
    day.subnet = await day.make(
        f"/vnet/{vnet}/subnet", name="in", cidr="10.0.0.0/24", gateway="10.0.0.1"
    )
    await day.ask("PATCH", f"{V1}/vnet/{vnet}/subnet/{day.subnet}/default")
    day.pool = await day.make(
        f"/region/{day.region}/pool", name="ssd", pool="rbd", ceph_address="ceph.example",
        agents=day.agents,
    )  # fmt: skip
    await day.ask("PATCH", f"{V1}/region/{day.region}/pool/{day.pool}/default")
    template = await day.make(
        f"/pool/{day.pool}/template", name="debian", source="https://images.example/debian.qcow2"
    )
    await day.ask("PATCH", f"{V1}/pool/{day.pool}/template/{template}/default")
    team = await day.make("/team", name="people", users=[])
    day.project = await day.make("/project", name="acme", teams=[team], regions=[day.region])
    with World(day.state / "simulation/world.db") as world:  # what each look must report
        (place,) = {
            str(row[0]) for row in world._connection.execute(
                "SELECT DISTINCT place FROM thing WHERE kind = 'image'"
            )
        }  # fmt: skip
        world.put(
            place,
            "image",
            _STRANGER,
            ObservedImage(
                image_id=_STRANGER, purpose=ImagePurpose.VOLUME, size_bytes=512, allocated_bytes=0
            ),
        )


async def _machine(day: Day, slot: int) -> None:
    """Make a machine, use it, remove it, for ever."""
    name, luck = f"web-{slot}", day.luck
    while True:
        body = {"name": name, **_MACHINE, "data_disk": luck.choice((0, _GIB))}
        path = f"{V1}/project/{day.project}/zone/{day.zone}/kompute"
        machine = (await day.persist("POST", path, **body)).json()["id"]
        day.machines.add(machine)
        day.count("creates")
        end = day.clock.monotonic() + luck.uniform(10, 40) * MINUTE
        while day.clock.monotonic() < end:
            await day.clock.sleep(luck.uniform(1, 5) * MINUTE)
            verb = luck.choice(("reboot", "reboot", "stop", "start", "suspend", "resume"))
            answer = await day.try_("PATCH", f"{V1}/kompute/{machine}/{verb}")
            assert answer.status_code in (200, 409, 422, 503, 504), (verb, answer.text)
            day.count(verb)
        day.machines.discard(machine)
        await day.persist("DELETE", f"{V1}/kompute/{machine}")
        day.count("deletes")
        await day.clock.sleep(luck.uniform(1, 5) * MINUTE)


async def _reconnect(day: Day) -> None:
    """Cut a node off, but never the first one, or let a call of it fail."""
    agent = day.luck.choice(day.agents[1:])
    faults = day.cast.faults_of(agent)
    assert faults is not None
    if day.luck.random() < 0.3:
        faults.fail(times=1, after_effect=day.luck.random() < 0.5)
        day.count("failures")
        return
    faults.cut()
    await day.clock.sleep(day.luck.uniform(1, 90))
    faults.mend()
    day.count("cuts")


async def _console(day: Day) -> None:
    """Open a console and leave it for a while; or have a token, and forget it."""
    if not day.machines:
        return
    machine = day.luck.choice(sorted(day.machines))
    answer = await day.try_("POST", f"{EXT}/komputes/{machine}/console?kind=serial")
    if not answer.is_success or day.luck.random() < 0.3:
        return
    path = answer.json()["url"].partition("/api/")[2]
    with suppress(ConnectionClosed):
        async with unix_connect(
            str(day.state / LOCAL_SOCKET), f"ws://localhost/api/{path}", ping_interval=None
        ) as console:
            await console.send(b"hello")
            while b"hello" not in await console.recv():
                pass
            day.count("consoles")
            await day.clock.sleep(day.luck.uniform(1, 100) * MINUTE)


async def _short_lived(day: Day) -> None:
    """Make one of each of what comes and goes, and remove it."""
    agent = await day.make("/agent", name="passing", type="Kaktus")
    await day.ask("GET", f"{EXT}/agents/{agent}/log")
    await day.ask("DELETE", f"{V1}/agent/{agent}")
    adapter = await day.make(f"/subnet/{day.subnet}/adapter?assignIP=true", name="passing")
    await day.ask("DELETE", f"{V1}/adapter/{adapter}")
    source = "https://images.example/passing.qcow2"
    path = f"{V1}/pool/{day.pool}/template"
    made = (await day.persist("POST", path, name="passing", source=source)).json()["id"]
    await day.persist("DELETE", f"{V1}/template/{made}")
    day.count("short-lived things")


async def _rotate(day: Day) -> None:
    await day.ask("POST", f"{EXT}/secrets/rotate-data-key")
    day.count("rotations")


async def _verify(day: Day) -> None:
    """What differs while nodes are away is mended soon."""
    for _ in range(30):
        findings = (await day.ask("POST", f"{EXT}/state/verify"))["findings"]
        if [each for each in findings if _STRANGER not in each] == []:
            day.count("verified")
            return
        await day.clock.sleep(MINUTE)
    raise AssertionError(findings)


@asynccontextmanager
async def lived(day: Day) -> AsyncGenerator[None]:
    """Let all of it go on for the life of the block."""
    errands: tuple[tuple[float, Callable[[Day], Coroutine[Any, Any, None]]], ...] = (
        (10 * MINUTE, _reconnect),
        (5 * MINUTE, _console),
        (HOUR / 2, _short_lived),
        (6 * HOUR, _rotate),
        (HOUR / 2, _verify),
    )

    async def again(every_s: float, errand: Callable[[Day], Coroutine[Any, Any, None]]) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await day.clock.sleep(every_s * day.luck.uniform(0.5, 1.5))
                group.create_task(errand(day))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_machine(day, slot)) for slot in range(_SLOTS)]
        tasks += [group.create_task(again(every_s, errand)) for every_s, errand in errands]
        yield
        for task in tasks:
            task.cancel()
