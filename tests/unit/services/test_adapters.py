import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import pytest_asyncio

from appliance.core.errors import Conflict, InsufficientResource, Invalid, NotFound
from appliance.core.ids import new_id
from appliance.resources.adapter import ADAPTERS, Adapter, insert_adapter
from appliance.resources.fields import given
from appliance.resources.subnet import SUBNETS, IpRange, Subnet
from appliance.resources.vnet import VNETS
from appliance.services.adapters import Adapters
from appliance.store.base import Statement
from tests.support.meanwhile import Meanwhile
from tests.support.small_cloud import Cloud, made


@pytest_asyncio.fixture
async def vnet(cloud: Cloud) -> str:
    return await cloud.vnet(await cloud.region())


@pytest_asyncio.fixture
async def subnet(cloud: Cloud, vnet: str) -> str:
    wanted = Subnet(
        name="n",
        cidr="10.0.0.0/28",
        gateway="10.0.0.3",
        reserved=[IpRange(first="10.0.0.5", last="10.0.0.6")],
        gw_pool=[IpRange(first="10.0.0.7", last="10.0.0.8")],
    )
    return made((await cloud.catalog.create(SUBNETS, wanted, VNETS, vnet)).id)


async def _assigned(cloud: Cloud, subnet_id: str, name: str) -> list[str]:
    adapter = await cloud.adapters.create(subnet_id, Adapter(name=name), assign=True)
    return given(adapter.addresses, [])


async def test_the_lowest_address_that_nobody_has_or_keeps_is_given(
    cloud: Cloud, subnet: str
) -> None:
    await cloud.adapters.create(subnet, Adapter(name="x", addresses=["10.0.0.10"]), assign=False)
    given_in_turn = [await _assigned(cloud, subnet, f"a{number}") for number in range(8)]
    # .0 and .15 are the network's, .3 the router's, .5 to .8 kept, .10 taken.
    assert given_in_turn == [[f"10.0.0.{last}"] for last in (1, 2, 4, 9, 11, 12, 13, 14)]


async def test_a_full_subnet_is_told_in_words_and_nothing_is_written(
    cloud: Cloud, subnet: str
) -> None:
    for number in range(9):
        await _assigned(cloud, subnet, f"a{number}")
    before = await cloud.rows()
    with pytest.raises(InsufficientResource, match=rf"subnet {subnet} has no free address"):
        await _assigned(cloud, subnet, "one too many")
    assert await cloud.rows() == before


async def test_an_address_is_free_again_as_soon_as_its_adapter_is_gone(
    cloud: Cloud, subnet: str
) -> None:
    first = await cloud.adapters.create(subnet, Adapter(name="a"), assign=True)
    await _assigned(cloud, subnet, "b")
    await cloud.adapters.delete(made(first.id))
    assert await _assigned(cloud, subnet, "a") == first.addresses
    with pytest.raises(NotFound):
        await cloud.adapters.delete(made(first.id))


async def test_addresses_that_are_sent_come_back_in_their_order(cloud: Cloud, subnet: str) -> None:
    addresses = ["10.0.0.9", "10.0.0.1", "10.0.0.6", "10.0.0.2"]
    created = await cloud.adapters.create(
        subnet,
        Adapter(name="a", addresses=addresses, mac="", description="two\nlines"),
        assign=True,
    )
    assert created.addresses == addresses  # none is assigned beside them
    assert created.description == "two\nlines"
    assert await cloud.catalog.get(ADAPTERS, made(created.id)) == created


async def test_without_assignment_an_adapter_has_no_address(cloud: Cloud, subnet: str) -> None:
    created = await cloud.adapters.create(subnet, Adapter(name="a"), assign=False)
    assert created.addresses == []


async def test_an_address_that_is_taken_names_who_has_it(cloud: Cloud, subnet: str) -> None:
    holder = await cloud.adapters.create(
        subnet, Adapter(name="holder", addresses=["10.0.0.9"]), assign=False
    )
    with pytest.raises(Invalid, match=rf"10\.0\.0\.9 .*'holder', {holder.id}") as refused:
        await cloud.adapters.create(
            subnet, Adapter(name="b", addresses=["10.0.0.1", "10.0.0.9"]), assign=False
        )
    assert refused.value.context["field"] == "addresses[1]"
    other = await cloud.adapters.create(subnet, Adapter(name="b"), assign=True)
    with pytest.raises(Invalid, match="holder"):
        await cloud.adapters.update(made(other.id), Adapter(name="b", addresses=["10.0.0.9"]))


async def test_two_subnets_may_have_the_same_address(cloud: Cloud, subnet: str) -> None:
    # Of another region: within one, subnets never overlap.
    other = await cloud.subnet(
        await cloud.vnet(await cloud.region("us"), "us"), "10.0.0.0/24", name="us"
    )
    for subnet_id, name in ((subnet, "a"), (other, "b")):
        await cloud.adapters.create(
            subnet_id, Adapter(name=name, addresses=["10.0.0.9"]), assign=False
        )


async def test_a_mac_is_made_once_and_kept(cloud: Cloud, subnet: str) -> None:
    created = await cloud.adapters.create(subnet, Adapter(name="a", mac=""), assign=True)
    assert re.fullmatch(r"da:1e:70(:[0-9a-f]{2}){3}", given(created.mac, ""))
    updated = await cloud.adapters.update(made(created.id), Adapter(name="b", mac=""))
    assert (updated.name, updated.mac) == ("b", created.mac)


async def test_a_mac_is_unique_whatever_its_case_but_among_reserved_adapters(
    cloud: Cloud, subnet: str
) -> None:
    mac = "DA:1E:70:00:00:0A"
    first = await cloud.adapters.create(subnet, Adapter(name="a", mac=mac), assign=False)
    assert first.mac == mac
    with pytest.raises(Invalid, match=rf"mac .* belongs to adapter 'a', {first.id}"):
        await cloud.adapters.create(subnet, Adapter(name="b", mac=mac.lower()), assign=False)
    for name in ("vrrp-1", "vrrp-2"):
        await cloud.adapters.create(
            subnet, Adapter(name=name, mac=mac.lower(), reserved=True), assign=False
        )


async def test_a_mac_is_made_free_even_when_most_are_taken(cloud: Cloud, subnet: str) -> None:
    await asyncio.gather(
        *(
            cloud.adapters.create(subnet, Adapter(name=f"a{number}"), assign=False)
            for number in range(200)
        )
    )
    rows = await cloud.ask("SELECT COUNT(DISTINCT lower(mac)) AS macs FROM adapter")
    assert rows == [{"macs": 200}]


async def test_a_taken_name_is_a_conflict_on_create_and_invalid_on_update(
    cloud: Cloud, subnet: str
) -> None:
    first = await cloud.adapters.create(subnet, Adapter(name="a"), assign=True)
    with pytest.raises(Conflict, match=made(first.id)):
        await cloud.adapters.create(subnet, Adapter(name="a"), assign=True)
    second = await cloud.adapters.create(subnet, Adapter(name="A"), assign=True)  # case counts
    with pytest.raises(Invalid, match=made(first.id)):
        await cloud.adapters.update(made(second.id), Adapter(name="a"))


async def test_an_update_replaces_the_addresses_as_a_whole(cloud: Cloud, subnet: str) -> None:
    created = await cloud.adapters.create(
        subnet, Adapter(name="a", addresses=["10.0.0.1", "10.0.0.2"], description="d"), assign=False
    )
    adapter_id = made(created.id)
    kept = await cloud.adapters.update(adapter_id, Adapter(name="a"))
    assert kept == created
    swapped = await cloud.adapters.update(
        adapter_id, Adapter(name="a", addresses=["10.0.0.2", "10.0.0.4"])
    )
    assert swapped == msgspec.structs.replace(created, addresses=["10.0.0.2", "10.0.0.4"])
    emptied = await cloud.adapters.update(
        adapter_id, Adapter(name="a", addresses=[], description="")
    )
    assert (emptied.addresses, emptied.description) == ([], "")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.0.0.0", "no address of a machine"),
        ("10.0.0.15", "no address of a machine"),
        ("10.0.1.1", "no address of a machine"),
        ("10.0.0.3", "the subnet's router"),
        ("10.0.0.8", "kept for the gateways"),
    ],
)
async def test_an_address_that_is_not_to_be_had_is_refused(
    cloud: Cloud, subnet: str, address: str, reason: str
) -> None:
    with pytest.raises(Invalid, match=reason):
        await cloud.adapters.create(subnet, Adapter(name="a", addresses=[address]), assign=False)


async def test_only_a_reserved_adapter_has_an_address_of_the_routers(
    cloud: Cloud, subnet: str
) -> None:
    router = Adapter(name="router", addresses=["10.0.0.3", "10.0.0.8"], reserved=True)
    created = await cloud.adapters.create(subnet, router, assign=False)
    with pytest.raises(Invalid, match="the subnet's router"):
        await cloud.adapters.update(made(created.id), Adapter(name="router", reserved=False))


async def test_an_adapter_of_no_subnet_is_not_found(cloud: Cloud) -> None:
    for subnet_id in (new_id(), "nothing", ""):
        with pytest.raises(NotFound, match="subnet"):
            await cloud.adapters.create(subnet_id, Adapter(name="a"), assign=True)
    with pytest.raises(NotFound, match="adapter"):
        await cloud.adapters.update(new_id(), Adapter(name="a"))


async def test_what_an_instance_has_is_neither_removed_nor_given_other_addresses(
    cloud: Cloud, subnet: str
) -> None:
    adapter_id, instance_id = await _attached(cloud, subnet)
    with pytest.raises(Conflict, match=instance_id):
        await cloud.adapters.delete(adapter_id)
    for change in (
        Adapter(name="card", addresses=[]),
        Adapter(name="card", mac="da:1e:70:00:00:01"),
    ):
        with pytest.raises(Invalid, match=f"while instance {instance_id} has it"):
            await cloud.adapters.update(adapter_id, change)
    renamed = await cloud.adapters.update(adapter_id, Adapter(name="renamed"))
    assert renamed.name == "renamed"


async def test_what_a_kompute_owns_is_changed_only_through_it(cloud: Cloud, subnet: str) -> None:
    adapter_id, _ = await _attached(cloud, subnet)
    kompute_id = await _owned(cloud, adapter_id, "ready")
    with pytest.raises(Conflict, match=f"owned by kompute {kompute_id}"):
        await cloud.adapters.delete(adapter_id)
    with pytest.raises(Conflict, match=f"owned by kompute {kompute_id}"):
        await cloud.adapters.update(adapter_id, Adapter(name="renamed"))
    stored = await cloud.catalog.get(ADAPTERS, adapter_id)
    assert await cloud.adapters.update(adapter_id, stored) == stored  # a change of nothing


async def test_an_adapter_of_a_kompute_that_is_being_made_is_hidden_but_counts(
    cloud: Cloud, subnet: str
) -> None:
    adapter_id, _ = await _attached(cloud, subnet)
    await _owned(cloud, adapter_id, "creating")
    assert await cloud.catalog.list_ids(ADAPTERS) == []
    below = ADAPTERS.list_children_ids
    assert below is not None
    assert await cloud.catalog.list_below(below, SUBNETS, subnet) == []
    with pytest.raises(NotFound):
        await cloud.catalog.get(ADAPTERS, adapter_id)
    assert await _assigned(cloud, subnet, "next") == ["10.0.0.2"]
    with pytest.raises(Conflict, match=r"adapters \(2\)"):
        await cloud.catalog.delete(SUBNETS, subnet)


async def test_a_subnet_that_changes_meanwhile_is_looked_at_again(
    cloud: Cloud, vnet: str, subnet: str
) -> None:
    """Explicit addresses and the pool of gateways move at once: they never meet."""

    async def take(last: int) -> None:
        adapter = Adapter(name=f"a{last}", addresses=[f"10.0.0.{last}"])
        with contextlib.suppress(Invalid):
            await cloud.adapters.create(subnet, adapter, assign=False)

    async def keep(last: int) -> None:
        stored = await cloud.catalog.get(SUBNETS, subnet)
        pool = [IpRange(first=f"10.0.0.{last}", last=f"10.0.0.{last}")]
        with contextlib.suppress(Invalid):
            await cloud.catalog.update(
                SUBNETS, subnet, msgspec.structs.replace(stored, gw_pool=pool)
            )

    for last in (9, 10, 11, 12):
        await asyncio.gather(keep(last), take(last), keep(last))
    assert await cloud.ask(
        "SELECT 1 FROM adapter_address JOIN subnet_range AS kept USING (subnet_id)"
        " WHERE kept.purpose = 'gw_pool' AND address BETWEEN kept.first AND kept.last"
    ) == []  # fmt: skip


async def test_200_adapters_made_at_once_share_nothing(cloud: Cloud, vnet: str) -> None:
    wide = await cloud.subnet(vnet, "10.1.0.0/24")
    adapters = await asyncio.gather(
        *(
            cloud.adapters.create(wide, Adapter(name=f"a{number}"), assign=True)
            for number in range(200)
        )
    )
    addresses = sorted(int(given(each.addresses, [])[0].rpartition(".")[2]) for each in adapters)
    assert addresses == list(range(2, 202))
    assert len({each.mac for each in adapters}) == 200


async def test_of_many_who_want_the_last_addresses_exactly_as_many_get_one(
    cloud: Cloud, subnet: str
) -> None:
    outcomes = await asyncio.gather(
        *(_assigned(cloud, subnet, f"a{number}") for number in range(40)), return_exceptions=True
    )
    assert sum(isinstance(each, list) for each in outcomes) == 9
    assert sum(isinstance(each, InsufficientResource) for each in outcomes) == 31


def _meanwhile(cloud: Cloud, act: Callable[[], Awaitable[object]]) -> Adapters:
    """Return the service in which something happens between its last look and its write."""
    return Adapters(Meanwhile(cloud.store, act), cloud.catalog, cloud.clock)


async def test_an_address_that_becomes_the_gateways_meanwhile_is_refused(
    cloud: Cloud, subnet: str
) -> None:
    stored = await cloud.catalog.get(SUBNETS, subnet)
    pool = [IpRange(first="10.0.0.9", last="10.0.0.9")]
    change = msgspec.structs.replace(stored, gw_pool=pool)
    adapters = _meanwhile(cloud, lambda: cloud.catalog.update(SUBNETS, subnet, change))
    with pytest.raises(Invalid, match="kept for the gateways"):
        await adapters.create(subnet, Adapter(name="a", addresses=["10.0.0.9"]), assign=False)


async def test_an_adapter_that_is_attached_meanwhile_is_neither_removed_nor_changed(
    cloud: Cloud, subnet: str
) -> None:
    _, instance_id = await _attached(cloud, subnet)
    created = await cloud.adapters.create(subnet, Adapter(name="a"), assign=True)
    adapter_id = made(created.id)

    async def attach() -> None:
        await cloud.tell(
            "UPDATE adapter SET instance_id = ?, position = 1 WHERE id = ?", instance_id, adapter_id
        )

    async def detach() -> None:
        await cloud.tell(
            "UPDATE adapter SET instance_id = NULL, position = NULL WHERE id = ?", adapter_id
        )

    with pytest.raises(Conflict, match=instance_id):
        await _meanwhile(cloud, attach).delete(adapter_id)
    await detach()
    with pytest.raises(Invalid, match=instance_id):
        await _meanwhile(cloud, attach).update(adapter_id, Adapter(name="a", addresses=[]))
    assert await cloud.catalog.get(ADAPTERS, adapter_id) == created


async def test_of_two_changes_at_once_both_are_kept(cloud: Cloud, subnet: str) -> None:
    created = await cloud.adapters.create(subnet, Adapter(name="a"), assign=True)
    adapter_id = made(created.id)
    adapters = _meanwhile(
        cloud, lambda: cloud.adapters.update(adapter_id, Adapter(name="a", description="new"))
    )
    both = await adapters.update(adapter_id, Adapter(name="a", addresses=[]))
    assert (both.description, both.addresses) == ("new", [])


async def test_a_mac_that_any_adapter_has_is_never_made_again(cloud: Cloud, subnet: str) -> None:
    taken, free = "DA:1E:70:00:00:0A", "da:1e:70:00:00:0b"
    await cloud.adapters.create(
        subnet, Adapter(name="vrrp", mac=taken, reserved=True), assign=False
    )
    insert, addresses = insert_adapter(new_id(), subnet, "a", 0)
    candidates = msgspec.json.encode([taken.lower(), free]).decode()
    parameters = tuple(
        candidates if str(value).startswith("[") else value for value in insert.parameters
    )
    await cloud.store.batch([Statement(insert.sql, parameters), addresses])
    assert await cloud.ask("SELECT mac FROM adapter WHERE name = 'a'") == [{"mac": free}]


async def _attached(cloud: Cloud, subnet_id: str) -> tuple[str, str]:
    """Make an adapter with 10.0.0.1 that an instance has."""
    region_id = await cloud.region("elsewhere")
    kaktus_id = await cloud.kaktus(await cloud.zone(region_id), "host")
    project_id = new_id()
    await cloud.tell(
        "INSERT INTO project (id, name, description, domain, bootstrap_user, bootstrap_pubkey,"
        " tags, metadatas, prefix_length, quota_vcpus, quota_memory, quota_storage,"
        " quota_instances, created_at_ms, updated_at_ms)"
        " VALUES (?, 'p', '', '', '', '', '[]', '[]', 26, 0, 0, 0, 0, 0, 0)",
        project_id,
    )
    instance_id = await cloud.instance(project_id, kaktus_id)
    return await cloud.attached(subnet_id, instance_id), instance_id


async def _owned(cloud: Cloud, adapter_id: str, phase: str) -> str:
    """Make a Kompute that owns an adapter."""
    kompute_id = new_id()
    await cloud.tell(
        "INSERT INTO kompute (id, project_id, zone_id, name, description, phase, created_at_ms,"
        " updated_at_ms) SELECT ?, project.id, zone.id, 'k', '', ?, 0, 0 FROM project, zone",
        kompute_id,
        phase,
    )
    await cloud.tell("UPDATE adapter SET kompute_id = ? WHERE id = ?", kompute_id, adapter_id)
    return kompute_id
