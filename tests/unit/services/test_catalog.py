import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.core.clock import SystemClock
from appliance.core.errors import Conflict, Invalid, NotFound
from appliance.core.ids import new_id
from appliance.resources.region import REGIONS, Region
from appliance.resources.zone import ZONES, Zone
from appliance.services.catalog import Catalog
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore


@pytest_asyncio.fixture
async def catalog(tmp_path: Path) -> AsyncGenerator[Catalog]:
    clock = SystemClock()
    store = await SqliteStore.open(tmp_path / "state.db", clock=clock)
    yield Catalog(store, clock)
    await store.close()


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
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(
                catalog.update(
                    REGIONS, region_id, Region(name="eu-west", domain=f"d{number}.example.org")
                )
            )
        group.create_task(
            catalog.update(
                REGIONS,
                region_id,
                Region(name="eu-west", domain="last.example.org", description="kept"),
            )
        )
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
