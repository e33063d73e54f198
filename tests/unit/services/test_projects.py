import asyncio
from collections.abc import Sequence

import msgspec
import pytest
import pytest_asyncio

from appliance.core.errors import Conflict, InsufficientResource, Invalid, NotFound, Stale
from appliance.core.ids import new_id
from appliance.resources.allocation import assign_vrrp_id, exhausted, zone_gateways
from appliance.resources.fields import given
from appliance.resources.ipv4 import Range
from appliance.resources.project import (
    PROJECT_USAGE,
    PROJECTS,
    Demand,
    Metadata,
    Project,
    ProjectResources,
    RegionSubnet,
    over_quota,
    quota_guard,
    refuse_over_quota,
)
from appliance.resources.subnet import SUBNETS, Application
from appliance.resources.team import TEAMS
from appliance.services.projects import Projects
from appliance.services.secrets import Secrets
from tests.support.meanwhile import Meanwhile
from tests.support.small_cloud import GIB, Cloud, made
from tests.unit.services.house import House

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f admin"


@pytest_asyncio.fixture
async def region(cloud: Cloud) -> str:
    return await cloud.region()


@pytest_asyncio.fixture
async def vnet(cloud: Cloud, region: str) -> str:
    return await cloud.vnet(region)


def _wanted(name: str = "p", regions: Sequence[str] = (), teams: Sequence[str] = ()) -> Project:
    return Project(name=name, teams=list(teams), regions=list(regions))


async def _create(cloud: Cloud, wanted: Project, subnet_size: int | None = None) -> str:
    return made((await cloud.projects.create(wanted, subnet_size)).id)


async def _subnet_of(cloud: Cloud, wanted: Project, subnet_size: int | None = None) -> str:
    created = await cloud.projects.create(wanted, subnet_size)
    (private,) = given(created.private_subnets, [])
    return made(private.value)


async def test_what_was_sent_comes_back_in_its_order(cloud: Cloud, region: str, vnet: str) -> None:
    subnet = await cloud.subnet(vnet, "10.0.0.0/24")
    team = await cloud.team()
    sent = Project(
        name="ACME Office",
        description="two\nlines",
        domain="acme.example.org",
        root_password="pa'ss wörd",
        bootstrap_user="admin",
        bootstrap_pubkey=KEY,
        tags=["z", "a", "m"],
        metadatas=[Metadata(key="b", value="1"), Metadata(key="a", value="")],
        quotas=ProjectResources(vcpus=7, memory=GIB + 1, storage=2**62 + 1, instances=3),
        teams=[team],
        regions=[region],
    )
    created = await cloud.projects.create(sent, 24)
    assert created == msgspec.structs.replace(
        sent,
        id=created.id,
        private_subnets=[RegionSubnet(key="eu", value=subnet)],
        reserved_vrrp_ids=[],
    )
    assert await cloud.projects.get(made(created.id)) == created


async def test_nothing_is_made_up_for_what_was_left_out(cloud: Cloud) -> None:
    created = await cloud.projects.create(_wanted(), None)
    assert created == Project(
        id=created.id,
        name="p",
        description="",
        domain="",
        root_password="",
        bootstrap_user="",
        bootstrap_pubkey="",
        tags=[],
        metadatas=[],
        quotas=ProjectResources(vcpus=0, memory=0, storage=0, instances=0),
        private_subnets=[],
        reserved_vrrp_ids=[],
        teams=[],
        regions=[],
    )


async def test_the_password_is_sealed_and_goes_with_the_project(cloud: Cloud) -> None:
    project_id = await _create(cloud, msgspec.structs.replace(_wanted(), root_password="S3cret"))
    assert "S3cret" not in repr(await cloud.rows())
    owner = f"project/{project_id}"
    assert await cloud.ask("SELECT name FROM secret WHERE owner = ?", owner)
    changed = await cloud.projects.update(
        project_id, msgspec.structs.replace(_wanted(), root_password="0ther")
    )
    assert changed.root_password == "0ther"
    assert (await cloud.projects.update(project_id, _wanted("q"))).root_password == "0ther"
    cleared = await cloud.projects.update(
        project_id, msgspec.structs.replace(_wanted(), root_password="")
    )
    assert cleared.root_password == ""
    assert await cloud.ask("SELECT name FROM secret WHERE owner = ?", owner) == []
    again = msgspec.structs.replace(_wanted(), root_password="again")
    await cloud.projects.update(project_id, again)
    await cloud.projects.delete(project_id)
    assert await cloud.ask("SELECT name FROM secret WHERE owner = ?", owner) == []


async def test_a_taken_name_is_a_conflict_on_create_and_invalid_on_update(cloud: Cloud) -> None:
    first = await _create(cloud, _wanted("p"))
    with pytest.raises(Conflict, match=first):
        await cloud.projects.create(_wanted("p"), None)
    second = await _create(cloud, _wanted("P"))
    with pytest.raises(Invalid, match=first):
        await cloud.projects.update(second, _wanted("p"))
    assert (await cloud.projects.update(second, _wanted("free"))).name == "free"


@pytest.mark.parametrize(
    ("size", "expected"), [(None, "26"), (27, "27"), (30, "27"), (25, "25"), (24, "8"), (8, "8")]
)
async def test_the_smallest_subnet_with_room_is_taken_26_if_not_told(
    cloud: Cloud, region: str, vnet: str, size: int | None, expected: str
) -> None:
    subnets = {
        cidr.partition("/")[2]: await cloud.subnet(vnet, cidr)
        for cidr in ("10.0.0.0/8", "172.16.0.0/25", "172.16.1.0/26", "172.16.2.0/27")
    }
    taken = await _subnet_of(cloud, _wanted(regions=[region]), size)
    assert taken == subnets[expected]


async def test_of_equal_subnets_the_first_of_the_first_network_is_taken(
    cloud: Cloud, region: str, vnet: str
) -> None:
    second = await cloud.vnet(region, "second")
    later = [await cloud.subnet(second, f"10.2.{number}.0/26") for number in range(2)]
    first = [await cloud.subnet(vnet, f"10.1.{number}.0/26") for number in range(2)]
    taken = [await _subnet_of(cloud, _wanted(f"p{n}", [region])) for n in range(4)]
    assert taken == first + later


async def test_public_storage_and_foreign_subnets_are_never_given(
    cloud: Cloud, region: str, vnet: str
) -> None:
    await cloud.subnet(vnet, "10.0.0.0/26", ceph=True)
    await cloud.subnet(await cloud.vnet(region, "wan", private=False), "203.0.113.0/24")
    await cloud.subnet(await cloud.vnet(await cloud.region("us"), "us"), "10.1.0.0/26")
    await cloud.subnet(vnet, "10.2.0.0/27")  # too small
    before = await cloud.rows()
    with pytest.raises(InsufficientResource, match=r"'eu' has no free private subnet of /26"):
        await cloud.projects.create(
            msgspec.structs.replace(_wanted(regions=[region]), root_password="x"), None
        )
    assert await cloud.rows() == before


async def test_a_subnet_in_which_a_foreign_machine_lives_is_not_given(
    cloud: Cloud, region: str, vnet: str
) -> None:
    shared, free = [await cloud.subnet(vnet, f"10.0.{number}.0/26") for number in range(2)]
    kaktus = await cloud.kaktus(await cloud.zone(region), "host")
    other = await _create(cloud, _wanted("other"))
    await cloud.attached(shared, await cloud.instance(other, kaktus))
    assert await _subnet_of(cloud, _wanted(regions=[region])) == free


async def test_when_one_region_has_nothing_left_no_region_gives(
    cloud: Cloud, region: str, vnet: str
) -> None:
    await cloud.subnet(vnet, "10.0.0.0/26")
    empty = await cloud.region("empty")
    with pytest.raises(InsufficientResource, match="'empty'"):
        await cloud.projects.create(_wanted(regions=[region, empty]), None)
    assert await cloud.ask("SELECT * FROM project_region") == []


@pytest.mark.parametrize("size", [-1, 0, 7, 31, 2**31])
async def test_a_size_that_no_subnet_has_is_refused(cloud: Cloud, size: int) -> None:
    with pytest.raises(Invalid, match="subnetSize"):
        await cloud.projects.create(_wanted(), size)


async def test_teams_and_regions_that_do_not_exist_are_named(
    cloud: Cloud, region: str, vnet: str
) -> None:
    await cloud.subnet(vnet, "10.0.0.0/26")
    team, nobody = await cloud.team(), new_id()
    with pytest.raises(Invalid, match=rf"teams\[1\] names team '{nobody}'"):
        await cloud.projects.create(_wanted(teams=[team, nobody]), None)
    with pytest.raises(Invalid, match=r"regions\[0\] names region 'eu'"):  # a name is no id
        await cloud.projects.create(_wanted(regions=["eu"]), None)
    project_id = await _create(cloud, _wanted(teams=[team], regions=[region]))
    with pytest.raises(Invalid, match=r"teams\[0\]"):
        await cloud.projects.update(project_id, _wanted(teams=[nobody], regions=[region]))
    with pytest.raises(Invalid, match=r"regions\[1\]"):
        await cloud.projects.update(project_id, _wanted(regions=[region, nobody]))


async def test_teams_and_regions_come_in_the_order_of_creation(cloud: Cloud) -> None:
    teams = [await cloud.team(f"t{number}") for number in range(3)]
    regions = [await cloud.region(f"r{number}") for number in range(3)]
    for number, each in enumerate(regions):
        await cloud.subnet(await cloud.vnet(each, f"v{number}"), f"10.{number}.0.0/26")
    created = await cloud.projects.create(_wanted("p", regions[::-1], teams[::-1]), None)
    assert (created.teams, created.regions) == (teams, regions)
    assert [each.key for each in given(created.private_subnets, [])] == ["r0", "r1", "r2"]
    before = await cloud.rows()
    same = await cloud.projects.update(made(created.id), _wanted("p", regions[::-1], teams[::-1]))
    assert same == created
    assert await cloud.rows() == before  # an update without a difference writes nothing


async def test_an_added_region_gives_a_subnet_of_the_size_asked_for_at_creation(
    cloud: Cloud, region: str, vnet: str
) -> None:
    await cloud.subnet(vnet, "10.0.0.0/24")
    project_id = await _create(cloud, _wanted(regions=[region]), 25)
    second = await cloud.region("us")
    second_vnet = await cloud.vnet(second, "us")
    await cloud.subnet(second_vnet, "10.1.0.0/26")
    with pytest.raises(InsufficientResource, match=r"'us' .* of /25"):
        await cloud.projects.update(project_id, _wanted(regions=[region, second]))
    fitting = await cloud.subnet(second_vnet, "10.2.0.0/25")
    updated = await cloud.projects.update(project_id, _wanted(regions=[region, second]))
    assert given(updated.private_subnets, [])[1] == RegionSubnet(key="us", value=fitting)


async def test_a_region_that_is_left_out_gets_its_subnet_back(
    cloud: Cloud, region: str, vnet: str
) -> None:
    subnet = await cloud.subnet(vnet, "10.0.0.0/26")
    project_id = await _create(cloud, _wanted(regions=[region]))
    with pytest.raises(InsufficientResource):
        await cloud.projects.create(_wanted("q", [region]), None)
    left = await cloud.projects.update(project_id, _wanted())
    assert (left.regions, left.private_subnets) == ([], [])
    assert await _subnet_of(cloud, _wanted("q", [region])) == subnet


async def test_a_region_with_a_machine_of_the_project_cannot_be_left(
    cloud: Cloud, region: str, vnet: str
) -> None:
    subnet = await cloud.subnet(vnet, "10.0.0.0/26")
    project_id = await _create(cloud, _wanted(regions=[region]))
    kaktus = await cloud.kaktus(await cloud.zone(region), "host")
    instance = await cloud.instance(project_id, kaktus)
    adapter = await cloud.attached(subnet, instance, "card")
    with pytest.raises(Invalid, match="cannot leave region 'eu': card is in its subnet"):
        await cloud.projects.update(project_id, _wanted())
    await cloud.tell("DELETE FROM adapter WHERE id = ?", adapter)
    await cloud.projects.update(project_id, _wanted())


async def test_a_delete_is_refused_while_anything_is_left_and_then_frees_everything(
    cloud: Cloud, region: str, vnet: str
) -> None:
    subnet = await cloud.subnet(vnet, "10.0.0.0/26")
    team = await cloud.team()
    project_id = await _create(cloud, _wanted(regions=[region], teams=[team]))
    kaktus = await cloud.kaktus(await cloud.zone(region), "host")
    instance = await cloud.instance(project_id, kaktus)
    pool = await cloud.storage_pool(region, "ssd")
    await cloud.store.batch([cloud.insert_volume(project_id, pool, GIB)])
    for table, left in (("instance", r"instances \(1\), volumes \(1\)"), ("volume", "volumes")):
        with pytest.raises(Conflict, match=left):
            await cloud.projects.delete(project_id)
        await cloud.tell(f"DELETE FROM {table}")
    assert instance
    with pytest.raises(Conflict, match="projects"):
        await cloud.catalog.delete(TEAMS, team)
    with pytest.raises(Conflict, match="projects"):
        await cloud.catalog.delete(SUBNETS, subnet)
    await cloud.projects.delete(project_id)
    with pytest.raises(NotFound):
        await cloud.projects.delete(project_id)
    await cloud.catalog.delete(TEAMS, team)
    await cloud.catalog.delete(SUBNETS, subnet)


async def test_renaming_a_region_renames_the_key_of_its_subnet(
    cloud: Cloud, region: str, vnet: str
) -> None:
    await cloud.subnet(vnet, "10.0.0.0/26")
    project_id = await _create(cloud, _wanted(regions=[region]))
    await cloud.tell("UPDATE region SET name = 'eu-west' WHERE id = ?", region)
    project = await cloud.projects.get(project_id)
    assert [each.key for each in given(project.private_subnets, [])] == ["eu-west"]


async def test_a_subnet_of_a_project_cannot_become_one_for_storage(
    cloud: Cloud, region: str, vnet: str
) -> None:
    subnet = await cloud.subnet(vnet, "10.0.0.0/26")
    project_id = await _create(cloud, _wanted(regions=[region]))
    stored = await cloud.catalog.get(SUBNETS, subnet)
    with pytest.raises(Invalid, match=f"cannot be for ceph: project {project_id} has it"):
        await cloud.catalog.update(
            SUBNETS, subnet, msgspec.structs.replace(stored, application=Application.CEPH)
        )


async def test_what_was_read_can_be_put_back_with_read_only_values_made_up(
    cloud: Cloud, region: str, vnet: str
) -> None:
    await cloud.subnet(vnet, "10.0.0.0/26")
    created = await cloud.projects.create(_wanted(regions=[region]), None)
    lie = msgspec.structs.replace(
        created,
        id=new_id(),
        description="new",
        private_subnets=[RegionSubnet(key="eu", value=new_id())],
        reserved_vrrp_ids=[1, 2],
    )
    updated = await cloud.projects.update(made(created.id), lie)
    assert updated == msgspec.structs.replace(created, description="new")


async def test_a_project_that_does_not_exist_is_not_found(cloud: Cloud) -> None:
    for project_id in (new_id(), "p", ""):
        with pytest.raises(NotFound):
            await cloud.projects.get(project_id)
        with pytest.raises(NotFound):
            await cloud.projects.update(project_id, _wanted())
        with pytest.raises(NotFound):
            await cloud.projects.delete(project_id)
        with pytest.raises(NotFound):
            await cloud.catalog.get_part(PROJECTS, PROJECT_USAGE, project_id)


async def test_200_projects_made_at_once_share_no_subnet(
    cloud: Cloud, region: str, vnet: str
) -> None:
    for number in range(200):
        await cloud.subnet(vnet, f"10.0.{number}.0/26")
    projects = await asyncio.gather(
        *(cloud.projects.create(_wanted(f"p{number}", [region]), None) for number in range(200))
    )
    subnets = {given(each.private_subnets, [])[0].value for each in projects}
    assert len(subnets) == 200


async def test_of_many_who_want_the_last_subnets_exactly_as_many_get_one(
    cloud: Cloud, region: str, vnet: str
) -> None:
    for number in range(5):
        await cloud.subnet(vnet, f"10.0.{number}.0/26")
    outcomes = await asyncio.gather(
        *(cloud.projects.create(_wanted(f"p{number}", [region]), None) for number in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, Project) for each in outcomes) == 5
    assert sum(isinstance(each, InsufficientResource) for each in outcomes) == 15


async def test_of_two_changes_at_once_both_are_kept(cloud: Cloud, house: House) -> None:
    project_id = await _create(cloud, _wanted())

    async def change() -> None:
        await cloud.projects.update(
            project_id,
            msgspec.structs.replace(_wanted(), description="new", root_password="changed"),
        )

    store = Meanwhile(cloud.store, change)
    racing = Projects(store, cloud.catalog, Secrets(store, house.keyring), cloud.clock)
    both = await racing.update(project_id, msgspec.structs.replace(_wanted(), tags=["mine"]))
    assert (both.description, both.root_password, both.tags) == ("new", "changed", ["mine"])


# Quotas.


async def _project_with_host(
    cloud: Cloud, region: str, quotas: ProjectResources
) -> tuple[str, str]:
    project_id = await _create(cloud, msgspec.structs.replace(_wanted(), quotas=quotas))
    return project_id, await cloud.kaktus(await cloud.zone(region), "host")


async def _take(cloud: Cloud, project_id: str, kaktus_id: str, demand: Demand) -> None:
    """Make an instance as a service does: guarded, and refused in words."""
    _, insert = cloud.insert_instance(
        project_id, kaktus_id, vcpus=demand.vcpus, memory_bytes=demand.memory_bytes
    )
    try:
        await cloud.store.batch([*quota_guard(project_id, demand), insert])
    except Stale:
        rows = await cloud.store.query(over_quota(project_id, demand))
        refuse_over_quota(project_id, rows[0])


async def test_a_quota_is_filled_to_the_last_and_never_passed(cloud: Cloud, region: str) -> None:
    quotas = ProjectResources(instances=10, vcpus=6, memory=100 * GIB)
    project_id, kaktus = await _project_with_host(cloud, region, quotas)
    for _ in range(3):
        await _take(cloud, project_id, kaktus, Demand(1, 2, GIB))
    with pytest.raises(InsufficientResource, match=r"uses 6 of its quota of 6 for vcpus; 1 more"):
        await _take(cloud, project_id, kaktus, Demand(1, 1, GIB))


async def test_of_200_who_want_a_quota_at_once_exactly_as_many_as_fit_get_it(
    cloud: Cloud, region: str
) -> None:
    quotas = ProjectResources(instances=50, vcpus=60, memory=70 * GIB)
    project_id, kaktus = await _project_with_host(cloud, region, quotas)
    outcomes = await asyncio.gather(
        *(_take(cloud, project_id, kaktus, Demand(1, 1, 2 * GIB)) for _ in range(200)),
        return_exceptions=True,
    )
    assert outcomes.count(None) == 35  # memory is the narrowest
    assert sum(isinstance(each, InsufficientResource) for each in outcomes) == 165
    usage = await cloud.catalog.get_part(PROJECTS, PROJECT_USAGE, project_id)
    assert usage == ProjectResources(instances=35, vcpus=35, memory=70 * GIB, storage=0)


async def test_each_quota_is_its_own_and_zero_is_no_limit(cloud: Cloud, region: str) -> None:
    names = ("instances", "vcpus", "memory", "storage")
    for name, demand in zip(
        names, (Demand(2), Demand(0, 2), Demand(0, 0, 2), Demand(0, 0, 0, 2)), strict=True
    ):
        limited = msgspec.structs.replace(
            _wanted(name), quotas=msgspec.convert({name: 1}, ProjectResources)
        )
        project_id = await _create(cloud, limited)
        (row,) = await cloud.store.query(over_quota(project_id, demand))
        assert row == {"resource": name, "quota": 1, "used": 0, "demand": 2}
        unlimited = await _create(cloud, _wanted(f"{name}-free"))
        assert await cloud.store.query(over_quota(unlimited, Demand(9, 9, 2**50, 2**60))) == []


async def test_a_project_over_a_lowered_quota_may_shrink_but_not_grow(
    cloud: Cloud, region: str
) -> None:
    project_id, kaktus = await _project_with_host(cloud, region, ProjectResources())
    for _ in range(3):
        await _take(cloud, project_id, kaktus, Demand(1, 2, GIB))
    lowered = msgspec.structs.replace(_wanted(), quotas=ProjectResources(vcpus=2))
    await cloud.projects.update(project_id, lowered)
    await cloud.store.batch([*quota_guard(project_id, Demand(0, 0, 5))])
    with pytest.raises(Stale):
        await cloud.store.batch([*quota_guard(project_id, Demand(0, 1))])


async def test_usage_counts_what_is_not_visible_yet_and_only_the_projects_own(
    cloud: Cloud, region: str
) -> None:
    project_id, kaktus = await _project_with_host(cloud, region, ProjectResources())
    other = await _create(cloud, _wanted("other"))
    pool = await cloud.storage_pool(region, "ssd")
    usage = await cloud.catalog.get_part(PROJECTS, PROJECT_USAGE, project_id)
    assert usage == ProjectResources(instances=0, vcpus=0, memory=0, storage=0)
    for owner, vcpus in ((project_id, 2), (project_id, 3), (other, 40)):
        await cloud.instance(owner, kaktus, vcpus=vcpus, memory_bytes=GIB + vcpus)
        await cloud.store.batch([cloud.insert_volume(owner, pool, vcpus)])
    usage = await cloud.catalog.get_part(PROJECTS, PROJECT_USAGE, project_id)
    assert usage == ProjectResources(instances=2, vcpus=5, memory=2 * GIB + 5, storage=5)


# VRRP ids and the addresses of gateways, of which Kawaii and Konvey are made.


async def test_the_lowest_free_vrrp_id_is_given_on_each_segment(
    cloud: Cloud, region: str, vnet: str
) -> None:
    second = await cloud.vnet(region, "second")
    first, other = await _create(cloud, _wanted("a")), await _create(cloud, _wanted("b"))
    for project_id, vnet_id in ((first, vnet), (other, vnet), (first, vnet), (first, second)):
        await cloud.store.batch([assign_vrrp_id(project_id, vnet_id, "konvey/x")])
    assert (await cloud.projects.get(first)).reserved_vrrp_ids == [1, 3]  # sorted, each once
    assert (await cloud.projects.get(other)).reserved_vrrp_ids == [2]
    await cloud.tell("DELETE FROM vrrp_id WHERE vnet_id = ? AND vrrp_id = 1", vnet)
    await cloud.store.batch([assign_vrrp_id(other, vnet, "konvey/y")])
    assert (await cloud.projects.get(other)).reserved_vrrp_ids == [1, 2]
    with pytest.raises(Conflict, match=r"VRRP ids \(2\)"):
        await cloud.projects.delete(other)


async def test_a_segment_has_255_vrrp_ids_and_no_two_are_the_same(cloud: Cloud, vnet: str) -> None:
    project_id = await _create(cloud, _wanted())
    outcomes = await asyncio.gather(
        *(cloud.store.batch([assign_vrrp_id(project_id, vnet, "konvey/x")]) for _ in range(260)),
        return_exceptions=True,
    )
    refused = [each for each in outcomes if isinstance(each, Conflict)]
    assert len(refused) == 5
    assert all(exhausted(each, "vrrp_id.vrrp_id") for each in refused)
    assert (await cloud.projects.get(project_id)).reserved_vrrp_ids == list(range(1, 256))


async def test_a_region_is_not_left_while_its_segment_has_a_vrrp_id_of_the_project(
    cloud: Cloud, region: str, vnet: str
) -> None:
    await cloud.subnet(vnet, "10.0.0.0/26")
    project_id = await _create(cloud, _wanted(regions=[region]))
    await cloud.store.batch([assign_vrrp_id(project_id, vnet, "konvey/x")])
    with pytest.raises(Invalid, match="VRRP id 1"):
        await cloud.projects.update(project_id, _wanted())


def test_zones_in_the_order_of_their_names_have_the_addresses_of_the_pool_in_turn() -> None:
    pool = [Range(20, 21), Range(10, 12)]
    assert zone_gateways(["c", "a", "b"], pool) == {"a": 20, "b": 21, "c": 10}
    assert zone_gateways(["b", "a"], [Range(5, 5)]) == {"a": 5}
    assert zone_gateways(["a"], []) == {}
