"""The services under test, spoken to in the model's words: names, offsets, numbers of regions."""

import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from appliance.core.errors import Stale
from appliance.resources.adapter import Adapter
from appliance.resources.fields import given
from appliance.resources.ipv4 import format_address, parse_address
from appliance.resources.project import (
    Demand,
    Project,
    ProjectResources,
    over_quota,
    quota_guard,
    refuse_over_quota,
)
from appliance.resources.subnet import SUBNETS, IpRange
from appliance.store.base import Row
from appliance.store.sqlite import SqliteStore
from tests.property.allocation.model import SubnetModel
from tests.support.clock import ManualClock
from tests.support.small_cloud import Cloud, made
from tests.unit.services.house import open_house

REGIONS: Final = 2
# Of each region, two to a virtual network; the second network has the larger ones.
PREFIX_LENGTHS: Final = (29, 28, 28, 27)


@dataclass
class World:
    cloud: Cloud
    regions: list[str] = field(default_factory=list[str])
    kaktus: str = ""
    subnets: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    models: list[SubnetModel] = field(default_factory=list[SubnetModel])
    ids: dict[str, str] = field(default_factory=dict[str, str])
    size: dict[str, int] = field(default_factory=dict[str, int])

    async def build(self) -> None:
        for region in range(REGIONS):
            region_id = await self.cloud.region(f"r{region}")
            self.regions.append(region_id)
            vnets = [await self.cloud.vnet(region_id, f"v{region}-{n}") for n in range(2)]
            for number, prefix_length in enumerate(PREFIX_LENGTHS):
                name, cidr = f"n{region}-{number}", f"10.{region}.{number}.0/{prefix_length}"
                subnet_id = await self.cloud.subnet(vnets[number // 2], cidr, name=name)
                first = parse_address(cidr.partition("/")[0], "cidr")
                self.subnets[name] = (subnet_id, first)
                self.models.append(SubnetModel(name, region, prefix_length))
        self.kaktus = await self.cloud.kaktus(await self.cloud.zone(self.regions[0]), "host")

    async def make_adapter(self, name: str, subnet: str, offsets: Sequence[int]) -> list[int]:
        subnet_id, first = self.subnets[subnet]
        texts = [format_address(first + offset) for offset in offsets]
        adapter = await self.cloud.adapters.create(
            subnet_id, Adapter(name=name, addresses=texts), assign=True
        )
        self.ids[name] = made(adapter.id)
        return self._offsets(adapter, first)

    async def change_adapter(self, name: str, subnet: str, offsets: Sequence[int]) -> list[int]:
        _, first = self.subnets[subnet]
        texts = [format_address(first + offset) for offset in offsets]
        adapter = await self.cloud.adapters.update(
            self.ids[name], Adapter(name=name, addresses=texts)
        )
        return self._offsets(adapter, first)

    async def drop_adapter(self, name: str) -> None:
        await self.cloud.adapters.delete(self.ids[name])

    async def keep(self, subnet: str, purpose: str, first: int, last: int) -> None:
        subnet_id, network = self.subnets[subnet]
        kept = IpRange(first=format_address(network + first), last=format_address(network + last))
        stored = await self.cloud.catalog.get(SUBNETS, subnet_id)
        sent = msgspec.structs.replace(stored, **{purpose: [kept]})
        await self.cloud.catalog.update(SUBNETS, subnet_id, sent)

    async def make_project(
        self, name: str, prefix_length: int, quota: int, regions: Sequence[int]
    ) -> dict[int, str]:
        sent = Project(
            name=name,
            teams=[],
            regions=[self.regions[region] for region in regions],
            quotas=ProjectResources(vcpus=quota),
        )
        project = await self.cloud.projects.create(sent, prefix_length)
        self.ids[name] = made(project.id)
        return self._owned(project)

    async def change_project(self, name: str, regions: Sequence[int]) -> dict[int, str]:
        sent = Project(name=name, teams=[], regions=[self.regions[region] for region in regions])
        return self._owned(await self.cloud.projects.update(self.ids[name], sent))

    async def drop_project(self, name: str) -> None:
        await self.cloud.projects.delete(self.ids[name])

    async def take_vcpus(self, name: str, vcpus: int, adapter: str | None = None) -> None:
        """Make a machine, as a service does it; give it an adapter."""
        project_id, demand = self.ids[name], Demand(instances=1, vcpus=vcpus)
        instance_id, insert = self.cloud.insert_instance(project_id, self.kaktus, vcpus=vcpus)
        while True:
            try:
                await self.cloud.store.batch([*quota_guard(project_id, demand), insert])
            except Stale:
                if rows := await self.cloud.store.query(over_quota(project_id, demand)):
                    refuse_over_quota(project_id, rows[0])
            else:
                break
        if adapter is not None:
            await self.cloud.tell(
                "UPDATE adapter SET instance_id = ?, position = 0, generation = generation + 1"
                " WHERE id = ?",
                instance_id,
                self.ids[adapter],
            )

    def _offsets(self, adapter: Adapter, first: int) -> list[int]:
        return [parse_address(text, "addresses") - first for text in given(adapter.addresses, [])]

    def _owned(self, project: Project) -> dict[int, str]:
        names = {subnet_id: name for name, (subnet_id, _) in self.subnets.items()}
        numbers = {f"r{number}": number for number in range(REGIONS)}
        return {
            numbers[str(each.key)]: names[str(each.value)]
            for each in given(project.private_subnets, [])
        }

    async def broken(self) -> dict[str, list[Row]]:
        """Return by the name of each invariant the rows that break it."""
        return {
            name: rows for name, sql in INVARIANTS.items() if (rows := await self.cloud.ask(sql))
        }


@asynccontextmanager
async def open_world() -> AsyncGenerator[World]:
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "state"
        store = await SqliteStore.open(path / "state.db", clock=clock)
        try:
            house = await open_house(store, path, clock)
            world = World(Cloud(store, house.secrets, clock))
            await world.build()
            yield world
        finally:
            await store.close()


# What must never be, whatever was done and in whatever order: queries without an answer.
INVARIANTS: Final = {
    "an address that two have": (
        "SELECT subnet_id, address FROM adapter_address"
        " GROUP BY subnet_id, address HAVING COUNT(*) > 1"
    ),
    "an address in another subnet than its adapter": (
        "SELECT adapter.id FROM adapter_address AS taken JOIN adapter"
        " ON adapter.id = taken.adapter_id WHERE adapter.subnet_id <> taken.subnet_id"
    ),
    "an address that no machine can have": (
        "SELECT taken.address FROM adapter_address AS taken JOIN subnet"
        " ON subnet.id = taken.subnet_id WHERE taken.address = subnet.gateway_address"
        " OR taken.address NOT BETWEEN subnet.first_usable AND subnet.last_usable"
    ),
    "an address of the gateways": (
        "SELECT taken.address FROM adapter_address AS taken JOIN subnet_range AS kept"
        " ON kept.subnet_id = taken.subnet_id AND kept.purpose = 'gw_pool'"
        " AND taken.address BETWEEN kept.first AND kept.last"
    ),
    "a MAC that two have": "SELECT lower(mac) FROM adapter GROUP BY lower(mac) HAVING COUNT(*) > 1",
    "a subnet that two projects have": (
        "SELECT subnet_id FROM project_region GROUP BY subnet_id HAVING COUNT(*) > 1"
    ),
    "a subnet that is too small, of storage, public or of another region": (
        "SELECT subnet.id FROM project_region AS own JOIN project ON project.id = own.project_id"
        " JOIN subnet ON subnet.id = own.subnet_id JOIN vnet ON vnet.id = subnet.vnet_id"
        " WHERE subnet.prefix_length > project.prefix_length OR subnet.application <> 'user'"
        " OR vnet.private = 0 OR vnet.region_id <> own.region_id"
    ),
    "a quota that was passed": (
        "SELECT project.id FROM project WHERE quota_vcpus > 0 AND quota_vcpus <"
        " (SELECT coalesce(SUM(vcpus), 0) FROM instance WHERE project_id = project.id)"
    ),
    "a host's load that is not the sum of its machines": (
        "SELECT kaktus_id FROM kaktus_load AS load WHERE vcpus <>"
        " (SELECT coalesce(SUM(vcpus), 0) FROM instance WHERE kaktus_id = load.kaktus_id)"
    ),
}
