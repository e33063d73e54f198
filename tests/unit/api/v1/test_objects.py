"""What the real clients need of every kind: what is sent comes back, stays and goes.

`api.client` holds each answer against the contract, so no test here looks at keys and types.
"""

import re

import pytest

from appliance.resources.table import GENERATION
from tests.unit.api.v1.kinds import (
    KAKTUS,
    KINDS,
    KIWI,
    POOL,
    REGION,
    SUBNET,
    TEAM,
    USER,
    VNET,
    ZONE,
    Api,
    Json,
    Kind,
)
from tests.unit.resources.samples import add_agent


async def test_create_answers_201_with_the_whole_object(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        assert re.fullmatch("[0-9a-f]{24}", made["id"])
        assert made == kind.full(api.world) | {"id": made["id"]}


async def test_object_is_whole_when_its_create_is_answered(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        assert await api.get(kind, made) == made
        assert made["id"] in await api.ask(200, "GET", kind.path)


async def test_object_is_gone_when_its_delete_is_answered(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        await api.delete(kind, made)
        await api.ask(404, "GET", f"{kind.path}/{made['id']}")
        assert made["id"] not in await api.ask(200, "GET", kind.path)


async def test_second_delete_is_404(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        await api.delete(kind, made)
        await api.ask(404, "DELETE", f"{kind.path}/{made['id']}")


async def test_delete_frees_everything_at_once(api: Api) -> None:
    for kind in KINDS:  # names, agents, addresses
        for _ in range(2):
            await api.delete(kind, await api.create(kind))


async def test_update_changes_every_writable_field(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        wanted = kind.changed(api.world)
        assert await api.put(kind, made, wanted) == wanted | {"id": made["id"]}
        assert await api.get(kind, made) == wanted | {"id": made["id"]}


async def test_what_is_left_out_stays(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        renamed = kind.minimal(api.world) | {"name": "renamed"}
        assert await api.put(kind, made, renamed) == made | {"name": "renamed"}


async def test_null_means_left_out(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        optional = made.keys() - kind.minimal(api.world).keys()
        nulls = kind.minimal(api.world) | dict.fromkeys(optional) | {"name": "renamed"}
        assert await api.put(kind, made, nulls) == made | {"name": "renamed"}


async def test_empty_text_clears(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        cleared = await api.put(kind, made, made | {"description": ""})
        assert cleared == made | {"description": ""}
    for kind, field in ((SUBNET, "dns"), (POOL, "ceph_address"), (POOL, "ceph_secret_uuid")):
        (made_id,) = await api.ask(200, "GET", kind.path)
        made = await api.get(kind, {"id": made_id})
        assert made[field] != ""
        assert (await api.put(kind, made, made | {field: ""}))[field] == ""


async def test_lists_are_replaced_as_a_whole_and_emptied(api: Api) -> None:
    agents = api.world.kaktus_agents
    kaktus = await api.create(KAKTUS, agents=agents[:2])
    kaktus = await api.put(KAKTUS, kaktus, kaktus | {"agents": [agents[2], agents[1]]})
    assert kaktus["agents"] == [agents[2], agents[1]]
    assert (await api.put(KAKTUS, kaktus, kaktus | {"agents": []}))["agents"] == []
    kiwi = await api.create(KIWI)
    assert (await api.put(KIWI, kiwi, {"name": "kiwi", "agents": []}))["agents"] == []
    subnet = await api.create(SUBNET)
    empty: Json = {"extra_routes": [], "reserved": [], "gw_pool": []}
    emptied = await api.put(SUBNET, subnet, subnet | empty)
    assert emptied == subnet | empty


async def test_read_only_values_in_a_put_are_ignored(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        answer = await api.put(kind, made, made | {"id": "f" * 24, "name": "other"})
        assert answer == made | {"name": "other"}
        await api.ask(404, "GET", f"{kind.path}/{'f' * 24}")


async def test_empty_and_chosen_ids_in_a_post_are_ignored(api: Api) -> None:
    for kind in KINDS:
        for chosen in ("", "f" * 24, None):
            made = await api.create(kind, id=chosen)
            assert made["id"] not in {chosen, None}
            await api.delete(kind, made)


async def test_put_of_what_was_read_changes_nothing(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        read = kind.sample.table.read(made["id"])
        before = await api.store.query(read)
        assert before[0][GENERATION] == 1
        for _ in range(2):  # a client may repeat it after a broken connection
            assert await api.put(kind, made, made) == made
        assert await api.store.query(read) == before


async def test_repeated_put_is_harmless(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        wanted = kind.changed(api.world)
        assert await api.put(kind, made, wanted) == await api.put(kind, made, wanted)


async def test_absent_optional_values_take_their_defaults(api: Api) -> None:
    free = {"price": 0.0, "currency": "EUR"}
    implied: dict[Kind, Json] = {
        KIWI: {"agents": []},
        KAKTUS: {
            "cpu_cost": free,
            "memory_cost": free,
            "overcommit_cpu_ratio": 3,
            "overcommit_memory_ratio": 2,
        },
        VNET: {"vlan": 0, "private": True},
        SUBNET: {
            "dns": "",
            "extra_routes": [],
            "reserved": [],
            "gw_pool": [],
            "application": "user",
        },
        # Nothing is made up: Terraform would take another address for a change.
        USER: {"notifications": False},
        POOL: {"ceph_address": "", "ceph_port": 3300, "ceph_secret_uuid": "", "cost": free},
    }
    for kind in KINDS:
        minimal = kind.minimal(api.world)
        made = await api.ask(201, "POST", kind.place(api.world), minimal)
        assert made == {"description": "", **minimal, **implied.get(kind, {}), "id": made["id"]}
        assert await api.get(kind, made) == made


async def test_explicit_defaults_are_accepted_and_come_back(api: Api) -> None:
    pool = await api.create(POOL, ceph_address="localhost", ceph_port=3300)
    assert (pool["ceph_address"], pool["ceph_port"]) == ("localhost", 3300)
    kaktus = await api.create(KAKTUS, overcommit_cpu_ratio=3, overcommit_memory_ratio=2)
    assert (kaktus["overcommit_cpu_ratio"], kaktus["overcommit_memory_ratio"]) == (3, 2)
    assert (await api.create(SUBNET, application="user"))["application"] == "user"
    assert (await api.create(VNET, vlan=0, private=True))["vlan"] == 0


async def test_price_zero_and_port_zero_are_accepted(api: Api) -> None:
    zero = {"price": 0, "currency": "EUR"}
    kaktus = await api.create(KAKTUS, cpu_cost=zero, memory_cost=zero)
    assert kaktus["cpu_cost"] == kaktus["memory_cost"] == zero
    pool = await api.create(POOL, ceph_port=0, cost=zero)
    assert (pool["ceph_port"], pool["cost"]) == (0, zero)


async def test_kaktus_always_has_both_costs(api: Api) -> None:
    kaktus = await api.create(KAKTUS, cpu_cost=None, memory_cost=None)
    without = {"name": "kaktus", "agents": []}
    for answer in (kaktus, await api.put(KAKTUS, kaktus, without), await api.get(KAKTUS, kaktus)):
        assert answer["cpu_cost"] == answer["memory_cost"] == {"price": 0.0, "currency": "EUR"}


async def test_pool_always_has_its_cost(api: Api) -> None:
    pool = await api.create(POOL, cost=None)
    assert (await api.get(POOL, pool))["cost"] == {"price": 0.0, "currency": "EUR"}


async def test_costs_have_independent_currencies_and_exact_prices(api: Api) -> None:
    # As 32-bit floats, which Terraform sends: the shortest decimals that they print as.
    for price in (0.1, 33.33, 16777216.0, 1.17549435e-38, 999999999999.0):
        cost = {"price": price, "currency": "CHF"}
        kaktus = await api.create(KAKTUS, cpu_cost=cost)
        assert (await api.get(KAKTUS, kaktus))["cpu_cost"] == cost
        assert (await api.get(KAKTUS, kaktus))["memory_cost"]["currency"] == "CHF"
        await api.delete(KAKTUS, kaktus)


async def test_whole_numbers_have_no_fraction(api: Api) -> None:
    for kind, numbers in (
        (VNET, ["vlan"]),
        (POOL, ["ceph_port"]),
        (KAKTUS, ["overcommit_cpu_ratio", "overcommit_memory_ratio"]),
    ):
        made = await api.create(kind)
        answer = await api.client.get(f"{kind.path}/{made['id']}")
        for name in numbers:
            assert f'"{name}":{made[name]},' in answer.text


async def test_vlan_zero_comes_back(api: Api) -> None:
    made = await api.create(VNET, vlan=0)
    assert (await api.get(VNET, made))["vlan"] == 0


async def test_names_with_blanks_and_capitals(api: Api) -> None:
    assert (await api.create(TEAM, name="John Doe's ACME Office"))[
        "name"
    ] == "John Doe's ACME Office"


async def test_addresses_are_not_normalised(api: Api) -> None:
    wanted = {
        "cidr": "10.50.7.99/24",
        "reserved": [
            {"first": "10.50.7.20", "last": "10.50.7.29"},
            {"first": "10.50.7.10", "last": "10.50.7.19"},
        ],
        "gw_pool": [],
        "gateway": "10.50.7.1",
        "extra_routes": ["10.9.8.7/8", "10.9.8.7/16"],
    }
    made = await api.create(SUBNET, **wanted)
    assert await api.get(SUBNET, made) == made
    assert made | wanted == made


async def test_secrets_come_back_in_clear(api: Api) -> None:
    secret = "B7F1D1F0-5c3e-4d0e-9d6e-1f2d3c4b5a69"
    assert (await api.create(POOL, ceph_secret_uuid=secret))["ceph_secret_uuid"] == secret


async def test_order_of_lists_is_kept(api: Api) -> None:
    agents = [await add_agent(api.store, f"more-{number}", "Kaktus") for number in range(6)]
    order = [agents[place] for place in (3, 0, 5, 1, 4, 2)]
    for kind in (KAKTUS, POOL):
        made = await api.create(kind, agents=order)
        assert (await api.get(kind, made))["agents"] == order
        await api.put(kind, made, made | {"agents": order[::-1]})
        assert (await api.get(kind, made))["agents"] == order[::-1]


async def test_empty_lists_are_empty_arrays(api: Api) -> None:
    empty = await api.create(REGION)
    for path in ("zones", "kiwis", "vnets", "pools"):
        assert await api.ask(200, "GET", f"/region/{empty['id']}/{path}") == []
    zone = await api.create(ZONE)
    assert await api.ask(200, "GET", f"/zone/{zone['id']}/kaktuses") == []
    for path in ("/kiwi", "/kaktus", "/subnet", "/pool", "/team"):
        assert await api.ask(200, "GET", path) == []
    assert await api.ask(200, "GET", f"/vnet/{api.world.vnet}/subnets") == []
    kaktus, pool = await api.create(KAKTUS), await api.create(POOL)
    assert await api.ask(200, "GET", f"/kaktus/{kaktus['id']}/instances") == []
    assert await api.ask(200, "GET", f"/pool/{pool['id']}/volumes") == []


async def test_lists_keep_the_order_of_creation_and_are_complete(api: Api) -> None:
    ids = [
        (await api.ask(201, "POST", "/team", {"name": f"team {number}", "users": []}))["id"]
        for number in range(300)
    ]
    assert await api.ask(200, "GET", "/team") == ids


async def test_lists_of_a_parent_are_only_its_own(api: Api) -> None:
    for kind in KINDS:
        if not kind.parent:
            continue
        made = await api.create(kind)
        assert made["id"] in await api.ask(200, "GET", kind.list_below(api.world))
    other = await api.create(REGION, name="elsewhere")
    for path in ("zones", "kiwis", "vnets", "pools"):
        assert await api.ask(200, "GET", f"/region/{other['id']}/{path}") == []
        await api.ask(404, "GET", f"/region/{'0' * 24}/{path}")


async def test_reading_under_the_name_is_404_and_the_list_finds_it(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        await api.ask(404, "GET", f"{kind.path}/{made['name']}")
        found = [
            each
            for each in await api.ask(200, "GET", kind.path)
            if (await api.ask(200, "GET", f"{kind.path}/{each}"))["name"] == made["name"]
        ]
        assert found == [made["id"]]


async def test_names_differ_by_case(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        wanted = kind.changed(api.world) | {"name": made["name"].swapcase()}
        assert (await api.ask(201, "POST", kind.place(api.world), wanted))["id"] != made["id"]


async def test_caps_are_whole_before_the_agent_reported(api: Api) -> None:
    kaktus = await api.create(KAKTUS)
    assert await api.ask(200, "GET", f"/kaktus/{kaktus['id']}/caps") == {
        "cpu": {"arch": "", "model": "", "vendor": "", "sockets": 0, "cores": 0, "threads": 0},
        "memory": 0,
    }


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/html", ""])
async def test_requests_need_no_cookie_and_any_accept_works(api: Api, accept: str) -> None:
    answer = await api.client.get("/api/v1/region", headers={"accept": accept})
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers


async def test_actions_need_no_body_and_no_content_type(api: Api) -> None:
    pool, subnet = await api.create(POOL), await api.create(SUBNET)
    region, vnet = api.world.region, api.world.vnet
    for path in (f"/region/{region}/pool/{pool['id']}", f"/vnet/{vnet}/subnet/{subnet['id']}"):
        answer = await api.client.patch(f"/api/v1{path}/default")
        assert (answer.status_code, answer.content) == (200, b"")
    answer = await api.client.delete(f"/api/v1/pool/{pool['id']}")
    assert (answer.status_code, answer.content) == (200, b"")
