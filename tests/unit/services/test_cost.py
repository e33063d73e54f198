import math

import pytest
import pytest_asyncio

from appliance.core.errors import NotFound
from appliance.core.ids import new_id
from appliance.resources.cost import Cost
from appliance.resources.project import PROJECTS, Project
from appliance.resources.project_cost import PROJECT_COST, Offer, cost_of
from tests.support.small_cloud import GIB, Cloud, made


@pytest_asyncio.fixture
async def region(cloud: Cloud) -> str:
    return await cloud.region()


@pytest_asyncio.fixture
async def project(cloud: Cloud) -> str:
    created = await cloud.projects.create(Project(name="p", teams=[], regions=[]), None)
    return made(created.id)


async def _cost(cloud: Cloud, project_id: str) -> Cost:
    return await cloud.catalog.get_part(PROJECTS, PROJECT_COST, project_id)


def _eur(price: float) -> Cost:
    return Cost(price=price, currency="EUR")


def _offer(price: str, units: int, used: int = 1, currency: str = "EUR", place: str = "z") -> Offer:
    return Offer("vcpus", place, used, price, currency, units)


async def test_a_project_without_anything_costs_nothing(cloud: Cloud, project: str) -> None:
    assert await _cost(cloud, project) == _eur(0.0)


async def test_cost_is_a_number_without_hosts_or_pools_that_reported(
    cloud: Cloud, region: str, project: str
) -> None:
    kaktus = await cloud.kaktus(await cloud.zone(region), "new", cpu=_eur(100.0))
    pool = await cloud.storage_pool(region, "new", cost=_eur(100.0))
    await cloud.instance(project, kaktus)
    await cloud.store.batch([cloud.insert_volume(project, pool, GIB)])
    assert await _cost(cloud, project) == _eur(0.0)


async def test_machines_cost_the_plain_mean_of_their_zones_hosts(
    cloud: Cloud, region: str, project: str
) -> None:
    zone, other = await cloud.zone(region), await cloud.zone(region, "eu-b")
    # A vCPU for 1 and for 4, a GiB for 2 and for 6; what has not reported stays out of the mean.
    first = await cloud.kaktus(
        zone,
        "one",
        cpu=_eur(24.0),
        memory=_eur(32.0),
        threads=8,
        memory_bytes=8 * GIB + GIB // 2,
        cpu_ratio=3,
        memory_ratio=2,
    )
    await cloud.kaktus(zone, "two", cpu=_eur(16.0), memory=_eur(6.0), threads=4, memory_bytes=GIB)
    await cloud.kaktus(zone, "new", cpu=_eur(999.0), memory=_eur(999.0))
    elsewhere = await cloud.kaktus(
        other, "far", cpu=_eur(10.0), memory=_eur(0.0), threads=1, memory_bytes=GIB
    )
    await cloud.instance(project, first, vcpus=2, memory_bytes=3 * GIB + GIB - 1)
    await cloud.instance(project, elsewhere, vcpus=3)
    assert await _cost(cloud, project) == _eur(2 * 2.5 + 3 * 4.0 + 3 * 10.0)


async def test_disks_cost_the_plain_mean_of_their_regions_pools(
    cloud: Cloud, region: str, project: str
) -> None:
    pool = await cloud.storage_pool(region, "ssd", cost=_eur(300.0), capacity_bytes=100 * GIB + 7)
    await cloud.storage_pool(region, "hdd", cost=_eur(100.0), capacity_bytes=100 * GIB)
    await cloud.storage_pool(await cloud.region("us"), "us", cost=_eur(1e6), capacity_bytes=GIB)
    for size in (10 * GIB, 2 * GIB - 1, GIB - 1):  # rounded down one by one: 10, 1, 0
        await cloud.store.batch([cloud.insert_volume(project, pool, size)])
    assert await _cost(cloud, project) == _eur(11 * 2.0)


async def test_a_price_that_changes_shows_at_once(cloud: Cloud, region: str, project: str) -> None:
    kaktus = await cloud.kaktus(
        await cloud.zone(region), "one", cpu=_eur(8.0), threads=8, memory_bytes=GIB
    )
    await cloud.instance(project, kaktus, vcpus=4)
    assert await _cost(cloud, project) == _eur(4.0)
    await cloud.tell("UPDATE kaktus SET cpu_price = '16'")
    assert await _cost(cloud, project) == _eur(8.0)


async def test_what_others_have_is_not_charged(cloud: Cloud, region: str, project: str) -> None:
    other = await cloud.projects.create(Project(name="other", teams=[], regions=[]), None)
    kaktus = await cloud.kaktus(await cloud.zone(region), "one", cpu=_eur(8.0), threads=8)
    await cloud.instance(made(other.id), kaktus)
    assert await _cost(cloud, project) == _eur(0.0)


async def test_a_project_that_does_not_exist_has_no_cost(cloud: Cloud) -> None:
    with pytest.raises(NotFound):
        await _cost(cloud, new_id())


def test_the_sum_is_exact_and_rounded_once() -> None:
    # Ten times a tenth of 0.1, and thirds that add up.
    assert cost_of([_offer("0.1", 10, used=10)]) == _eur(0.1)
    thirds = [_offer("1", 3, place=place) for place in "abc"]
    assert cost_of(thirds) == _eur(1.0)
    assert cost_of([_offer("1000000000000", 1), _offer("0.0000001", 1)]).price == 500000000000.0


def test_price_zero_is_free() -> None:
    assert cost_of([_offer("0", 8)]) == _eur(0.0)
    assert cost_of([_offer("0.0", 0)]) == _eur(0.0)


def test_no_price_is_ever_infinite_or_not_a_number() -> None:
    dearest = [_offer("1000000000000", 1, used=2**40, place=str(n)) for n in range(100)]
    assert math.isfinite(cost_of(dearest).price)


def test_currencies_are_added_unconverted_under_the_one_that_most_is_in() -> None:
    offers = [_offer("3", 1, currency="USD", place="a"), _offer("2", 1, place="b")]
    assert cost_of(offers) == Cost(price=5.0, currency="USD")
    assert cost_of(offers[::-1]) == Cost(price=5.0, currency="USD")
    same = [_offer("2", 1, currency="USD", place="a"), _offer("2", 1, place="b")]
    assert cost_of(same) == cost_of(same[::-1]) == Cost(price=4.0, currency="EUR")


def test_an_empty_currency_is_euro() -> None:
    assert cost_of([_offer("2", 1, currency="")]) == _eur(2.0)
