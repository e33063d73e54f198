"""A small cloud for tests: real store, engine, services and dispatchers; simulated nodes.

Only the sockets are left out: a call goes straight to the dispatcher of its agent, through JSON.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from appliance.agent.dispatch import Dispatcher
from appliance.agent.fences import FenceBook
from appliance.agent.simulated import simulated_handlers
from appliance.core.clock import Clock, SystemClock
from appliance.core.errors import Unavailable
from appliance.core.ids import new_id
from appliance.drivers.fake.node import NodeTraits, SimulatedNode
from appliance.drivers.fake.storage import Internet, RemoteFile
from appliance.drivers.fake.world import World
from appliance.model.agent import AgentType
from appliance.operations.engine import Engine
from appliance.operations.equipment import EngineSettings
from appliance.resources.adapter import Adapter
from appliance.resources.instance import Instance
from appliance.resources.kaktus import KAKTUSES, Kaktus
from appliance.resources.kompute import Kompute
from appliance.resources.project import Project, ProjectResources, insert_project
from appliance.resources.region import REGIONS, Region
from appliance.resources.storage_pool import STORAGE_POOLS, StoragePool
from appliance.resources.subnet import SUBNETS, Subnet
from appliance.resources.team import TEAMS, Team
from appliance.resources.template import Template
from appliance.resources.vnet import VNETS, VNet
from appliance.resources.volume import Volume, VolumeType
from appliance.resources.zone import ZONES, Zone
from appliance.rpc.gateway import AgentGateway, Command
from appliance.rpc.method import Method
from appliance.rpc.methods import Event
from appliance.services.adapters import Adapters
from appliance.services.alarms import Alarms
from appliance.services.catalog import Catalog
from appliance.services.cluster import ensure_cluster
from appliance.services.compute import COMPUTE_KINDS, Compute
from appliance.services.durable import Asked
from appliance.services.key_files import KeyFiles
from appliance.services.keyring import Keyring
from appliance.services.komputes import KomputeOptions
from appliance.services.node_identity import ensure_node_identity
from appliance.services.secrets import Secrets
from appliance.services.settings import Settings
from appliance.store.base import Consistency, Row, Statement, Store
from appliance.store.sqlite import SqliteStore

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

MIB = 1024**2
GIB = 1024**3
ASKED = Asked("master")
TRAITS = NodeTraits(internet=Internet(default=RemoteFile(8 * MIB)), latency_s=0)


@dataclass
class Player:
    """One agent that is played: its node, and what it told by itself."""

    agent_id: str
    node: SimulatedNode
    dispatcher: Dispatcher
    connected: bool = True
    events: list[Event] = field(default_factory=list)


class Gate:
    """Holds the calls of one method until it is opened."""

    def __init__(self) -> None:
        self.waiting = 0
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        self.waiting += 1
        await self._open.wait()


class CountedStore:
    """A store that counts what is written to it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.batches = 0

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        return await self._store.query(statement, consistency)

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        self.batches += 1
        return await self._store.batch(statements)

    async def close(self) -> None:
        await self._store.close()


class Nodes:
    """Every agent of the cloud; implements AgentGateway."""

    def __init__(self, directory: Path, clock: Clock, world: World) -> None:
        self.world = world
        self.directory = directory
        self._clock = clock
        self._players: dict[str, Player] = {}
        self._exits = AsyncExitStack()
        self.calls: list[tuple[str, str]] = []  # agent, method
        self._gates: dict[str, Gate] = {}
        # Around what a node does: a manual clock does not see the thread of its fences.
        self.at_work: Callable[[], AbstractContextManager[None]] = nullcontext

    def __getitem__(self, agent_id: str) -> Player:
        return self._players[agent_id]

    async def play(self, agent_id: str, traits: NodeTraits = TRAITS) -> Player:
        """Begin, or begin anew as a process that died does, with the fences that it kept."""
        events: list[Event] = []
        node = SimulatedNode(agent_id, self.world, clock=self._clock, traits=traits)
        handlers = simulated_handlers(
            node, AgentType.KAKTUS, version="test", boot_id="boot", send_event=events.append
        )
        fences = await self._exits.enter_async_context(
            FenceBook.open(self.directory / f"{agent_id}.{new_id()}.fences")
        )
        dispatcher = await self._exits.enter_async_context(Dispatcher(handlers, fences))
        player = Player(agent_id, node, dispatcher, events=events)
        self._players[agent_id] = player
        return player

    async def close(self) -> None:
        await self._exits.aclose()

    def reachable(self, agent_id: str) -> bool:
        player = self._players.get(agent_id)
        return player is not None and player.connected

    async def call(
        self,
        agent_id: str,
        method: Method[P, R],
        params: P,
        *,
        timeout_s: float | None = None,
        command: Command | None = None,
    ) -> R:
        del timeout_s
        if not self.reachable(agent_id):
            raise Unavailable(f"agent {agent_id} is not connected")
        self.calls.append((agent_id, method.name))
        if method.name in self._gates:
            await self._gates[method.name].pass_through()
        with self.at_work():
            result = await self._players[agent_id].dispatcher.handle(
                method.name, msgspec.json.encode(params), command
            )
        return msgspec.json.decode(msgspec.json.encode(result), type=method.result)

    def hold(self, method: str) -> Gate:
        """Let every call of a method wait at a gate."""
        gate = self._gates[method] = Gate()
        return gate

    def methods(self) -> list[str]:
        """Return the names of the methods called so far, and forget them."""
        names = [name for _, name in self.calls]
        self.calls.clear()
        return names


@dataclass
class Cloud:
    """A region of one zone, its hosts, networks and storage; one project."""

    store: Store
    clock: Clock
    nodes: Nodes
    engine: Engine
    catalog: Catalog
    compute: Compute
    adapters: Adapters
    alarms: Alarms
    keyring: Keyring
    secrets: Secrets
    settings: Settings
    region: str = ""
    zone: str = ""
    hosts: list[str] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    private_subnet: str = ""
    public_subnet: str = ""
    pool: str = ""
    template: str = ""
    project: str = ""

    async def add_host(self, zone: str | None = None, *, threads: int = 64) -> tuple[str, str]:
        """Add a Kaktus with an agent that is played; return their ids."""
        agent_id = await self.add_agent()
        kaktus = await self.catalog.create(
            KAKTUSES,
            Kaktus(name=f"kaktus-{len(self.hosts)}", agents=[agent_id]),
            ZONES,
            zone or self.zone,
        )
        host_id = str(kaktus.id)
        await self.store.batch(
            [
                Statement(
                    "UPDATE kaktus SET cpu_arch = 'x86_64', cpu_threads = ?, memory_bytes = ?"
                    " WHERE id = ?",
                    (threads, 256 * GIB, host_id),
                )
            ]
        )
        self.hosts.append(host_id)
        self.agents.append(agent_id)
        return host_id, agent_id

    async def add_agent(self) -> str:
        agent_id = new_id()
        await self.store.batch(
            [
                Statement(
                    "INSERT INTO agent (id, name, description, type, credential,"
                    " credential_serial, created_at_ms) VALUES (?, ?, '', 'Kaktus', 'none', 0, 0)",
                    (agent_id, f"agent-{agent_id}"),
                )
            ]
        )
        await self.nodes.play(agent_id)
        return agent_id

    async def add_pool(self, name: str, agents: list[str], address: str = "ceph.example") -> str:
        pool = StoragePool(name=name, pool=name, ceph_address=address, agents=agents)
        return str((await self.catalog.create(STORAGE_POOLS, pool, REGIONS, self.region)).id)

    async def add_template(self, pool: str | None = None, name: str = "debian") -> str:
        template = Template(name=name, source=f"https://images.example/{name}.qcow2")
        begun = await self.compute.templates.create(ASKED, pool or self.pool, template)
        return str((await begun.outcome()).id)

    async def add_subnet(self, name: str, cidr: str, *, private: bool) -> str:
        number = await self.count("vnet") + 1
        vnet = await self.catalog.create(
            VNETS,
            VNet(name=f"vnet-{name}", vlan=number, interface=f"br{number}", private=private),
            REGIONS,
            self.region,
        )
        gateway = cidr.partition("/")[0].rpartition(".")[0] + ".1"
        subnet = await self.catalog.create(
            SUBNETS, Subnet(name=name, cidr=cidr, gateway=gateway), VNETS, str(vnet.id)
        )
        await self.catalog.set_default(SUBNETS, str(subnet.id), VNETS, str(vnet.id))
        return str(subnet.id)

    async def add_project(self, name: str, **quotas: int) -> str:
        project_id = new_id()
        limits = {"vcpus": 0, "memory": 0, "storage": 0, "instances": 0} | quotas
        project = Project(
            name=name,
            description="",
            domain="",
            bootstrap_user="",
            bootstrap_pubkey="",
            tags=[],
            metadatas=[],
            quotas=ProjectResources(**limits),
            teams=[],
            regions=[self.region],
        )
        await self.store.batch(insert_project(project_id, project, prefix_length=26, now_ms=0))
        return project_id

    async def add_second_project(self, name: str, **quotas: int) -> str:
        """Add a project with a subnet of its own, 10.2.0.0/24."""
        await self.add_subnet(f"private-{name}", "10.2.0.0/24", private=True)
        return await self.add_project(name, **quotas)

    async def add_volume(
        self, name: str, kind: VolumeType = VolumeType.OS, size: int = GIB, project: str = ""
    ) -> str:
        begun = await self.compute.volumes.create(
            ASKED,
            project or self.project,
            self.region,
            Volume(name=name, type=kind, size=size),
            pool_id=None,
            template_id=None,
        )
        return str((await begun.outcome()).id)

    async def add_adapter(self, name: str, subnet: str | None = None) -> str:
        adapter = await self.adapters.create(
            subnet or self.private_subnet, Adapter(name=name), assign=True
        )
        return str(adapter.id)

    async def add_instance(self, name: str) -> str:
        wanted = Instance(
            name=name,
            memory=GIB,
            vcpus=1,
            adapters=[await self.add_adapter(f"{name}-card")],
            volumes=[await self.add_volume(f"{name}-system")],
        )
        begun = await self.compute.instances.create(ASKED, self.project, self.zone, wanted)
        return str((await begun.outcome()).id)

    async def add_kompute(self, name: str, *, public: bool = False, **sizes: int) -> Kompute:
        begun = await self.compute.komputes.create(
            ASKED, self.project, self.zone, kompute(name, **sizes), KomputeOptions(public=public)
        )
        return await begun.outcome()

    async def reconcile(self) -> None:
        """Look at every node, and wait for what that begins."""
        before = {operation.id for operation in await self.engine.list()}
        for agent_id in self.agents:
            await self.compute.reconciler.look(agent_id)
        for operation in await self.engine.list():
            if operation.id not in before:
                await self.engine.wait(operation.id, 60)

    async def count(self, table: str) -> int:
        (row,) = await self.store.query(Statement(f"SELECT COUNT(*) AS n FROM {table}"))
        return int(row["n"] or 0)

    async def value(self, sql: str, *parameters: str) -> str | int | None:
        """Return the one value that a query selects."""
        rows = await self.store.query(Statement(sql, parameters))
        return next(iter(rows[0].values())) if rows else None

    async def contents(self) -> dict[str, list[dict[str, str | int | None]]]:
        """Return all that people made, table by table."""
        return {
            table: await self.store.query(Statement(f"SELECT * FROM {table} ORDER BY 1, 2"))
            for table in TABLES
        }


TABLES = (
    "template", "kompute", "instance", "volume", "adapter", "adapter_address", "kaktus_load",
    "project", "operation", "operation_target",
)  # fmt: skip


def kompute(name: str, **sizes: int) -> Kompute:
    return Kompute(
        name=name,
        **({"memory": GIB, "vcpus": 1, "disk": GIB} | sizes),  # type: ignore[arg-type]
    )


async def furnish(cloud: Cloud, hosts: int = 2) -> None:
    """Make a region with one zone, `hosts` hosts, networks, a pool, a template and a project."""
    await cloud.keyring.open("kahuna")
    catalog = cloud.catalog
    cloud.region = str(
        (await catalog.create(REGIONS, Region(name="eu", domain="eu.example.org"))).id
    )
    cloud.zone = str((await catalog.create(ZONES, Zone(name="eu-a"), REGIONS, cloud.region)).id)
    for _ in range(hosts):
        await cloud.add_host()
    await catalog.create(TEAMS, Team(name="ops", users=[]))
    cloud.private_subnet = await cloud.add_subnet("private", "10.1.0.0/24", private=True)
    cloud.public_subnet = await cloud.add_subnet("public", "203.0.113.0/24", private=False)
    cloud.pool = await cloud.add_pool("ssd", list(cloud.agents))
    cloud.template = await cloud.add_template()
    cloud.project = await cloud.add_project("acme")


@asynccontextmanager
async def cloud_on(
    store: Store,
    directory: Path,
    clock: Clock,
    *,
    hosts: int = 2,
    settings: EngineSettings | None = None,
) -> AsyncGenerator[Cloud]:
    """Run a cloud for the life of the block."""
    await ensure_cluster(store, clock)
    with World() as world:
        nodes = Nodes(directory, clock, world)
        try:
            async with asyncio.TaskGroup() as group:
                cloud = build_cloud(store, nodes, clock, settings=settings)
                running = group.create_task(cloud.engine.run())
                await asyncio.sleep(0)
                try:
                    await furnish(cloud, hosts)
                    yield cloud
                finally:
                    running.cancel()
        finally:
            await nodes.close()


def build_cloud(
    store: Store,
    nodes: Nodes,
    clock: Clock,
    *,
    gateway: AgentGateway | None = None,
    settings: EngineSettings | None = None,
) -> Cloud:
    """Join the services; running the engine is the caller's."""
    reach = gateway or nodes
    keyring = open_keyring(store, nodes.directory, clock)
    secrets = Secrets(store, keyring)
    engine = Engine(
        store, reach, COMPUTE_KINDS, clock=clock, alone=True, settings=settings, vault=secrets
    )
    catalog = Catalog(store, clock)
    alarms = Alarms(store, clock)
    return Cloud(
        store=store,
        clock=clock,
        nodes=nodes,
        engine=engine,
        catalog=catalog,
        compute=Compute.joined(
            store, engine, reach, catalog, secrets, alarm=alarms.raise_alarm, clock=clock
        ),
        keyring=keyring,
        secrets=secrets,
        settings=Settings(store, secrets, clock),
        adapters=Adapters(store, catalog, clock),
        alarms=alarms,
    )


def open_keyring(store: Store, directory: Path, clock: Clock) -> Keyring:
    """Return the keyring of the one node; `furnish` opens it."""
    return Keyring(store, KeyFiles(directory / "data"), ensure_node_identity(directory), clock)


@asynccontextmanager
async def open_cloud(directory: Path, *, hosts: int = 2) -> AsyncGenerator[Cloud]:
    """Run a cloud in real time on a store of its own."""
    clock = SystemClock()
    store = await SqliteStore.open(directory / "state.db", clock=clock)
    try:
        async with cloud_on(CountedStore(store), directory, clock, hosts=hosts) as cloud:
            yield cloud
    finally:
        await store.close()
