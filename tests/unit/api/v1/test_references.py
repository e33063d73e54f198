"""Rules that need other objects: agents of nodes and pools, networks of a region, defaults."""

from typing import Any

import pytest

from appliance.core.ids import new_id
from appliance.store.base import Statement
from tests.unit.api.v1.kinds import KAKTUS, KIWI, POOL, REGION, SUBNET, VNET, ZONE, Api, Json, Kind
from tests.unit.resources.samples import add_agent, add_row

_NODES = [KIWI, KAKTUS, POOL]


@pytest.mark.parametrize("kind", _NODES, ids=lambda kind: kind.name)
async def test_an_unknown_agent_is_422_naming_field_and_id(api: Api, kind: Kind) -> None:
    for unknown in (new_id(), "nobody", "", "' OR 1=1 --", "a\u0000b"):
        agents = [*kind.full(api.world)["agents"][:1], unknown]
        before = await api.dump()
        body = kind.full(api.world) | {"agents": agents}
        refused = await api.ask(422, "POST", kind.place(api.world), body)
        assert "agents[1]" in refused["reason"]
        assert repr(unknown) in refused["reason"]
        assert "does not exist" in refused["reason"]
        assert await api.dump() == before
    for unknown in (new_id(), "a\u0000b", kind.full(api.world)["agents"][0] + "\u0000"):
        made = await api.create(kind)
        await api.put(kind, made, made | {"agents": [unknown]}, status=422)
        assert await api.get(kind, made) == made
        await api.delete(kind, made)


@pytest.mark.parametrize("kind", _NODES, ids=lambda kind: kind.name)
async def test_an_agent_of_another_type_is_422(api: Api, kind: Kind) -> None:
    for wrong_type in {"Kiwi", "Kaktus", "Kontroller"} - {"Kiwi" if kind is KIWI else "Kaktus"}:
        wrong = await add_agent(api.store, f"a {wrong_type}", wrong_type)
        body = kind.full(api.world) | {"agents": [wrong]}
        refused = await api.ask(422, "POST", kind.place(api.world), body)
        assert f"{wrong!r}, which is of type {wrong_type}" in refused["reason"]
        made = await api.create(kind)
        await api.put(kind, made, made | {"agents": [wrong]}, status=422)
        assert await api.get(kind, made) == made
        await api.delete(kind, made)


@pytest.mark.parametrize("kind", [KIWI, KAKTUS], ids=lambda kind: kind.name)
async def test_an_agent_of_another_node_is_422(api: Api, kind: Kind) -> None:
    first = await api.create(kind)
    agent = first["agents"][0]
    second = await api.create(kind, name="second", agents=[])
    body = kind.full(api.world) | {"name": "third", "agents": [agent]}
    for refused in (
        await api.ask(422, "POST", kind.place(api.world), body),
        await api.put(kind, second, second | {"agents": [agent]}, status=422),
    ):
        assert f"{agent!r}, which acts for {first['name']!r} already" in refused["reason"]
    await api.put(kind, first, first | {"agents": []})
    assert (await api.put(kind, second, second | {"agents": [agent]}))["agents"] == [agent]


async def test_pools_share_agents_with_each_other_and_with_nodes(api: Api) -> None:
    await api.create(KAKTUS)
    await api.create(POOL)
    await api.create(POOL, name="second")


async def test_a_local_directory_holds_one_pool(api: Api) -> None:
    first, other, _ = api.world.kaktus_agents
    local = {"ceph_address": "local:///var/lib/pool", "agents": [first]}
    made = await api.create(POOL, **local)
    body = POOL.full(api.world) | local | {"name": "second"}
    refused = await api.ask(422, "POST", POOL.place(api.world), body)
    assert made["id"] in refused["reason"]
    elsewhere = await api.create(POOL, **local | {"name": "second", "agents": [other]})
    await api.put(POOL, elsewhere, elsewhere | {"agents": [first]}, status=422)
    await api.create(POOL, **local | {"name": "third", "ceph_address": "local:///var/lib/pool2"})
    assert await api.put(POOL, made, made | {"description": "x"}) == made | {"description": "x"}


async def test_a_pool_cannot_move_to_another_directory(api: Api) -> None:
    agents = api.world.kaktus_agents[:1]
    made = await api.create(POOL, ceph_address="local:///a", agents=agents)
    for address in ("local:///b", "", "10.0.0.1"):
        refused = await api.put(POOL, made, made | {"ceph_address": address}, status=422)
        assert "ceph_address" in refused["reason"] or "make another pool" in refused["reason"]


_PUBLIC: Json = {
    "name": "wan",
    "cidr": "4.5.6.0/26",
    "gateway": "4.5.6.62",
    "reserved": [],
    "gw_pool": [],
}
_PRIVATE: Json = _PUBLIC | {"name": "lan", "cidr": "10.1.0.0/24", "gateway": "10.1.0.1"}


@pytest.mark.parametrize(
    ("private", "fits", "fits_not"), [(True, _PRIVATE, _PUBLIC), (False, _PUBLIC, _PRIVATE)]
)
async def test_a_subnet_lies_on_the_side_of_its_network(
    api: Api, private: bool, fits: Json, fits_not: Json
) -> None:
    vnet = await api.create(VNET, private=private)
    path = f"/vnet/{vnet['id']}/subnet"
    for cidr, gateway in ((fits_not["cidr"], fits_not["gateway"]), ("172.0.0.0/8", "172.0.0.1")):
        body = fits_not | {"cidr": cidr, "gateway": gateway}
        refused = await api.ask(422, "POST", path, body)
        assert f"cidr {cidr} is {'not ' if private else ''}private" in refused["reason"]
    made = await api.ask(201, "POST", path, fits)
    await api.put(SUBNET, made, fits_not, status=422)
    assert await api.get(SUBNET, made) == made


@pytest.mark.parametrize(("private", "subnet"), [(True, _PRIVATE), (False, _PUBLIC)])
async def test_a_network_with_subnets_keeps_its_side(api: Api, private: bool, subnet: Json) -> None:
    vnet = await api.create(VNET, private=private)
    turned = await api.put(VNET, vnet, vnet | {"private": not private})
    vnet = await api.put(VNET, turned, vnet)
    made = await api.ask(201, "POST", f"/vnet/{vnet['id']}/subnet", subnet)
    refused = await api.put(VNET, vnet, vnet | {"private": not private}, status=422)
    assert made["id"] in refused["reason"]
    assert await api.put(VNET, vnet, vnet | {"vlan": 7}) == vnet | {"vlan": 7}


@pytest.mark.parametrize("cidr", ["10.1.0.0/24", "10.1.0.128/25", "10.0.0.0/8", "10.1.0.77/28"])
async def test_subnets_of_a_region_do_not_overlap(api: Api, cidr: str) -> None:
    first = await api.ask(201, "POST", f"/vnet/{api.world.vnet}/subnet", _PRIVATE)
    gateway = {"10.1.0.128/25": "10.1.0.129", "10.1.0.77/28": "10.1.0.65"}.get(cidr, "10.1.0.1")
    body = _PRIVATE | {"name": "other", "cidr": cidr, "gateway": gateway}
    other_vnet = await api.create(VNET)
    for vnet in (api.world.vnet, other_vnet["id"]):
        refused = await api.ask(422, "POST", f"/vnet/{vnet}/subnet", body)
        assert first["id"] in refused["reason"]
        assert f"cidr {cidr} overlaps 10.1.0.0/24 of subnet 'lan'" in refused["reason"]
    beside = _PRIVATE | {"name": "beside", "cidr": "192.168.0.0/24", "gateway": "192.168.0.1"}
    made = await api.ask(201, "POST", f"/vnet/{other_vnet['id']}/subnet", beside)
    await api.put(SUBNET, made, body, status=422)


async def test_neighbours_and_other_regions_may_have_the_addresses(api: Api) -> None:
    await api.ask(201, "POST", f"/vnet/{api.world.vnet}/subnet", _PRIVATE)
    for name, cidr, gateway in (
        ("below", "10.0.255.0/24", "10.0.255.1"),
        ("above", "10.1.1.0/24", "10.1.1.1"),
    ):
        body = _PRIVATE | {"name": name, "cidr": cidr, "gateway": gateway}
        await api.ask(201, "POST", f"/vnet/{api.world.vnet}/subnet", body)
    region = await api.create(REGION)
    vnet = await api.ask(
        201, "POST", f"/region/{region['id']}/vnet", {"name": "far", "interface": "br0"}
    )
    body = _PRIVATE | {"name": "the same elsewhere"}
    await api.ask(201, "POST", f"/vnet/{vnet['id']}/subnet", body)


async def test_a_gateway_pool_has_an_address_for_each_zone(api: Api) -> None:
    await api.create(ZONE, name="second")
    one = _PRIVATE | {"gw_pool": [{"first": "10.1.0.9", "last": "10.1.0.9"}]}
    path = f"/vnet/{api.world.vnet}/subnet"
    refused = await api.ask(422, "POST", path, one)
    assert "gw_pool has 1 addresses, the region has 2 zones" in refused["reason"]
    two = _PRIVATE | {"gw_pool": [{"first": "10.1.0.8", "last": "10.1.0.9"}]}
    made = await api.ask(201, "POST", path, two)
    await api.put(SUBNET, made, one, status=422)
    await api.put(SUBNET, made, two | {"gw_pool": []})


async def test_a_pool_that_a_new_zone_outgrew_hinders_no_other_change(api: Api) -> None:
    one = _PRIVATE | {"gw_pool": [{"first": "10.1.0.9", "last": "10.1.0.9"}]}
    made = await api.ask(201, "POST", f"/vnet/{api.world.vnet}/subnet", one)
    await api.create(ZONE, name="second")
    assert await api.put(SUBNET, made, made) == made
    assert (await api.put(SUBNET, made, made | {"dns": "9.9.9.9"}))["dns"] == "9.9.9.9"


async def test_a_subnet_keeps_the_addresses_of_its_adapters(api: Api) -> None:
    made = await api.ask(201, "POST", f"/vnet/{api.world.vnet}/subnet", _PRIVATE)
    adapter = await add_row(api.store, "adapter", subnet_id=made["id"])
    await api.store.batch([
        Statement(
            "INSERT INTO adapter_address (subnet_id, address, adapter_id, position)"
            " VALUES (?, ?, ?, 0)",
            (made["id"], (10 << 24) + (1 << 16) + 200, adapter),
        )
    ])  # fmt: skip
    refused = await api.put(SUBNET, made, made | {"cidr": "10.1.0.0/25"}, status=422)
    assert f"leaves out 10.1.0.200 of adapter {adapter}" in refused["reason"]
    assert (await api.put(SUBNET, made, made | {"cidr": "10.1.0.0/23"}))["cidr"] == "10.1.0.0/23"


async def test_the_first_subnet_is_the_default_until_another_is_made_it(api: Api) -> None:
    vnet = api.world.vnet
    first, second = [
        await api.ask(
            201,
            "POST",
            f"/vnet/{vnet}/subnet",
            _PRIVATE | {"name": f"n{n}", "cidr": f"10.{n}.0.0/24", "gateway": f"10.{n}.0.1"},
        )
        for n in (1, 2)
    ]
    assert await _defaults(api, "subnet") == [first["id"]]
    for _ in range(2):
        assert await api.ask(200, "PATCH", f"/vnet/{vnet}/subnet/{second['id']}/default") is None
        assert await _defaults(api, "subnet") == [second["id"]]
    await api.delete(SUBNET, second)
    assert await _defaults(api, "subnet") == []
    assert await api.get(SUBNET, first) == first  # the default is no part of the object


async def test_the_first_pool_is_the_default_until_another_is_made_it(api: Api) -> None:
    region = api.world.region
    first, second = [await api.create(POOL, name=f"p{number}") for number in (1, 2)]
    assert await _defaults(api, "storage_pool") == [first["id"]]
    await api.ask(200, "PATCH", f"/region/{region}/pool/{second['id']}/default")
    assert await _defaults(api, "storage_pool") == [second["id"]]
    await api.delete(POOL, second)
    third = await api.create(POOL, name="p3")
    assert await _defaults(api, "storage_pool") == [third["id"]]


async def test_what_is_not_of_the_parent_cannot_become_its_default(api: Api) -> None:
    subnet, pool = await api.create(SUBNET), await api.create(POOL)
    vnet, region = await api.create(VNET), await api.create(REGION)
    # Both have a default of their own, which must stay.
    await api.ask(201, "POST", f"/vnet/{vnet['id']}/subnet", _PRIVATE)
    own = POOL.full(api.world) | {"name": "own"}
    await api.ask(201, "POST", f"/region/{region['id']}/pool", own)
    before = await api.dump()
    for path in (
        f"/vnet/{vnet['id']}/subnet/{subnet['id']}",
        f"/vnet/{new_id()}/subnet/{subnet['id']}",
        f"/vnet/{api.world.vnet}/subnet/{new_id()}",
        f"/vnet/{api.world.vnet}/subnet/{pool['id']}",
        f"/vnet/{api.world.vnet}/subnet/{subnet['name']}",
        f"/region/{region['id']}/pool/{pool['id']}",
        f"/region/{new_id()}/pool/{pool['id']}",
        f"/region/{api.world.region}/pool/{new_id()}",
    ):
        await api.ask(404, "PATCH", f"{path}/default")
    assert await api.dump() == before


async def _defaults(api: Api, table: str) -> list[Any]:
    query = {
        "subnet": Statement("SELECT id FROM subnet WHERE is_default = 1"),
        "storage_pool": Statement("SELECT id FROM storage_pool WHERE is_default = 1"),
    }
    return [row["id"] for row in await api.store.query(query[table])]
