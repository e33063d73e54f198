"""Volumes on the real engine, store and dispatchers, before simulated nodes."""

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
from appliance.core.ids import new_id
from appliance.model.storage import RbdPool
from appliance.resources.region import REGIONS
from appliance.resources.storage_pool import STORAGE_POOLS
from appliance.resources.volume import VOLUMES, Volume, VolumeType, volumes_of_project
from appliance.services.verify import verify_world
from tests.support.cloud import ASKED, GIB, MIB, Cloud, open_cloud

POOL = RbdPool(pool="ssd", monitor_address="ceph.example", monitor_port=3300)


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path) as cloud:
        yield cloud


async def create(
    cloud: Cloud, volume: Volume, *, pool: str | None = None, template: str | None = None
) -> Volume:
    begun = await cloud.compute.volumes.create(
        ASKED, cloud.project, cloud.region, volume, pool_id=pool, template_id=template
    )
    return await begun.outcome()


async def change(cloud: Cloud, volume_id: str, **changes: object) -> Volume:
    stored = await cloud.catalog.get(VOLUMES, volume_id)
    wanted = msgspec.structs.replace(stored, **changes)
    return await (await cloud.compute.volumes.update(ASKED, volume_id, wanted)).outcome()


async def is_clean(cloud: Cloud) -> bool:
    return (await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)).is_clean


async def size_of_image(cloud: Cloud, volume_id: str) -> int:
    images = cloud.nodes[cloud.agents[0]].node.storage
    found = await images.list_images(POOL)
    return next(image.size_bytes for image in found if image.image_id == volume_id)


async def test_sizes_come_back_to_the_byte(cloud: Cloud) -> None:
    made = await create(cloud, Volume(name="odd", type=VolumeType.RAW, size=GIB + 1))
    assert made.size == GIB + 1
    assert await size_of_image(cloud, str(made.id)) == GIB + 512
    assert await is_clean(cloud)


async def test_an_os_volume_is_a_clone_of_the_pools_default_template(cloud: Cloud) -> None:
    made = await create(cloud, Volume(name="system", type=VolumeType.OS, size=GIB))
    assert (
        await cloud.value("SELECT template_id FROM volume WHERE id = ?", str(made.id))
        == cloud.template
    )


async def test_what_cannot_be_made_is_a_clear_refusal(cloud: Cloud) -> None:
    before = await cloud.contents()
    raw, system = VolumeType.RAW, VolumeType.OS
    for kind, size, options, said in (
        (VolumeType.ISO, GIB, {}, "type iso cannot be made"),
        (VolumeType.ISO, GIB, {"template": "/etc/shadow"}, "type iso cannot be made"),
        (raw, 0, {}, "size is 0"),
        (raw, GIB, {"template": cloud.template}, "has no template"),
        (raw, GIB, {"pool": new_id()}, "has no storage pool"),
        (raw, GIB, {"pool": "ssd"}, "has no storage pool"),
        (system, GIB, {"template": "/etc/passwd"}, "has no template"),
        (system, MIB, {}, "the image of template"),
    ):
        with pytest.raises(Invalid, match=said):
            await create(cloud, Volume(name="v", type=kind, size=size), **options)
    assert await cloud.contents() == before


async def test_an_empty_reference_is_one_that_was_left_out(cloud: Cloud) -> None:
    volume = Volume(name="system", type=VolumeType.OS, size=GIB)
    assert (await create(cloud, volume, pool="", template="")).name == "system"


async def test_storage_is_bounded_by_the_quota(cloud: Cloud) -> None:
    cloud.project = await cloud.add_second_project("small", storage=2 * GIB)
    made = await cloud.add_volume("one", VolumeType.RAW)
    with pytest.raises(InsufficientResource, match="storage"):
        await cloud.add_volume("two", VolumeType.RAW, 2 * GIB)
    with pytest.raises(InsufficientResource, match="storage"):
        await change(cloud, made, size=3 * GIB)
    assert (await change(cloud, made, size=2 * GIB)).size == 2 * GIB


async def test_a_name_is_taken_once_and_its_case_counts(cloud: Cloud) -> None:
    made = await cloud.add_volume("data", VolumeType.RAW)
    other = await cloud.add_volume("Data", VolumeType.RAW)
    with pytest.raises(Conflict, match=made):
        await cloud.add_volume("data", VolumeType.RAW)
    for changes in ({"name": "data"}, {"name": "data", "size": 2 * GIB}):
        with pytest.raises(Invalid, match=made):
            await change(cloud, other, **changes)


async def test_a_volume_grows_and_never_shrinks(cloud: Cloud) -> None:
    made = await cloud.add_volume("data", VolumeType.RAW)
    assert (await change(cloud, made, size=2 * GIB, name="more")).size == 2 * GIB
    assert await size_of_image(cloud, made) == 2 * GIB
    for wrong in ({"size": GIB}, {"type": VolumeType.OS}):
        with pytest.raises(Invalid):
            await change(cloud, made, **wrong)
    assert await is_clean(cloud)


@pytest.mark.parametrize("local", [False, True])
async def test_a_disk_in_use_grows_under_its_running_guest(cloud: Cloud, *, local: bool) -> None:
    if local:
        cloud.pool = await cloud.add_pool("disk", cloud.agents[:1], "local:///var/lib/pool")
        await cloud.catalog.set_default(STORAGE_POOLS, cloud.pool, REGIONS, cloud.region)
        await cloud.add_template(cloud.pool)
    instance = await cloud.add_instance("web")
    volume = str(await cloud.value("SELECT id FROM volume WHERE instance_id = ?", instance))
    cloud.nodes.methods()
    assert (await change(cloud, volume, size=3 * GIB)).size == 3 * GIB
    assert "compute.grow_disk" in cloud.nodes.methods()
    assert await is_clean(cloud)


async def test_a_rename_touches_no_storage(cloud: Cloud) -> None:
    made = await cloud.add_volume("data", VolumeType.RAW)
    cloud.nodes.methods()
    for agent in cloud.agents:
        cloud.nodes[agent].connected = False
    renamed = await change(cloud, made, name="other", description="text")
    assert (renamed.name, renamed.description) == ("other", "text")
    assert cloud.nodes.methods() == []
    assert await cloud.value("SELECT generation - observed_generation FROM volume") == 0


async def test_a_failed_resize_keeps_the_wish(cloud: Cloud) -> None:
    made = await cloud.add_volume("data", VolumeType.RAW)
    for agent in cloud.agents:
        cloud.nodes[agent].node.faults.fail(method="storage.ensure_image", times=None)
    with pytest.raises(Unavailable, match=r"operation [0-9a-f]{24} failed"):
        await change(cloud, made, size=2 * GIB)
    assert (await cloud.catalog.get(VOLUMES, made)).size == 2 * GIB
    assert await cloud.value("SELECT phase FROM volume") == "error"


async def test_a_lost_image_is_never_replaced_by_an_empty_one(cloud: Cloud) -> None:
    made = await cloud.add_volume("data", VolumeType.RAW)
    await cloud.nodes[cloud.agents[0]].node.storage.ensure_image_absent(POOL, made)
    with pytest.raises(Unavailable, match="is gone"):
        await change(cloud, made, size=2 * GIB)
    images = await cloud.nodes[cloud.agents[0]].node.storage.list_images(POOL)
    assert made not in {image.image_id for image in images}


async def test_a_volume_in_use_is_not_deleted(cloud: Cloud) -> None:
    instance = await cloud.add_instance("web")
    volume = str(await cloud.value("SELECT id FROM volume"))
    with pytest.raises(Conflict, match=instance):
        await cloud.compute.volumes.delete(ASKED, volume)


async def test_a_failed_create_leaves_nothing(cloud: Cloud) -> None:
    for agent in cloud.agents:
        cloud.nodes[agent].node.faults.fail(
            method="storage.ensure_image", times=None, after_effect=True
        )
    with pytest.raises(DriverError):
        await cloud.add_volume("data", VolumeType.RAW)
    assert await cloud.count("volume") == 0
    assert await is_clean(cloud)


async def test_lists_of_a_project_and_region_really_filter(cloud: Cloud) -> None:
    mine = await cloud.add_volume("mine", VolumeType.RAW)
    other = await cloud.add_second_project("other")
    theirs = await cloud.add_volume("theirs", VolumeType.RAW, project=other)
    for project, region, expected in (
        (cloud.project, cloud.region, [mine]),
        (other, cloud.region, [theirs]),
        (cloud.project, new_id(), []),
    ):
        rows = await cloud.store.query(volumes_of_project(project, region))
        assert [row["id"] for row in rows] == expected


async def test_a_deleted_volume_is_gone_and_frees_its_name(cloud: Cloud) -> None:
    made = await cloud.add_volume("data")
    await (await cloud.compute.volumes.delete(ASKED, made)).outcome()
    with pytest.raises(NotFound):
        await cloud.catalog.get(VOLUMES, made)
    await cloud.add_volume("data")
    assert await is_clean(cloud)
