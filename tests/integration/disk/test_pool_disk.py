"""A local pool whose disk is full, read-only, or not there: nothing is lost and nothing taken."""

import shutil
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.core.errors import DriverError, InsufficientResource, KowabungaError, Unavailable
from appliance.drivers.local_pool.known_pools import MARK
from appliance.drivers.local_pool.storage import LocalPoolStorage
from appliance.model.storage import LocalPool, SeedSpec, TemplateSource, VolumeSpec
from tests.contract.drivers.rig import MIB, ignore, some_id
from tests.contract.drivers.rig_local_pool import LOOPBACK, local_storage
from tests.support.faults import What, Where, breaks
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.web import Page, Web, open_web

IMAGE = bytes(510) + b"\x55\xaa" + b"A" * MIB
SEED = SeedSpec(image_id=some_id(), user_data="#" * 20_000, meta_data="", network_config="")
UNMOUNTED = breaks(
    What.DISK,
    "disk of a local pool unmounted, so that an empty directory is in its place",
    expected="each call is refused and says what to mount; nothing is made or deleted, an alarm"
    " tells it; with the disk back everything is as before",
    where=Where.HOST,
)
FULL = breaks(
    What.DISK,
    "disk of a local pool full, or out of inodes, while disks, seeds and templates are made",
    expected="each is refused as out of room and leaves nothing; once there is space it is made",
    where=Where.HOST,
)
READ_ONLY = breaks(
    What.DISK,
    "disk of a local pool read-only",
    expected="changes are refused with the file and the next step, what is there can be read",
    where=Where.HOST,
)


@dataclass
class Bench:
    make: Callable[[], LocalPoolStorage]
    storage: LocalPoolStorage
    disk: SmallDisk
    pool: LocalPool
    web: Web

    def names(self) -> list[str]:
        directory = Path(self.pool.directory)
        return sorted(file.name for file in directory.iterdir() if file.name != MARK)

    async def import_image(self, template_id: str = "") -> str:
        url = self.web.put("/image", Page(content=IMAGE))
        source = TemplateSource(
            template_id=template_id or some_id(), url=url, allowed_sources=LOOPBACK
        )
        return (await self.storage.import_template(self.pool, source, ignore)).image_id

    async def make_volume(self, image_id: str = "") -> str:
        spec = VolumeSpec(image_id=image_id or some_id(), size_bytes=MIB)
        return (await self.storage.ensure_image(self.pool, spec)).image_id

    async def make_seed(self) -> str:
        return (await self.storage.ensure_seed(self.pool, SEED)).image_id


@pytest_asyncio.fixture(params=["", "/a"], ids=["root", "below"])
async def bench(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[Bench]:
    root = tmp_path / "pools"
    with small_disk(root, "32m") as disk:
        async with local_storage(root) as make, open_web() as web:
            pool = LocalPool(directory=f"{root}{request.param}")
            yield Bench(make, make(), disk, pool, web)


async def refused(work: Callable[[], object], kind: type[KowabungaError]) -> KowabungaError:
    with pytest.raises(kind) as error:
        await work()  # type: ignore[misc]
    return error.value


@UNMOUNTED
async def test_a_pool_that_is_not_mounted_is_not_taken_for_an_empty_one(bench: Bench) -> None:
    template, volume = await bench.import_image(), await bench.make_volume()
    before = bench.names()
    storage, pool = bench.storage, bench.pool
    with small_disk(bench.disk.path, "1m") as bare:
        for made in (storage, bench.make()):  # also over a restart
            bench.storage = made
            for work in (
                lambda: made.list_images(pool),  # noqa: B023
                lambda: made.get_image(pool, volume),  # noqa: B023
                lambda: made.get_pool_statistics(pool),  # noqa: B023
                lambda: made.ensure_image_absent(pool, volume),  # noqa: B023
                bench.import_image,
                bench.make_volume,
                bench.make_seed,
            ):
                told = await refused(work, Unavailable)
                assert pool.directory in told.detail
                assert "mount" in str(told.hint)
        assert bare.names() == []
    assert bench.names() == before
    assert [image.image_id for image in await bench.storage.list_images(pool)] == sorted(
        [template, volume]
    )


@UNMOUNTED
async def test_a_new_disk_in_the_place_of_a_pool_is_taken_when_somebody_says_so(
    bench: Bench,
) -> None:
    await bench.make_volume()
    with small_disk(bench.disk.path, "1m"):
        told = await refused(lambda: bench.storage.list_images(bench.pool), Unavailable)
        command = str(told.hint).rpartition(": ")[2]
        assert command == (
            f"mkdir -p {bench.pool.directory} && touch {bench.pool.directory}/{MARK}"
        )
        Path(bench.pool.directory).mkdir(exist_ok=True)
        Path(bench.pool.directory, MARK).touch()
        assert await bench.storage.list_images(bench.pool) == []


@UNMOUNTED
async def test_a_node_without_memory_takes_what_is_there(bench: Bench) -> None:
    volume = await bench.make_volume()
    memory = bench.disk.path.with_name("known-pools.json")
    for content in (None, b"[damaged"):
        memory.unlink() if content is None else memory.write_bytes(content)
        (image,) = await bench.make().list_images(bench.pool)
        assert image.image_id == volume


@FULL
@pytest.mark.parametrize("lack", [SmallDisk.fill, SmallDisk.fill_inodes])
async def test_what_finds_no_room_leaves_nothing(
    bench: Bench, lack: Callable[[SmallDisk], None]
) -> None:
    volume = await bench.make_volume()
    if lack is SmallDisk.fill_inodes:
        bench.disk.remount("nr_inodes=100")
    lack(bench.disk)
    before = bench.names()
    for work in (bench.import_image, bench.make_volume, bench.make_seed):
        told = await refused(work, InsufficientResource)
        assert "add storage" in str(told.hint)
        assert bench.names() == before
    assert [image.image_id for image in await bench.storage.list_images(bench.pool)] == [volume]
    await bench.storage.ensure_image_absent(bench.pool, volume)  # room can be made from here
    bench.disk.relieve()
    for work in (bench.import_image, bench.make_volume, bench.make_seed):
        await work()
    assert len(await bench.storage.list_images(bench.pool)) == 3


@FULL
async def test_a_volume_that_finds_no_room_to_grow_stays_what_it_was(bench: Bench) -> None:
    volume = await bench.make_volume()
    bench.disk.fill()
    # So large that the tables of the image must grow, too.
    grown = VolumeSpec(image_id=volume, size_bytes=28 * MIB)
    huge = VolumeSpec(image_id=volume, size_bytes=shutil.disk_usage(bench.disk.path).total)
    for spec in (grown, huge):
        try:
            await bench.storage.ensure_image(bench.pool, spec)
        except InsufficientResource:
            image = await bench.storage.get_image(bench.pool, volume)
            assert image.size_bytes < spec.size_bytes
    bench.disk.relieve()
    assert (await bench.storage.ensure_image(bench.pool, huge)).size_bytes == huge.size_bytes


@READ_ONLY
async def test_a_pool_that_cannot_be_written_can_be_read(bench: Bench) -> None:
    volume = await bench.make_volume()
    bench.disk.remount("ro")
    for work in (
        bench.import_image,
        bench.make_volume,
        bench.make_seed,
        lambda: bench.storage.ensure_image_absent(bench.pool, volume),
    ):
        told = await refused(work, DriverError)
        assert "ead-only file system" in told.detail
        assert "mount it for writing" in str(told.hint)
    assert (await bench.storage.get_image(bench.pool, volume)).size_bytes == MIB
    bench.disk.remount("rw")
    await bench.import_image()
    await bench.storage.ensure_image_absent(bench.pool, volume)
    assert len(bench.names()) == 1
