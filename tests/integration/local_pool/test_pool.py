"""What lies in a pool's directory, who may reach it, and what happens to what is half done."""

import hashlib
import os
import sys
from asyncio import timeout
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from appliance.core import command
from appliance.core.errors import (
    Busy,
    Conflict,
    Corrupt,
    InsufficientResource,
    Invalid,
    NotFound,
    Unavailable,
)
from appliance.model.storage import LocalPool, RbdPool, SeedSpec, UnfinishedFile, VolumeSpec
from tests.contract.drivers.rig import MIB, some_id
from tests.contract.drivers.rig_local_pool import local_storage
from tests.integration.local_pool.conftest import Bench, qemu
from tests.support.needs import need
from tests.support.synced import watch_syncs
from tests.support.wait import until
from tests.support.web import Page

PROJECT = Path(__file__).parents[3]
SEED = SeedSpec(image_id=some_id(), user_data="#", meta_data="", network_config="")


@asynccontextmanager
async def opened(path: str, *options: str) -> AsyncGenerator[None]:
    """Have QEMU hold an image open, with the locks that it takes for a domain."""
    holder = await command.start([need("qemu-io"), *options, path])
    assert holder.stdout is not None
    try:
        async with timeout(60):
            await holder.stdout.readuntil(b"qemu-io>")
        yield
    finally:
        await command.kill(holder)


async def write(path: str, text: str, *, at: int = 0) -> None:
    pattern = hex(ord(text))
    await command.run(
        [need("qemu-io"), "-f", "qcow2", "-c", f"write -P {pattern} {at} 512", path], timeout_s=60
    )


class TestSync:
    """Who did it before may have died before it was on the disk."""

    async def test_an_image_that_is_as_it_should_be_is_synced_all_the_same(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        volume = await bench.volume(MIB)
        await bench.storage.ensure_seed(bench.pool, SEED)
        synced = watch_syncs(monkeypatch)
        await bench.volume_again(volume, MIB)
        assert synced == {bench.directory / f"{volume}.volume.qcow2", bench.directory}
        synced.clear()
        await bench.storage.ensure_seed(bench.pool, SEED)
        assert synced == {bench.directory / f"{SEED.image_id}.seed.iso", bench.directory}

    async def test_a_template_that_is_there_is_synced_all_the_same(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        template = some_id()
        await bench.import_page(Page(content=bench.image), template_id=template)
        synced = watch_syncs(monkeypatch)
        await bench.import_page(Page(content=bench.image), template_id=template)
        assert synced == {bench.directory / f"{template}.template.qcow2", bench.directory}

    async def test_the_absence_of_an_image_is_synced_too(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        volume = await bench.volume(MIB)
        await bench.storage.ensure_image_absent(bench.pool, volume)
        synced = watch_syncs(monkeypatch)
        await bench.storage.ensure_image_absent(bench.pool, volume)
        assert synced == {bench.directory}


class TestUnfinished:
    async def test_files_are_listed_and_nothing_else(self, bench: Bench) -> None:
        await bench.volume(MIB)
        assert await bench.storage.list_unfinished(bench.pool) == []
        directory = bench.directory
        image = some_id()
        for name in (f".{image}.new", f"..{image}.part.json.x7", ".notes", "notes.txt"):
            (directory / name).touch()
        assert await bench.storage.list_unfinished(bench.pool) == [
            UnfinishedFile(image_id=image, name=f"..{image}.part.json.x7"),
            UnfinishedFile(image_id=image, name=f".{image}.new"),
        ]


class TestClone:
    async def test_reads_its_template_and_keeps_its_changes_to_itself(self, bench: Bench) -> None:
        template = await bench.import_page(Page(content=bench.image))
        content = await bench.content(template.image_id)
        clone_id = await bench.volume(128 * MIB, template_id=template.image_id)
        assert await bench.content(clone_id) == content
        location = await bench.storage.locate(bench.pool, clone_id)
        await write(location.path, "x")
        assert await bench.content(clone_id) == b"x" * 512 + content[512:]
        assert await bench.content(template.image_id) == content

    @pytest.mark.parametrize("form", ["qcow2", "raw"])
    async def test_names_its_template_relatively_and_with_its_format(
        self, bench: Bench, form: str
    ) -> None:
        raw = bytes(510) + b"\x55\xaa" + bytes(MIB)
        template = await bench.import_page(Page(content=bench.image if form == "qcow2" else raw))
        clone_id = await bench.volume(128 * MIB, template_id=template.image_id)
        location = await bench.storage.locate(bench.pool, clone_id)
        info = msgspec.json.decode(
            await qemu("info", "-f", "qcow2", "--output=json", location.path)
        )
        assert info["backing-filename"] == f"{template.image_id}.template.{form}"
        assert info["backing-filename-format"] == form

    async def test_takes_little_room(self, bench: Bench) -> None:
        template = await bench.import_page(Page(content=bench.image))
        clone_id = await bench.volume(128 * MIB, template_id=template.image_id)
        image = await bench.storage.get_image(bench.pool, clone_id)
        assert image.allocated_bytes < MIB


class TestSnapshot:
    async def test_gives_the_content_back(self, bench: Bench) -> None:
        volume_id, snapshot_id = await bench.volume(MIB), some_id()
        location = await bench.storage.locate(bench.pool, volume_id)
        await write(location.path, "a")
        await bench.storage.ensure_snapshot(bench.pool, volume_id, snapshot_id)
        await write(location.path, "b")
        assert await bench.content(volume_id) == b"b" * 512
        await bench.storage.restore_snapshot(bench.pool, volume_id, snapshot_id)
        assert await bench.content(volume_id) == b"a" * 512

    async def test_works_in_a_directory_of_any_name(self, bench: Bench) -> None:
        bench.pool = LocalPool(directory=f"{bench.pool.directory}, file.driver=null 'ö'")
        volume_id, snapshot_id = await bench.volume(MIB), some_id()
        await bench.storage.ensure_snapshot(bench.pool, volume_id, snapshot_id)
        await bench.storage.restore_snapshot(bench.pool, volume_id, snapshot_id)
        await bench.storage.ensure_snapshot_absent(bench.pool, volume_id, snapshot_id)


class TestOpenImage:
    async def test_is_neither_grown_nor_kept_nor_restored_nor_deleted(self, bench: Bench) -> None:
        volume_id, snapshot_id = await bench.volume(MIB), some_id()
        await bench.storage.ensure_snapshot(bench.pool, volume_id, snapshot_id)
        location = await bench.storage.locate(bench.pool, volume_id)
        bigger = VolumeSpec(image_id=volume_id, size_bytes=2 * MIB)
        async with opened(location.path, "-f", "qcow2"):
            for call in (
                bench.storage.ensure_image(bench.pool, bigger),
                bench.storage.ensure_snapshot(bench.pool, volume_id, some_id()),
                bench.storage.restore_snapshot(bench.pool, volume_id, snapshot_id),
                bench.storage.ensure_snapshot_absent(bench.pool, volume_id, snapshot_id),
                bench.storage.ensure_image_absent(bench.pool, volume_id),
            ):
                with pytest.raises(Busy):
                    await call
            same = VolumeSpec(image_id=volume_id, size_bytes=MIB)
            await bench.storage.ensure_image(bench.pool, same)
            assert await bench.storage.list_snapshots(bench.pool, volume_id) == [snapshot_id]
        await bench.storage.ensure_image(bench.pool, bigger)
        await bench.storage.ensure_image_absent(bench.pool, volume_id)

    async def test_that_is_only_read_is_not_deleted_either(self, bench: Bench) -> None:
        await bench.storage.ensure_seed(bench.pool, SEED)
        location = await bench.storage.locate(bench.pool, SEED.image_id)
        assert location.format == "raw"
        async with opened(location.path, "-r", "-f", "raw"):
            with pytest.raises(Busy):
                await bench.storage.ensure_image_absent(bench.pool, SEED.image_id)
        await bench.storage.ensure_image_absent(bench.pool, SEED.image_id)


class TestPlace:
    async def test_is_made_below_a_root_and_lets_qemu_pass(self, bench: Bench) -> None:
        deep = LocalPool(directory=f"{bench.pool.directory}/b/c")
        assert await bench.storage.list_images(deep) == []
        assert Path(deep.directory).stat().st_mode & 0o777 == 0o711

    @pytest.mark.parametrize(
        "directory", ["/etc", "{root}/../x", "{root}x", "{root}//a", "{root}/./a", "{root}/a/"]
    )
    async def test_elsewhere_is_refused(self, bench: Bench, directory: str) -> None:
        pool = LocalPool(directory=directory.format(root=bench.directory.parent))
        with pytest.raises(Invalid) as refused:
            await bench.storage.list_images(pool)
        assert refused.value.context["field"] == "storage_pool"

    async def test_behind_a_link_is_refused(self, bench: Bench) -> None:
        outside = bench.scratch / "outside"
        outside.mkdir()
        (bench.directory.parent / "link").symlink_to(outside)
        for directory in ("link", "link/deeper"):
            with pytest.raises(Invalid, match="links are not followed"):
                await bench.storage.list_images(
                    LocalPool(directory=f"{bench.directory.parent}/{directory}")
                )
        assert list(outside.iterdir()) == []

    async def test_below_a_root_that_is_not_mounted_is_not_made(self, tmp_path: Path) -> None:
        async with local_storage(tmp_path / "missing") as make:
            with pytest.raises(Unavailable):
                await make().list_images(LocalPool(directory=f"{tmp_path}/missing/a"))
        assert list(tmp_path.iterdir()) == []

    async def test_in_ceph_is_refused_by_name(self, bench: Bench) -> None:
        ceph = RbdPool(pool="rbd", monitor_address="192.0.2.1", monitor_port=3300)
        for call in (
            bench.storage.list_images(ceph),
            bench.storage.locate(ceph, some_id()),
            bench.storage.ensure_image_absent(ceph, some_id()),
        ):
            with pytest.raises(Invalid) as refused:
                await call
            assert refused.value.context["field"] == "storage_pool"


class TestForeignFiles:
    async def test_are_neither_listed_nor_touched(self, bench: Bench) -> None:
        names = [
            "notes.txt",
            f"{some_id()}.qcow2",
            "x.volume.qcow2",
            f"{some_id()}.volume.qcow2.bak",
        ]
        for name in names:
            (bench.directory / name).write_text("mine")
        (bench.directory / f"{some_id()}.volume.qcow2").mkdir()
        assert await bench.storage.list_images(bench.pool) == []
        await bench.storage.ensure_image_absent(bench.pool, some_id())
        assert set(names) < set(bench.names())

    async def test_under_the_name_of_an_image_are_not_followed(self, bench: Bench) -> None:
        image_id = some_id()
        secret = bench.scratch / "secret"
        secret.write_text("secret")
        (bench.directory / f"{image_id}.seed.iso").symlink_to(secret)
        for call in (
            bench.storage.get_image(bench.pool, image_id),
            bench.storage.locate(bench.pool, image_id),
            bench.storage.ensure_image_absent(bench.pool, image_id),
        ):
            with pytest.raises(Conflict, match="no regular file"):
                await call
        assert secret.read_text() == "secret"

    async def test_that_are_damaged_images_are_listed_and_told(self, bench: Bench) -> None:
        volume_id, other_id = await bench.volume(MIB), await bench.volume(MIB)
        path = bench.directory / f"{volume_id}.volume.qcow2"
        path.write_bytes(b"\0" * 1000)
        listed = await bench.storage.list_images(bench.pool)
        assert [(image.image_id, image.size_bytes) for image in listed] == [
            (volume_id, 0),
            (other_id, MIB),
        ]
        with pytest.raises(Corrupt):
            await bench.volume_again(volume_id, MIB)
        await bench.storage.ensure_image_absent(bench.pool, volume_id)


class TestInterruption:
    async def test_by_kill_is_gone_on_from(self, bench: Bench) -> None:
        template_id = some_id()
        page = Page(content=bench.image, stall_at=3 * MIB)
        url = bench.web.put("/image", page)
        killed = await command.start(
            [
                sys.executable, "-m", "tests.integration.local_pool.killed_import",
                bench.directory.parent, url, template_id,
            ],
            environment={"PYTHONPATH": os.fspath(PROJECT)},
        )  # fmt: skip
        try:
            note = bench.directory / f".{template_id}.download.json"
            await until(note.exists, "a note of the download", timeout_s=60)
        finally:
            await command.kill(killed)

        page.stall_at = None
        sha256 = hashlib.sha256(bench.image).hexdigest()
        await bench.import_page(page, template_id=template_id, sha256=sha256)
        assert int(bench.web.asked[-1][1]["range"].strip("bytes=-")) >= MIB
        assert bench.names() == [f"{template_id}.template.qcow2"]

    @pytest.mark.parametrize("repeat", ["import", "absent"])
    async def test_in_every_step_leaves_nothing_for_long(self, bench: Bench, repeat: str) -> None:
        template_id = some_id()
        for left in ("unpacked", "converted", "new", "download"):
            (bench.directory / f".{template_id}.{left}").write_bytes(b"half")
        (bench.directory / f"..{template_id}.download.json.abc").write_bytes(b"half")
        (bench.directory / f".{template_id}.download.json").write_bytes(b"{half")
        assert await bench.storage.list_images(bench.pool) == []
        if repeat == "import":
            await bench.import_page(Page(content=bench.image), template_id=template_id)
            assert bench.names() == [f"{template_id}.template.qcow2"]
        else:
            await bench.storage.ensure_image_absent(bench.pool, template_id)
            assert bench.names() == []

    async def test_of_a_volume_is_made_good_by_a_repeat(self, bench: Bench) -> None:
        volume_id = some_id()
        (bench.directory / f".{volume_id}.new").write_bytes(b"half")
        await bench.volume_again(volume_id, MIB)
        assert bench.names() == [f"{volume_id}.volume.qcow2"]


class TestFullDisk:
    async def test_leaves_nothing_of_what_was_begun(self, small: Bench) -> None:
        free = (await small.storage.get_pool_statistics(small.pool)).available_bytes
        (small.directory.parent / "hog").write_bytes(b"x" * free)
        with pytest.raises(InsufficientResource):
            await small.volume(MIB)
        with pytest.raises(InsufficientResource):
            await small.storage.ensure_seed(small.pool, SEED)
        assert small.names() == []
        (small.directory.parent / "hog").unlink()
        await small.volume(MIB)

    async def test_keeps_the_old_seed(self, small: Bench) -> None:
        await small.storage.ensure_seed(small.pool, SEED)
        free = (await small.storage.get_pool_statistics(small.pool)).available_bytes
        (small.directory.parent / "hog").write_bytes(b"x" * free)
        other = msgspec.structs.replace(SEED, user_data="other")
        with pytest.raises(InsufficientResource):
            await small.storage.ensure_seed(small.pool, other)
        image = await small.storage.ensure_seed(small.pool, SEED)
        assert small.names() == [f"{SEED.image_id}.seed.iso"]
        assert image == await small.storage.get_image(small.pool, SEED.image_id)


async def test_what_is_not_there_is_told(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await bench.storage.get_image(bench.pool, some_id())
