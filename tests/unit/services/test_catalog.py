import asyncio
from collections.abc import Awaitable
from contextlib import suppress

import pytest

from appliance.core.errors import Conflict, Invalid, NotFound
from appliance.core.ids import new_id
from appliance.resources.kaktus import KAKTUSES, Kaktus
from appliance.resources.region import REGIONS, Region
from appliance.resources.storage_pool import STORAGE_POOLS, StoragePool
from appliance.resources.subnet import SUBNETS, Subnet
from appliance.resources.vnet import VNETS, VNet
from appliance.resources.zone import ZONES, Zone
from appliance.services.catalog import Catalog
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock
from tests.unit.resources.samples import make_world


@pytest.fixture
def catalog(store: SqliteStore, clock: ManualClock) -> Catalog:
    return Catalog(store, clock)


def _zones_of(region_id: str) -> Statement:
    assert ZONES.list_children_ids is not None
    return ZONES.list_children_ids(region_id)


async def _region(catalog: Catalog, name: str = "eu-west") -> str:
    created = await catalog.create(REGIONS, Region(name=name, domain="example.org"))
    assert isinstance(created.id, str)
    return created.id


async def test_what_was_created_can_be_read_and_listed_in_order(catalog: Catalog) -> None:
    ids = [await _region(catalog, f"region-{number}") for number in range(5)]
    assert await catalog.list_ids(REGIONS) == ids
    read = await catalog.get(REGIONS, ids[3])
    assert (read.name, read.description, read.domain) == ("region-3", "", "example.org")


async def test_a_taken_name_is_a_conflict_that_names_the_holder(catalog: Catalog) -> None:
    first = await _region(catalog)
    with pytest.raises(Conflict) as raised:
        await _region(catalog)
    assert first in raised.value.detail


async def test_a_rename_onto_a_taken_name_is_invalid(catalog: Catalog) -> None:
    first = await _region(catalog)
    await _region(catalog, "other")
    with pytest.raises(Invalid, match="other"):
        await catalog.update(REGIONS, first, Region(name="other", domain="example.org"))


async def test_an_update_keeps_what_was_left_out_and_clears_what_was_sent_empty(
    catalog: Catalog,
) -> None:
    created = await catalog.create(
        REGIONS, Region(name="eu", domain="example.org", description="first")
    )
    assert isinstance(created.id, str)
    kept = await catalog.update(REGIONS, created.id, Region(name="eu2", domain="example.com"))
    assert (kept.name, kept.description, kept.domain) == ("eu2", "first", "example.com")
    cleared = await catalog.update(
        REGIONS, created.id, Region(name="eu2", domain="example.com", description="")
    )
    assert cleared.description == ""


async def test_concurrent_updates_of_different_fields_lose_nothing(catalog: Catalog) -> None:
    region_id = await _region(catalog)
    described = Region(name="eu-west", domain="first.example.org", description="kept")
    async with asyncio.TaskGroup() as group:
        # First, so that it is written before the others, which have read without it.
        group.create_task(catalog.update(REGIONS, region_id, described))
        for number in range(8):
            changed = Region(name="eu-west", domain=f"d{number}.example.org")
            group.create_task(catalog.update(REGIONS, region_id, changed))
    assert (await catalog.get(REGIONS, region_id)).description == "kept"


async def test_children_keep_their_parent(catalog: Catalog) -> None:
    region_id = await _region(catalog)
    zone = await catalog.create(ZONES, Zone(name="a"), REGIONS, region_id)
    assert await catalog.list_below(_zones_of, REGIONS, region_id) == [zone.id]
    with pytest.raises(Conflict, match=r"by zones \(1\)"):
        await catalog.delete(REGIONS, region_id)
    assert isinstance(zone.id, str)
    await catalog.delete(ZONES, zone.id)
    await catalog.delete(REGIONS, region_id)
    with pytest.raises(NotFound):
        await catalog.delete(REGIONS, region_id)


async def test_a_child_of_nobody_is_not_found(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="region"):
        await catalog.create(ZONES, Zone(name="a"), REGIONS, new_id())
    with pytest.raises(NotFound, match="region"):
        await catalog.list_below(_zones_of, REGIONS, new_id())


async def test_of_many_creating_one_name_exactly_one_wins(catalog: Catalog) -> None:
    outcomes: list[str] = []

    async def create() -> None:
        try:
            await _region(catalog, "same")
            outcomes.append("won")
        except Conflict:
            outcomes.append("lost")

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(create())
    assert sorted(outcomes) == ["lost"] * 19 + ["won"]


async def test_of_many_taking_one_agent_exactly_one_wins(
    catalog: Catalog, store: SqliteStore
) -> None:
    world = await make_world(store)
    outcomes: list[str] = []

    async def create(number: int) -> None:
        kaktus = Kaktus(name=f"k{number}", agents=world.kaktus_agents[:1])
        try:
            await catalog.create(KAKTUSES, kaktus, ZONES, world.zone)
            outcomes.append("won")
        except Invalid as refused:
            outcomes.append(str(refused.context["field"]))

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(create(number))
    assert sorted(outcomes) == ["agents[0]"] * 19 + ["won"]


async def test_of_many_taking_one_network_exactly_one_wins_and_is_the_default(
    catalog: Catalog, store: SqliteStore
) -> None:
    world = await make_world(store)
    made: list[Subnet] = []

    async def create(number: int) -> None:
        # Networks 0 to 4, each wanted by four.
        cidr, gateway = f"10.{number % 5}.0.0/16", f"10.{number % 5}.0.1"
        subnet = Subnet(name=f"s{number}", cidr=cidr, gateway=gateway)
        with suppress(Invalid):
            made.append(await catalog.create(SUBNETS, subnet, VNETS, world.vnet))

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(create(number))
    assert sorted(subnet.cidr for subnet in made) == [f"10.{n}.0.0/16" for n in range(5)]
    defaults = await store.query(Statement("SELECT id FROM subnet WHERE is_default = 1"))
    assert len(defaults) == 1


async def test_a_network_never_turns_while_a_subnet_is_being_made_on_it(
    catalog: Catalog, store: SqliteStore
) -> None:
    world = await make_world(store)
    for round_ in range(10):
        vnet = await catalog.create(
            VNETS, VNet(name=f"v{round_}", interface="br0"), REGIONS, world.region
        )
        assert isinstance(vnet.id, str)
        subnet = Subnet(name=f"s{round_}", cidr=f"10.{round_}.0.0/16", gateway=f"10.{round_}.0.1")
        turned = VNet(name=f"v{round_}", interface="br0", private=False)
        outcomes = [
            outcome
            for outcome in await _all_of(
                catalog.create(SUBNETS, subnet, VNETS, vnet.id),
                catalog.update(VNETS, vnet.id, turned),
            )
            if not isinstance(outcome, Invalid)
        ]
        assert len(outcomes) == 1


async def test_default_moves_between_many_who_want_it(catalog: Catalog, store: SqliteStore) -> None:
    world = await make_world(store)
    ids: list[str] = []
    for number in range(4):
        pool = StoragePool(name=f"p{number}", pool="rbd", agents=[])
        made = await catalog.create(STORAGE_POOLS, pool, REGIONS, world.region)
        assert isinstance(made.id, str)
        ids.append(made.id)

    async def make_default(pool_id: str) -> None:
        with suppress(NotFound):  # the last pool goes meanwhile
            await catalog.set_default(STORAGE_POOLS, pool_id, REGIONS, world.region)

    async with asyncio.TaskGroup() as group:
        for pool_id in ids * 4:
            group.create_task(make_default(pool_id))
        group.create_task(catalog.delete(STORAGE_POOLS, ids[3]))
    defaults = await store.query(Statement("SELECT id FROM storage_pool WHERE is_default = 1"))
    assert len(defaults) <= 1


async def test_an_update_without_a_difference_writes_nothing(
    catalog: Catalog, store: SqliteStore
) -> None:
    region_id = await _region(catalog)
    read = await catalog.get(REGIONS, region_id)
    before = await store.query(Statement("SELECT * FROM region"))
    assert await catalog.update(REGIONS, region_id, read) == read
    assert await store.query(Statement("SELECT * FROM region")) == before


async def _all_of(*awaitables: Awaitable[object]) -> list[object]:
    """Run all at once and return what each returned or raised."""

    async def outcome(awaitable: Awaitable[object]) -> object:
        try:
            return await awaitable
        except Invalid as refused:
            return refused

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(awaitable)) for awaitable in awaitables]
    return [task.result() for task in tasks]
