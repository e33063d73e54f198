"""A small cloud as rows: what projects and adapters need around them, on a real store."""

from dataclasses import dataclass, field

from appliance.core.clock import Clock
from appliance.core.ids import new_id
from appliance.resources.adapter import insert_adapter
from appliance.resources.cost import Cost
from appliance.resources.kaktus import KAKTUSES, Kaktus
from appliance.resources.project import Project
from appliance.resources.region import REGIONS, Region
from appliance.resources.storage_pool import STORAGE_POOLS, StoragePool
from appliance.resources.subnet import SUBNETS, Application, Subnet
from appliance.resources.team import TEAMS, Team
from appliance.resources.vnet import VNETS, VNet
from appliance.resources.zone import ZONES, Zone
from appliance.services.adapters import Adapters
from appliance.services.catalog import Catalog
from appliance.services.projects import Projects
from appliance.services.secrets import Secrets
from appliance.store.base import Row, SqlValue, Statement, Store

GIB = 2**30


def made(given_id: object) -> str:
    """Return an id that an object must have."""
    assert isinstance(given_id, str)
    return given_id


@dataclass
class Cloud:
    store: Store
    secrets: Secrets
    clock: Clock
    catalog: Catalog = field(init=False)
    projects: Projects = field(init=False)
    adapters: Adapters = field(init=False)
    seed_pool: str = ""  # of every instance

    def __post_init__(self) -> None:
        self.catalog = Catalog(self.store, self.clock)
        self.projects = Projects(self.store, self.catalog, self.secrets, self.clock)
        self.adapters = Adapters(self.store, self.catalog, self.clock)

    async def ask(self, sql: str, *parameters: SqlValue) -> list[Row]:
        return await self.store.query(Statement(sql, parameters))

    async def tell(self, sql: str, *parameters: SqlValue) -> None:
        await self.store.batch([Statement(sql, parameters)])

    async def region(self, name: str = "eu") -> str:
        made_region = await self.catalog.create(REGIONS, Region(name=name, domain="eu.example.org"))
        return made(made_region.id)

    async def zone(self, region_id: str, name: str = "eu-a") -> str:
        return made((await self.catalog.create(ZONES, Zone(name=name), REGIONS, region_id)).id)

    async def vnet(self, region_id: str, name: str = "tenants", *, private: bool = True) -> str:
        vnet = VNet(name=name, interface="br0", private=private)
        return made((await self.catalog.create(VNETS, vnet, REGIONS, region_id)).id)

    async def subnet(self, vnet_id: str, cidr: str, *, name: str = "", ceph: bool = False) -> str:
        subnet = Subnet(
            name=name or cidr,
            cidr=cidr,
            gateway=cidr.rpartition(".")[0] + ".1",
            application=Application.CEPH if ceph else Application.USER,
        )
        return made((await self.catalog.create(SUBNETS, subnet, VNETS, vnet_id)).id)

    async def team(self, name: str = "people") -> str:
        return made((await self.catalog.create(TEAMS, Team(name=name, users=[]))).id)

    async def project(self, team_id: str, region_id: str, name: str = "acme") -> Project:
        wanted = Project(name=name, teams=[team_id], regions=[region_id])
        return await self.projects.create(wanted, None)

    async def kaktus(
        self,
        zone_id: str,
        name: str,
        *,
        cpu: Cost | None = None,
        memory: Cost | None = None,
        threads: int = 0,
        memory_bytes: int = 0,
        cpu_ratio: int = 1,
        memory_ratio: int = 1,
    ) -> str:
        kaktus = Kaktus(
            name=name,
            cpu_cost=cpu,
            memory_cost=memory,
            overcommit_cpu_ratio=cpu_ratio,
            overcommit_memory_ratio=memory_ratio,
            agents=[],
        )
        kaktus_id = made((await self.catalog.create(KAKTUSES, kaktus, ZONES, zone_id)).id)
        await self.tell(
            "UPDATE kaktus SET cpu_threads = ?, memory_bytes = ? WHERE id = ?",
            threads,
            memory_bytes,
            kaktus_id,
        )
        if not self.seed_pool:
            (zone,) = await self.ask("SELECT region_id FROM zone WHERE id = ?", zone_id)
            self.seed_pool = await self.storage_pool(str(zone["region_id"]), "seeds")
        return kaktus_id

    async def storage_pool(
        self, region_id: str, name: str, *, cost: Cost | None = None, capacity_bytes: int = 0
    ) -> str:
        pool = StoragePool(name=name, pool="rbd", cost=cost, agents=[])
        pool_id = made((await self.catalog.create(STORAGE_POOLS, pool, REGIONS, region_id)).id)
        await self.tell(
            "UPDATE storage_pool SET capacity_bytes = ? WHERE id = ?", capacity_bytes, pool_id
        )
        return pool_id

    def insert_instance(
        self, project_id: str, kaktus_id: str, *, vcpus: int = 1, memory_bytes: int = GIB
    ) -> tuple[str, Statement]:
        instance_id = new_id()
        return instance_id, Statement(
            "INSERT INTO instance (id, project_id, kaktus_id, seed_pool_id, name, description,"
            " memory_bytes, vcpus, power, phase, created_at_ms, updated_at_ms)"
            " VALUES (?, ?, ?, ?, ?, '', ?, ?, 'running', 'creating', 0, 0)",
            (
                instance_id,
                project_id,
                kaktus_id,
                self.seed_pool,
                instance_id,
                memory_bytes,
                vcpus,
            ),
        )

    def insert_volume(self, project_id: str, pool_id: str, size_bytes: int) -> Statement:
        volume_id = new_id()
        return Statement(
            "INSERT INTO volume (id, project_id, storage_pool_id, name, description, type,"
            " size_bytes, phase, created_at_ms, updated_at_ms)"
            " VALUES (?, ?, ?, ?, '', 'raw', ?, 'ready', 0, 0)",
            (volume_id, project_id, pool_id, volume_id, size_bytes),
        )

    async def instance(
        self, project_id: str, kaktus_id: str, *, vcpus: int = 1, memory_bytes: int = GIB
    ) -> str:
        instance_id, insert = self.insert_instance(
            project_id, kaktus_id, vcpus=vcpus, memory_bytes=memory_bytes
        )
        await self.store.batch([insert])
        return instance_id

    async def attached(self, subnet_id: str, instance_id: str, name: str = "card") -> str:
        """Make an adapter of an instance."""
        adapter_id = new_id()
        await self.store.batch(
            insert_adapter(
                adapter_id, subnet_id, name, 0, automatic=True, attached=(instance_id, 0)
            )
        )
        return adapter_id

    async def rows(self) -> dict[str, list[Row]]:
        """Return all rows of all tables: what a refused request must leave as it was."""
        tables = await self.ask("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        return {
            str(table["name"]): await self.ask(f'SELECT * FROM "{table["name"]}"')
            for table in tables
        }
