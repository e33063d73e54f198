"""Komputes on the real engine, store and dispatchers, before simulated nodes."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from appliance.core.errors import (
    Conflict,
    DriverError,
    InsufficientResource,
    Invalid,
    NotFound,
    Unavailable,
)
from appliance.model.compute import ObservedDomain
from appliance.model.domain_state import DomainState
from appliance.model.storage import ImagePurpose, ObservedImage, RbdPool
from appliance.operations.operation import Origin, State
from appliance.resources.adapter import ADAPTERS
from appliance.resources.instance import INSTANCES
from appliance.resources.kompute import KOMPUTES, Kompute
from appliance.resources.storage_pool import STORAGE_POOLS
from appliance.resources.subnet import SUBNETS
from appliance.resources.volume import VOLUMES
from appliance.services.durable import Asked
from appliance.services.komputes import KomputeOptions
from appliance.services.verify import verify_world
from appliance.store.base import Statement
from tests.support.cloud import ASKED, GIB, MIB, Cloud, CountedStore, kompute, open_cloud
from tests.support.wait import until

POOL = RbdPool(pool="ssd", monitor_address="ceph.example", monitor_port=3300)
NO_OPTIONS = KomputeOptions()


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path) as cloud:
        yield cloud


async def domains(cloud: Cloud) -> list[ObservedDomain]:
    hosts = [await cloud.nodes[agent].node.compute.list_domains() for agent in cloud.agents]
    return [domain for host in hosts for domain in host]


async def images(cloud: Cloud) -> dict[str, ObservedImage]:
    """Return the images of volumes."""
    node = cloud.nodes[cloud.agents[0]].node
    return {
        image.image_id: image
        for image in await node.storage.list_images(POOL)
        if image.purpose is ImagePurpose.VOLUME
    }


async def seeds(cloud: Cloud) -> list[ObservedImage]:
    node = cloud.nodes[cloud.agents[0]].node
    images = await node.storage.list_images(POOL)
    return [image for image in images if image.purpose is ImagePurpose.SEED]


async def is_clean(cloud: Cloud) -> bool:
    return (await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)).is_clean


async def change(cloud: Cloud, made: Kompute, **changes: int | str) -> Kompute:
    wanted = msgspec.structs.replace(made, **changes)
    begun = await cloud.compute.komputes.update(ASKED, str(made.id), wanted)
    return await begun.outcome()


async def delete(cloud: Cloud, made: Kompute) -> None:
    await (await cloud.compute.komputes.delete(ASKED, str(made.id))).outcome()


def fail_everywhere(cloud: Cloud, method: str, times: int | None = None) -> None:
    for agent in cloud.agents:
        cloud.nodes[agent].node.faults.fail(method=method, times=times)


def mend(cloud: Cloud) -> None:
    for agent in cloud.agents:
        cloud.nodes[agent].node.faults.mend()


# --- create


async def test_a_kompute_is_whole_when_its_create_is_answered(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web", data_disk=2 * GIB)
    assert isinstance(made.id, str)
    assert made.ip == "10.1.0.2"
    assert (made.disk, made.data_disk, made.memory, made.vcpus) == (GIB, 2 * GIB, GIB, 1)
    assert await cloud.catalog.get(KOMPUTES, made.id) == made
    (running,) = await domains(cloud)
    assert running.state is DomainState.RUNNING
    assert sorted(image.size_bytes for image in (await images(cloud)).values()) == [GIB, 2 * GIB]
    assert await is_clean(cloud)


async def test_only_a_public_kompute_gets_a_public_card_which_is_the_first(cloud: Cloud) -> None:
    inside = await cloud.add_kompute("inside")
    outside = await cloud.add_kompute("outside", public=True)
    for made, subnets in (
        (inside, [cloud.private_subnet]),
        (outside, [cloud.public_subnet, cloud.private_subnet]),
    ):
        (instance_id,) = await cloud.store.query(
            sql("SELECT id FROM instance WHERE kompute_id = ?", str(made.id))
        )
        cards = await cloud.store.query(
            sql(
                "SELECT subnet_id FROM adapter WHERE instance_id = ? ORDER BY position",
                str(instance_id["id"]),
            )
        )
        assert [card["subnet_id"] for card in cards] == subnets
    assert outside.ip == "10.1.0.3"


async def test_a_create_costs_three_writes_and_one_for_each_step(cloud: Cloud) -> None:
    assert isinstance(cloud.store, CountedStore)
    before = cloud.store.batches
    await cloud.add_kompute("web")
    assert cloud.store.batches - before <= 3 + 3


async def test_a_failed_create_leaves_nothing_whatever_step_it_was(cloud: Cloud) -> None:
    before = await cloud.contents()
    for method in (
        "storage.ensure_image",
        "network.ensure_bridge",
        "compute.ensure_domain",
        "compute.get_domain",
        "compute.ensure_power",
    ):
        for after_effect in (False, True):
            for agent in cloud.agents:
                cloud.nodes[agent].node.faults.fail(
                    method=method, times=None, after_effect=after_effect
                )
            with pytest.raises(DriverError, match="undone"):
                await cloud.add_kompute("web", data_disk=GIB)
            mend(cloud)
            after = await cloud.contents()
            assert after | {"operation": before["operation"]} == before
            assert await domains(cloud) == []
            assert await images(cloud) == {}
            assert await seeds(cloud) == []


async def test_a_refused_request_writes_nothing(cloud: Cloud) -> None:
    await cloud.add_kompute("taken")
    before = await cloud.contents()
    create = cloud.compute.komputes.create
    for wanted, options, error in (
        (kompute("bad_name-"), NO_OPTIONS, Invalid),
        (kompute("web", vcpus=0), NO_OPTIONS, Invalid),
        (kompute("web", disk=MIB), NO_OPTIONS, Invalid),  # smaller than the template's image
        (kompute("TAKEN"), NO_OPTIONS, Conflict),
        (kompute("web"), KomputeOptions(pool_id="0" * 24), Invalid),
        (kompute("web"), KomputeOptions(template_id="debian"), Invalid),
        (kompute("web", vcpus=4000), NO_OPTIONS, InsufficientResource),
    ):
        with pytest.raises(error):
            await create(ASKED, cloud.project, cloud.zone, wanted, options)
    for project, zone in (("0" * 24, cloud.zone), (cloud.project, "eu-a")):
        with pytest.raises(NotFound):
            await create(ASKED, project, zone, kompute("web"), NO_OPTIONS)
    assert await cloud.contents() == before


async def test_a_taken_name_of_a_part_is_a_conflict_that_names_it(cloud: Cloud) -> None:
    volume = await cloud.add_volume("web-os")
    with pytest.raises(Conflict, match=volume):
        await cloud.add_kompute("web")


async def test_no_host_fits_is_told_host_by_host(cloud: Cloud) -> None:
    cloud.nodes[cloud.agents[1]].connected = False
    with pytest.raises(InsufficientResource) as raised:
        await cloud.add_kompute("web", vcpus=500)
    assert "kaktus-0: 192 vCPUs" in raised.value.detail
    assert "kaktus-1: its agent is not connected" in raised.value.detail


async def test_an_exhausted_subnet_is_told(cloud: Cloud) -> None:
    await cloud.store.batch(
        [
            sql(
                "INSERT INTO subnet_range (subnet_id, purpose, position, first, last)"
                " SELECT id, 'reserved', 0, first_usable, last_usable FROM subnet WHERE id = ?",
                cloud.private_subnet,
            )
        ]
    )
    with pytest.raises(InsufficientResource, match=cloud.private_subnet):
        await cloud.add_kompute("web")


async def test_a_quota_is_never_exceeded_by_many_at_once(cloud: Cloud) -> None:
    cloud.project = await cloud.add_second_project("small", instances=3)
    made: list[Kompute] = []
    refused: list[InsufficientResource] = []

    async def one(number: int) -> None:
        try:
            made.append(await cloud.add_kompute(f"web-{number}"))
        except InsufficientResource as error:
            refused.append(error)

    async with asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(one(number))
    assert (len(made), len(refused)) == (3, 9)
    assert "quota" in refused[0].detail


async def test_many_at_once_share_nothing_and_spread(cloud: Cloud) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(cloud.add_kompute(f"web-{number}")) for number in range(40)]
    made = [task.result() for task in tasks]
    assert len({each.ip for each in made}) == len(made)
    loads = await cloud.store.query(sql("SELECT instances FROM kaktus_load ORDER BY instances"))
    assert [load["instances"] for load in loads] == [20, 20]
    assert await is_clean(cloud)


# --- what others see meanwhile


async def test_an_object_is_hidden_until_it_is_ready_and_counts_at_once(cloud: Cloud) -> None:
    gate = cloud.nodes.hold("compute.ensure_domain")
    begun = await cloud.compute.komputes.create(
        ASKED, cloud.project, cloud.zone, kompute("web"), NO_OPTIONS
    )
    await until(lambda: gate.waiting, "the create to be under way")
    kompute_id = str(await cloud.value("SELECT id FROM kompute"))
    for view in (KOMPUTES, INSTANCES, VOLUMES, ADAPTERS):
        assert await cloud.catalog.list_ids(view) == []
    with pytest.raises(NotFound):
        await cloud.catalog.get(KOMPUTES, kompute_id)
    with pytest.raises(Conflict):  # its name is taken
        await cloud.add_kompute("WEB")
    with pytest.raises(Conflict):
        await cloud.store.batch([sql("DELETE FROM project WHERE id = ?", cloud.project)])
    for table, parent in ((SUBNETS, cloud.private_subnet), (STORAGE_POOLS, cloud.pool)):
        with pytest.raises(Conflict):
            await cloud.catalog.delete(table, parent)
    gate.open()
    made = await begun.outcome()
    assert await cloud.catalog.list_ids(KOMPUTES) == [made.id]


async def test_the_same_request_attaches_and_another_one_does_not(cloud: Cloud) -> None:
    gate = cloud.nodes.hold("compute.ensure_domain")
    create = cloud.compute.komputes.create
    same = Asked("master", "a" * 64)
    first = await create(same, cloud.project, cloud.zone, kompute("web"), NO_OPTIONS)
    await until(lambda: gate.waiting, "the create to be under way")
    second = await create(same, cloud.project, cloud.zone, kompute("web"), NO_OPTIONS)
    assert second.operation_id == first.operation_id
    with pytest.raises(Conflict):
        await create(
            Asked("master", "b" * 64), cloud.project, cloud.zone, kompute("web"), NO_OPTIONS
        )
    gate.open()
    assert (await first.outcome()).id == (await second.outcome()).id
    with pytest.raises(Conflict):  # finished: the same request is a new one
        await create(same, cloud.project, cloud.zone, kompute("web"), NO_OPTIONS)


async def test_a_client_that_leaves_does_not_stop_the_work(cloud: Cloud) -> None:
    await cloud.compute.komputes.create(
        ASKED, cloud.project, cloud.zone, kompute("web"), NO_OPTIONS
    )
    await eventually(cloud, "SELECT 1 FROM kompute WHERE phase = 'ready'")
    assert await is_clean(cloud)


async def test_a_delete_withdraws_a_running_create(cloud: Cloud) -> None:
    gate = cloud.nodes.hold("compute.ensure_domain")
    begun = await cloud.compute.komputes.create(
        ASKED, cloud.project, cloud.zone, kompute("web"), NO_OPTIONS
    )
    await until(lambda: gate.waiting, "the create to be under way")
    kompute_id = str(await cloud.value("SELECT id FROM kompute"))
    async with asyncio.TaskGroup() as group:
        deleting = group.create_task(cloud.compute.komputes.delete(ASKED, kompute_id))
        await eventually(cloud, "SELECT 1 FROM operation WHERE cancel_requested = 1")
        gate.open()
    await deleting.result().outcome()
    assert (await domains(cloud), await images(cloud), await seeds(cloud)) == ([], {}, [])
    assert await cloud.count("kompute") == await cloud.count("adapter_address") == 0
    ended = await cloud.engine.get(str(begun.operation_id))
    assert ended.state is State.CANCELLED
    assert (await cloud.add_kompute("web")).ip == "10.1.0.2"


async def test_a_different_change_waits_for_the_first(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    gate = cloud.nodes.hold("compute.ensure_domain")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(change(cloud, made, vcpus=2))
        await until(lambda: gate.waiting, "the first change to be under way")
        second = group.create_task(change(cloud, made, memory=2 * GIB, vcpus=3))
        await asyncio.sleep(0)
        gate.open()
    assert second.result().vcpus == 3
    assert first.result().id == made.id
    assert await is_clean(cloud)


# --- update


async def test_processors_and_memory_grow_while_it_runs(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    cloud.nodes.methods()
    changed = await change(cloud, made, vcpus=2, memory=2 * GIB)
    assert (changed.vcpus, changed.memory) == (2, 2 * GIB)
    assert cloud.nodes.methods().count("compute.ensure_power") == 1  # nothing was stopped
    assert await is_clean(cloud)


async def test_what_cannot_change_live_takes_a_graceful_restart(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web", vcpus=2, memory=2 * GIB)
    cloud.nodes.methods()
    await change(cloud, made, vcpus=1)
    assert cloud.nodes.methods().count("compute.ensure_power") == 2
    (domain,) = await domains(cloud)
    assert domain.state is DomainState.RUNNING
    assert domain.running_generation == domain.generation
    assert await cloud.value("SELECT power FROM instance") == "running"
    assert await is_clean(cloud)


async def test_disks_grow_and_a_data_disk_comes(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    grown = await change(cloud, made, disk=2 * GIB + 1, data_disk=GIB)
    assert (grown.disk, grown.data_disk) == (2 * GIB + 1, GIB)
    assert sorted(image.size_bytes for image in (await images(cloud)).values()) == [
        GIB,
        2 * GIB + 512,
    ]
    again = await change(cloud, grown, data_disk=3 * GIB)
    assert again.data_disk == 3 * GIB
    for shrink in ({"disk": GIB}, {"data_disk": GIB}, {"data_disk": 0}):
        with pytest.raises(Invalid):
            await change(cloud, again, **shrink)
    assert await is_clean(cloud)


async def test_a_rename_needs_no_agent_and_renames_the_parts(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web", public=True, data_disk=GIB)
    for agent in cloud.agents:
        cloud.nodes[agent].connected = False
    renamed = await change(cloud, made, name="www", description="all of it")
    assert (renamed.name, renamed.description) == ("www", "all of it")
    names = await cloud.store.query(
        sql("SELECT name FROM volume UNION SELECT name FROM adapter ORDER BY 1")
    )
    assert [row["name"] for row in names] == [
        "www-data",
        "www-os",
        "www-private-adapter",
        "www-public-adapter",
    ]
    for agent in cloud.agents:
        cloud.nodes[agent].connected = True
    await cloud.add_kompute("web", data_disk=GIB)  # the old names are free


async def test_a_rename_clash_is_invalid(cloud: Cloud) -> None:
    await cloud.add_kompute("one")
    two = await cloud.add_kompute("two")
    with pytest.raises(Invalid, match="exists already"):
        await change(cloud, two, name="One")


async def test_an_update_without_a_difference_does_nothing(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    before = await cloud.contents()
    assert await change(cloud, made) == made
    assert await change(cloud, made, ip="") == made
    assert await cloud.contents() == before


async def test_a_failed_update_keeps_the_wish_and_heals(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    fail_everywhere(cloud, "compute.ensure_domain")
    with pytest.raises(Unavailable, match=r"operation [0-9a-f]{24} failed"):
        await change(cloud, made, vcpus=2)
    assert (await cloud.catalog.get(KOMPUTES, str(made.id))).vcpus == 2
    assert await cloud.value("SELECT phase FROM kompute") == "error"
    assert "injected" in str(await cloud.value("SELECT problem FROM instance"))
    mend(cloud)
    await reconcile(cloud)
    assert await cloud.value("SELECT phase FROM kompute") == "ready"
    assert await cloud.value("SELECT problem FROM kompute") is None
    assert await is_clean(cloud)


async def test_a_machine_cannot_outgrow_its_host(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    with pytest.raises(InsufficientResource, match="no room"):
        await change(cloud, made, vcpus=500)


async def test_an_offline_agent_refuses_before_anything_is_written(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    before = await cloud.contents()
    for agent in cloud.agents:
        cloud.nodes[agent].connected = False
    with pytest.raises(Unavailable, match="connected"):
        await cloud.add_kompute("other")
    with pytest.raises(Unavailable, match="connected"):
        await change(cloud, made, vcpus=2)
    with pytest.raises(Unavailable, match="connected"):
        await delete(cloud, made)
    assert await cloud.contents() == before


# --- delete and owned parts


async def test_a_delete_frees_everything_at_once(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web", public=True, data_disk=GIB)
    await delete(cloud, made)
    for table in ("kompute", "instance", "volume", "adapter", "adapter_address"):
        assert await cloud.count(table) == 0, table
    assert (await domains(cloud), await images(cloud), await seeds(cloud)) == ([], {}, [])
    with pytest.raises(NotFound):
        await delete(cloud, made)
    await (await cloud.compute.templates.delete(ASKED, cloud.template)).outcome()


async def test_a_failed_delete_is_tried_again_by_reconciliation(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    fail_everywhere(cloud, "storage.ensure_image_absent")
    with pytest.raises(Unavailable, match=r"operation [0-9a-f]{24} failed"):
        await delete(cloud, made)
    with pytest.raises(Conflict, match="being deleted"):
        await change(cloud, made, vcpus=2)
    mend(cloud)
    await reconcile(cloud)
    assert await cloud.count("kompute") == 0
    await reconcile(cloud)  # the bridge goes too
    assert await is_clean(cloud)


async def test_owned_parts_cannot_be_changed_or_deleted_by_themselves(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    (instance_id,) = await cloud.catalog.list_ids(INSTANCES)
    (volume_id,) = await cloud.catalog.list_ids(VOLUMES)
    compute = cloud.compute
    instance = await cloud.catalog.get(INSTANCES, instance_id)
    volume = await cloud.catalog.get(VOLUMES, volume_id)
    owned = f"owned by kompute {made.id}"
    with pytest.raises(Conflict, match=owned):
        await compute.instances.delete(ASKED, instance_id)
    with pytest.raises(Conflict, match=owned):
        await compute.volumes.delete(ASKED, volume_id)
    with pytest.raises(Conflict, match=owned):
        await compute.instances.update(
            ASKED, instance_id, msgspec.structs.replace(instance, vcpus=2)
        )
    for changed in ({"name": "other"}, {"size": 2 * GIB}):
        with pytest.raises(Conflict, match=owned):
            await compute.volumes.update(
                ASKED, volume_id, msgspec.structs.replace(volume, **changed)
            )
    # Without a difference there is nothing to refuse.
    same = await compute.instances.update(ASKED, instance_id, instance)
    assert await same.outcome() == instance


async def test_a_local_pool_takes_its_machines_to_its_own_host(cloud: Cloud) -> None:
    _, agent = cloud.hosts[1], cloud.agents[1]
    pool = await cloud.add_pool("disk", [agent], "local:///var/lib/kowabunga/pool")
    await cloud.add_template(pool)
    for number in range(3):
        begun = await cloud.compute.komputes.create(
            ASKED,
            cloud.project,
            cloud.zone,
            kompute(f"web-{number}"),
            KomputeOptions(pool_id=pool),
        )
        await begun.outcome()
    hosts = await cloud.store.query(sql("SELECT DISTINCT kaktus_id FROM instance"))
    assert [row["kaktus_id"] for row in hosts] == [cloud.hosts[1]]
    assert await is_clean(cloud)


# --- help


def sql(text: str, *parameters: str) -> Statement:
    return Statement(text, parameters)


async def eventually(cloud: Cloud, query: str) -> None:
    """Wait until a query selects something."""
    async with asyncio.timeout(60):
        while not await cloud.value(query):  # noqa: ASYNC110 - a database rings no bell
            await asyncio.sleep(0.01)


async def reconcile(cloud: Cloud) -> None:
    """Look at every node, and wait for what that started."""
    for agent in cloud.agents:
        await cloud.compute.reconciler.look(agent)
        for operation in await cloud.engine.list(unfinished=True):
            assert operation.origin is Origin.RECONCILE
            await cloud.engine.wait(operation.id, 60)
