"""What every StorageDriver does."""

import asyncio

import msgspec
import pytest

from appliance.core.errors import Conflict, InsufficientResource, Invalid, NotFound
from appliance.model.storage import ImagePurpose, ImportProgress, SeedSpec, seed_digest
from tests.contract.drivers.rig import MIB, StorageRig, ignore, some_id

SEED = SeedSpec(
    image_id="f" * 24,
    user_data="#cloud-config\nhostname: web\n",
    meta_data="instance-id: one\n",
    network_config="version: 2\n",
)


@pytest.fixture
def rig(storage_rig: StorageRig) -> StorageRig:
    return storage_rig


async def image_ids(rig: StorageRig) -> list[str]:
    return [image.image_id for image in await rig.storage.list_images(rig.storage_pool)]


class TestImport:
    async def test_keeps_the_template_with_its_virtual_size(self, rig: StorageRig) -> None:
        template_id = await rig.template()
        image = await rig.storage.get_image(rig.storage_pool, template_id)
        assert image.purpose is ImagePurpose.TEMPLATE
        assert image.size_bytes == rig.template_bytes
        assert image.template_id is None

    async def test_tells_how_far_it_is_up_to_the_end(self, rig: StorageRig) -> None:
        told: list[ImportProgress] = []
        source = rig.source(some_id())
        await rig.storage.import_template(rig.storage_pool, source, told.append)
        done = [progress.done_bytes for progress in told]
        assert done == sorted(done)
        assert told[-1].template_id == source.template_id
        assert told[-1].total_bytes in (None, done[-1])

    async def test_leaves_a_template_that_exists_alone(self, rig: StorageRig) -> None:
        template_id = await rig.template()
        before = await rig.storage.get_image(rig.storage_pool, template_id)
        told: list[ImportProgress] = []
        source = rig.source(template_id)
        again = await rig.storage.import_template(rig.storage_pool, source, told.append)
        assert again == before
        assert told == []

    async def test_accepts_the_right_checksum(self, rig: StorageRig) -> None:
        source = rig.source(some_id(), sha256=rig.template_sha256)
        await rig.storage.import_template(rig.storage_pool, source, ignore)
        assert await image_ids(rig) == [source.template_id]

    async def test_refuses_a_wrong_checksum_and_keeps_nothing(self, rig: StorageRig) -> None:
        source = rig.source(some_id(), sha256="0" * 64)
        with pytest.raises(Invalid) as refused:
            await rig.storage.import_template(rig.storage_pool, source, ignore)
        assert refused.value.context["field"] == "sha256"
        assert await image_ids(rig) == []

    async def test_refuses_a_url_that_leads_nowhere(self, rig: StorageRig) -> None:
        source = msgspec.structs.replace(rig.source(some_id()), url=rig.missing_url)
        with pytest.raises(Invalid) as refused:
            await rig.storage.import_template(rig.storage_pool, source, ignore)
        assert refused.value.context["field"] == "url"
        assert await image_ids(rig) == []

    async def test_refuses_the_name_of_another_kind_of_image(self, rig: StorageRig) -> None:
        volume_id = await rig.volume()
        with pytest.raises(Conflict):
            await rig.storage.import_template(rig.storage_pool, rig.source(volume_id), ignore)

    async def test_goes_on_where_an_interrupted_one_stopped(self, rig: StorageRig) -> None:
        source = rig.source(some_id())
        first: list[ImportProgress] = []

        def interrupt(progress: ImportProgress) -> None:
            first.append(progress)
            work.cancel()

        work = asyncio.create_task(rig.storage.import_template(rig.storage_pool, source, interrupt))
        with pytest.raises(asyncio.CancelledError):
            await work
        assert await image_ids(rig) == []

        second: list[ImportProgress] = []
        await rig.storage.import_template(rig.storage_pool, source, second.append)
        assert second[0].done_bytes > first[0].done_bytes
        assert await image_ids(rig) == [source.template_id]

    async def test_takes_room_in_the_pool(self, rig: StorageRig) -> None:
        before = await rig.storage.get_pool_statistics(rig.storage_pool)
        await rig.template()
        after = await rig.storage.get_pool_statistics(rig.storage_pool)
        assert after.allocated_bytes > before.allocated_bytes
        assert 0 <= after.available_bytes <= after.capacity_bytes


class TestVolume:
    async def test_has_the_size_asked_for_in_whole_sectors(self, rig: StorageRig) -> None:
        even = await rig.ensure(some_id(), 8 * MIB)
        odd = await rig.ensure(some_id(), 8 * MIB + 1)
        assert even.size_bytes == 8 * MIB
        assert odd.size_bytes == 8 * MIB + 512
        assert even.purpose is ImagePurpose.VOLUME

    @pytest.mark.parametrize("size_bytes", [8 * MIB, 8 * MIB + 1])
    async def test_ensured_twice_is_the_same(self, rig: StorageRig, size_bytes: int) -> None:
        image_id = some_id()
        assert await rig.ensure(image_id, size_bytes) == await rig.ensure(image_id, size_bytes)
        assert await image_ids(rig) == [image_id]

    async def test_grows(self, rig: StorageRig) -> None:
        image_id = await rig.volume(8 * MIB)
        assert (await rig.ensure(image_id, 16 * MIB)).size_bytes == 16 * MIB
        image = await rig.storage.get_image(rig.storage_pool, image_id)
        assert image.size_bytes == 16 * MIB

    async def test_never_shrinks(self, rig: StorageRig) -> None:
        image_id = await rig.volume(16 * MIB)
        with pytest.raises(Conflict):
            await rig.ensure(image_id, 8 * MIB)
        image = await rig.storage.get_image(rig.storage_pool, image_id)
        assert image.size_bytes == 16 * MIB

    async def test_larger_than_the_pool_is_refused(self, rig: StorageRig) -> None:
        pool = await rig.storage.get_pool_statistics(rig.storage_pool)
        image_id = await rig.volume()
        for larger in (some_id(), image_id):
            with pytest.raises(InsufficientResource):
                await rig.ensure(larger, pool.capacity_bytes + 512)
        assert await image_ids(rig) == [image_id]

    async def test_refuses_the_name_of_a_template(self, rig: StorageRig) -> None:
        template_id = await rig.template()
        with pytest.raises(Conflict):
            await rig.ensure(template_id, rig.template_bytes)


class TestClone:
    async def test_knows_its_template(self, rig: StorageRig) -> None:
        template_id = await rig.template()
        clone = await rig.ensure(some_id(), rig.template_bytes, template_id=template_id)
        assert clone.template_id == template_id
        assert clone.size_bytes == rig.template_bytes
        assert clone in await rig.storage.list_images(rig.storage_pool)

    async def test_may_be_larger_than_its_template_and_grow(self, rig: StorageRig) -> None:
        template_id = await rig.template()
        clone_id = await rig.volume(2 * rig.template_bytes, template_id=template_id)
        grown = await rig.ensure(clone_id, 3 * rig.template_bytes, template_id=template_id)
        assert grown.size_bytes == 3 * rig.template_bytes

    async def test_smaller_than_its_template_is_refused(self, rig: StorageRig) -> None:
        template_id = await rig.template()
        with pytest.raises(Invalid) as refused:
            await rig.ensure(some_id(), rig.template_bytes - 512, template_id=template_id)
        assert refused.value.context["field"] == "size_bytes"
        assert await image_ids(rig) == [template_id]

    async def test_of_what_is_no_template_is_refused(self, rig: StorageRig) -> None:
        volume_id = await rig.volume()
        for parent in (some_id(), volume_id):
            with pytest.raises(Invalid) as refused:
                await rig.ensure(some_id(), rig.template_bytes, template_id=parent)
            assert refused.value.context["field"] == "template_id"
        assert await image_ids(rig) == [volume_id]

    async def test_never_changes_its_template(self, rig: StorageRig) -> None:
        first, second = await rig.template(), await rig.template()
        clone_id = await rig.volume(rig.template_bytes, template_id=first)
        for other in (second, None):
            with pytest.raises(Conflict):
                await rig.ensure(clone_id, rig.template_bytes, template_id=other)

    async def test_keeps_its_template_from_being_deleted(self, rig: StorageRig) -> None:
        template_id = await rig.template()
        clone_id = await rig.volume(rig.template_bytes, template_id=template_id)
        with pytest.raises(Conflict):
            await rig.storage.ensure_image_absent(rig.storage_pool, template_id)
        assert await image_ids(rig) == sorted([template_id, clone_id])

        await rig.storage.ensure_image_absent(rig.storage_pool, clone_id)
        await rig.storage.ensure_image_absent(rig.storage_pool, template_id)
        assert await image_ids(rig) == []


class TestSeed:
    async def test_is_identified_by_its_content(self, rig: StorageRig) -> None:
        image = await rig.storage.ensure_seed(rig.storage_pool, SEED)
        assert image.purpose is ImagePurpose.SEED
        assert image.seed_sha256 == seed_digest(SEED)
        assert image == await rig.storage.get_image(rig.storage_pool, SEED.image_id)

    async def test_ensured_twice_is_the_same(self, rig: StorageRig) -> None:
        first = await rig.storage.ensure_seed(rig.storage_pool, SEED)
        assert await rig.storage.ensure_seed(rig.storage_pool, SEED) == first

    @pytest.mark.parametrize("part", ["user_data", "meta_data", "network_config"])
    async def test_is_rewritten_when_a_part_changes(self, rig: StorageRig, part: str) -> None:
        await rig.storage.ensure_seed(rig.storage_pool, SEED)
        other = msgspec.structs.replace(SEED, **{part: "#\n" * 100_000})
        image = await rig.storage.ensure_seed(rig.storage_pool, other)
        assert image.seed_sha256 == seed_digest(other)
        assert image.size_bytes > 200_000
        assert await rig.storage.list_images(rig.storage_pool) == [image]

    async def test_refuses_the_name_of_a_volume(self, rig: StorageRig) -> None:
        volume_id = await rig.volume()
        with pytest.raises(Conflict):
            await rig.storage.ensure_seed(
                rig.storage_pool, msgspec.structs.replace(SEED, image_id=volume_id)
            )

    def test_is_never_shown_in_a_log(self) -> None:
        assert "hostname" not in repr(SEED)
        assert "hostname" not in str([SEED])


class TestSnapshot:
    async def test_of_a_volume_is_kept_once_under_its_id(self, rig: StorageRig) -> None:
        image_id, snapshots = await rig.volume(), sorted([some_id(), some_id()])
        assert await rig.storage.list_snapshots(rig.storage_pool, image_id) == []
        for snapshot_id in (*reversed(snapshots), *snapshots):
            await rig.storage.ensure_snapshot(rig.storage_pool, image_id, snapshot_id)
        assert await rig.storage.list_snapshots(rig.storage_pool, image_id) == snapshots
        assert await image_ids(rig) == [image_id]

    async def test_restored_gives_back_the_size_and_stays(self, rig: StorageRig) -> None:
        image_id, snapshot_id = await rig.volume(8 * MIB), some_id()
        await rig.storage.ensure_snapshot(rig.storage_pool, image_id, snapshot_id)
        await rig.ensure(image_id, 16 * MIB)
        for _ in range(2):
            image = await rig.storage.restore_snapshot(rig.storage_pool, image_id, snapshot_id)
            assert image.size_bytes == 8 * MIB
            assert image == await rig.storage.get_image(rig.storage_pool, image_id)
        assert await rig.storage.list_snapshots(rig.storage_pool, image_id) == [snapshot_id]

    async def test_of_a_clone_keeps_it_a_clone(self, rig: StorageRig) -> None:
        template_id, snapshot_id = await rig.template(), some_id()
        clone_id = await rig.volume(rig.template_bytes, template_id=template_id)
        await rig.storage.ensure_snapshot(rig.storage_pool, clone_id, snapshot_id)
        image = await rig.storage.restore_snapshot(rig.storage_pool, clone_id, snapshot_id)
        assert image.template_id == template_id

    async def test_is_deleted_alone_or_with_its_volume(self, rig: StorageRig) -> None:
        image_id, snapshot_id, other_id = await rig.volume(), some_id(), some_id()
        for each in (snapshot_id, other_id):
            await rig.storage.ensure_snapshot(rig.storage_pool, image_id, each)
        for _ in range(2):
            await rig.storage.ensure_snapshot_absent(rig.storage_pool, image_id, snapshot_id)
        assert await rig.storage.list_snapshots(rig.storage_pool, image_id) == [other_id]

        await rig.storage.ensure_image_absent(rig.storage_pool, image_id)
        await rig.storage.ensure_snapshot_absent(rig.storage_pool, image_id, other_id)
        await rig.ensure(image_id, 8 * MIB)
        assert await rig.storage.list_snapshots(rig.storage_pool, image_id) == []

    async def test_that_does_not_exist_is_told(self, rig: StorageRig) -> None:
        image_id = await rig.volume()
        with pytest.raises(NotFound):
            await rig.storage.restore_snapshot(rig.storage_pool, image_id, some_id())
        for call in (
            rig.storage.ensure_snapshot(rig.storage_pool, some_id(), some_id()),
            rig.storage.restore_snapshot(rig.storage_pool, some_id(), some_id()),
            rig.storage.list_snapshots(rig.storage_pool, some_id()),
        ):
            with pytest.raises(NotFound):
                await call

    async def test_of_a_template_is_refused(self, rig: StorageRig) -> None:
        template_id = await rig.template()
        with pytest.raises(Conflict):
            await rig.storage.ensure_snapshot(rig.storage_pool, template_id, some_id())


class TestAbsence:
    async def test_of_what_was_never_there_is_fine(self, rig: StorageRig) -> None:
        await rig.storage.ensure_image_absent(rig.storage_pool, some_id())

    async def test_of_every_purpose(self, rig: StorageRig) -> None:
        await rig.storage.ensure_seed(rig.storage_pool, SEED)
        for image_id in (await rig.template(), await rig.volume(), SEED.image_id):
            await rig.storage.ensure_image_absent(rig.storage_pool, image_id)
            await rig.storage.ensure_image_absent(rig.storage_pool, image_id)
            with pytest.raises(NotFound):
                await rig.storage.get_image(rig.storage_pool, image_id)
        assert await image_ids(rig) == []

    async def test_gives_the_room_back(self, rig: StorageRig) -> None:
        before = await rig.storage.get_pool_statistics(rig.storage_pool)
        await rig.storage.ensure_image_absent(rig.storage_pool, await rig.template())
        after = await rig.storage.get_pool_statistics(rig.storage_pool)
        assert after.allocated_bytes == before.allocated_bytes


async def test_an_image_is_located_while_it_is_there(rig: StorageRig) -> None:
    image_id = await rig.volume()
    location = await rig.storage.locate(rig.storage_pool, image_id)
    assert location.path.startswith("/")
    assert location.format in ("qcow2", "raw")
    await rig.storage.ensure_image_absent(rig.storage_pool, image_id)
    with pytest.raises(NotFound):
        await rig.storage.locate(rig.storage_pool, image_id)


async def test_images_are_listed_by_id(rig: StorageRig) -> None:
    made = [await rig.volume(), await rig.template(), await rig.volume()]
    await rig.storage.ensure_seed(rig.storage_pool, SEED)
    assert await image_ids(rig) == sorted([*made, SEED.image_id])


async def test_images_are_listed_in_pages(rig: StorageRig) -> None:
    made = sorted([await rig.volume() for _ in range(5)])
    pages: list[list[str]] = []
    after = ""
    while not pages or len(pages[-1]) == 2:
        page = await rig.storage.list_images(rig.storage_pool, after=after, limit=2)
        pages.append([image.image_id for image in page])
        after = pages[-1][-1]
    assert pages == [made[:2], made[2:4], made[4:]]


async def test_images_outlast_the_agent(rig: StorageRig) -> None:
    await rig.volume(64 * MIB, template_id=await rig.template())
    await rig.storage.ensure_seed(rig.storage_pool, SEED)
    before = await rig.storage.list_images(rig.storage_pool)
    assert await rig.reopen().storage.list_images(rig.storage_pool) == before
