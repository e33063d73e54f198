"""For each table: an object with every field set, and one that differs in every field.

Both can exist at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from appliance.core.ids import new_id
from appliance.resources.agent import AGENTS, Agent, NodeAgentType
from appliance.resources.cost import Cost
from appliance.resources.kaktus import KAKTUSES, Kaktus
from appliance.resources.kiwi import KIWIS, Kiwi
from appliance.resources.region import REGIONS, Region
from appliance.resources.storage_pool import STORAGE_POOLS, StoragePool
from appliance.resources.subnet import SUBNETS, Application, IpRange, Subnet
from appliance.resources.table import Table
from appliance.resources.team import TEAMS, Team
from appliance.resources.template import TEMPLATES, OperatingSystem, Template
from appliance.resources.user import USERS, User, UserRole
from appliance.resources.vnet import VNETS, VNet
from appliance.resources.zone import ZONES, Zone
from appliance.store.base import SqlValue, Statement, Store


@dataclass(frozen=True)
class World:
    """What the samples refer to."""

    region: str
    zone: str
    vnet: str
    kiwi_agents: list[str]
    kaktus_agents: list[str]
    users: list[str]
    pool: str = ""


@dataclass(frozen=True)
class Sample:
    table: Table[Any]
    parent: Callable[[World], str]
    full: Callable[[World], msgspec.Struct]
    changed: Callable[[World], msgspec.Struct]
    # What shows an object that is hidden until its effects are there.
    reveal: Callable[[str], Sequence[Statement]] = lambda _: []
    # Fields that have, or keep, one value, and why.
    fixed: Mapping[str, str] = field(default_factory=dict)


async def add_agent(store: Store, name: str, agent_type: str) -> str:
    agent_id = new_id()
    await store.batch([
        Statement(
            "INSERT INTO agent (id, name, description, type, credential, credential_serial,"
            " created_at_ms) VALUES (?, ?, '', ?, 'none', 0, 0)",
            (agent_id, name, agent_type),
        )
    ])  # fmt: skip
    return agent_id


async def make_world(store: Store) -> World:
    region, zone, vnet = new_id(), new_id(), new_id()
    await store.batch([
        *REGIONS.insert(region, "", Region(name="world", domain="w.example"), 1),
        *ZONES.insert(zone, region, Zone(name="world-a"), 1),
        *VNETS.insert(vnet, region, VNet(name="world-0", interface="br0"), 1),
    ])  # fmt: skip
    kiwi_agents = [await add_agent(store, f"kiwi-{number}", "Kiwi") for number in range(3)]
    kaktus_agents = [await add_agent(store, f"kaktus-{number}", "Kaktus") for number in range(3)]
    users = [new_id() for _ in range(3)]
    for number, user_id in enumerate(users):
        user = User(name=f"user {number}", email=f"u{number}@example.org", role=UserRole.USER)
        await store.batch([*USERS.insert(user_id, "", user, 1)])
    return World(region, zone, vnet, kiwi_agents, kaktus_agents, users)


SAMPLES: Final = (
    Sample(
        REGIONS,
        parent=lambda _: "",
        full=lambda _: Region(name="eu", description="Europe", domain="eu.example.org"),
        changed=lambda _: Region(name="us", description="", domain="us.example.org"),
    ),
    Sample(
        ZONES,
        parent=lambda world: world.region,
        full=lambda _: Zone(name="eu-a", description="Paris"),
        changed=lambda _: Zone(name="eu-b", description=""),
    ),
    Sample(
        KIWIS,
        parent=lambda world: world.region,
        full=lambda world: Kiwi(
            name="kiwi", description="north", agents=world.kiwi_agents[2::-2]
        ),
        changed=lambda world: Kiwi(
            name="kiwi-2", description="south", agents=world.kiwi_agents[1:2]
        ),
    ),
    Sample(
        KAKTUSES,
        parent=lambda world: world.zone,
        full=lambda world: Kaktus(
            name="kaktus",
            description="rack 1",
            cpu_cost=Cost(price=0.1, currency="EUR"),
            memory_cost=Cost(price=1e-7, currency="CHF"),
            overcommit_cpu_ratio=5,
            overcommit_memory_ratio=1,
            agents=list(reversed(world.kaktus_agents)),
        ),
        changed=lambda world: Kaktus(
            name="kaktus-2",
            description="rack 2",
            cpu_cost=Cost(price=0.0, currency="USD"),
            memory_cost=Cost(price=123456789.25, currency="JPY"),
            overcommit_cpu_ratio=1,
            overcommit_memory_ratio=1000,
            agents=[],
        ),
    ),
    Sample(
        AGENTS,
        parent=lambda _: "",
        full=lambda _: Agent(name="node", description="rack 1", type=NodeAgentType.KIWI),
        changed=lambda _: Agent(name="node-2", description="", type=NodeAgentType.KIWI),
        fixed={"type": "a node would be asked for what it does not have"},
    ),
    Sample(
        VNETS,
        parent=lambda world: world.region,
        full=lambda _: VNet(
            name="vlan-201", description="tenants", vlan=201, interface="br201", private=True
        ),
        changed=lambda _: VNet(
            name="wan", description="outside", vlan=0, interface="br0", private=False
        ),
    ),
    Sample(
        SUBNETS,
        parent=lambda world: world.vnet,
        full=lambda _: Subnet(
            name="tenants-1",
            description="first",
            cidr="10.50.201.77/24",
            gateway="10.50.201.1",
            dns="10.50.201.2",
            extra_routes=["10.60.0.9/16", "10.40.0.0/16"],
            reserved=[
                IpRange(first="10.50.201.200", last="10.50.201.210"),
                IpRange(first="10.50.201.0", last="10.50.201.9"),
            ],
            gw_pool=[
                IpRange(first="10.50.201.252", last="10.50.201.254"),
                IpRange(first="10.50.201.11", last="10.50.201.11"),
            ],
            application=Application.CEPH,
        ),
        changed=lambda _: Subnet(
            name="tenants-2",
            description="",
            cidr="192.168.0.0/29",
            gateway="192.168.0.6",
            dns="",
            extra_routes=[],
            reserved=[],
            gw_pool=[IpRange(first="192.168.0.1", last="192.168.0.5")],
            application=Application.USER,
        ),
    ),
    Sample(
        STORAGE_POOLS,
        parent=lambda world: world.region,
        full=lambda world: StoragePool(
            name="ssd",
            description="fast",
            pool="rbd",
            ceph_address="10.0.0.1,ceph.example.org",
            ceph_port=0,
            ceph_secret_uuid="b7f1d1f0-5c3e-4d0e-9d6e-1f2d3c4b5a69",
            cost=Cost(price=200.5, currency="EUR"),
            agents=list(reversed(world.kaktus_agents)),
        ),
        changed=lambda world: StoragePool(
            name="hdd",
            description="",
            pool="slow",
            ceph_address="",
            ceph_port=65535,
            ceph_secret_uuid="",
            cost=Cost(price=0.0, currency="USD"),
            agents=world.kaktus_agents[:1],
        ),
    ),
    Sample(
        TEMPLATES,
        parent=lambda world: world.pool,
        full=lambda _: Template(
            name="debian",
            description="stable",
            os=OperatingSystem.WINDOWS,
            source="https://example.org/a.qcow2",
        ),
        changed=lambda _: Template(
            name="debian-13",
            description="",
            os=OperatingSystem.WINDOWS,
            source="https://example.org/a.qcow2",
        ),
        reveal=lambda template_id: [
            Statement("UPDATE template SET phase = 'ready' WHERE id = ?", (template_id,))
        ],
        fixed={"os": "volumes were cloned from it", "source": "volumes were cloned from it"},
    ),
    Sample(
        TEAMS,
        parent=lambda _: "",
        full=lambda world: Team(name="ACME Office", description="people", users=world.users),
        changed=lambda _: Team(name="ACME Lab", description="", users=[]),
    ),
    Sample(
        USERS,
        parent=lambda _: "",
        full=lambda _: User(
            name="John Doe",
            description="operator",
            email="john@example.org",
            role=UserRole.SUPER_ADMIN,
            notifications=True,
        ),
        changed=lambda _: User(
            name="Jane Doe",
            description="",
            email="jane+cloud@example.org",
            role=UserRole.USER,
            notifications=False,
        ),
    ),
)  # fmt: skip


async def add_row(store: Store, table: str, **values: SqlValue) -> str:
    """Write a row with only the values that matter to a test; the others are empty or zero.

    Columns that have a default have it.
    """
    row_id = new_id()
    columns = await store.query(
        Statement(
            'SELECT name, type FROM pragma_table_info(?) WHERE "notnull" AND dflt_value IS NULL',
            (table,),
        )
    )
    empty: dict[str, SqlValue] = {
        str(column["name"]): "" if column["type"] == "TEXT" else 0 for column in columns
    }
    names = await store.query(Statement("SELECT name FROM pragma_table_info(?)", (table,)))
    own: dict[str, SqlValue] = {"id": row_id} if {"name": "id"} in names else {}
    row = empty | own | values
    marks = ", ".join("?" * len(row))
    await store.batch([
        Statement(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
    ])  # fmt: skip
    return row_id
