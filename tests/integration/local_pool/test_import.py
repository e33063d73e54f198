"""Templates from a real web server, through real qemu-img."""

import asyncio
import gzip
import hashlib
import lzma
import os
import sys

import pytest

from appliance.core.errors import Conflict, Invalid, Unavailable
from appliance.model.storage import ImportProgress, SeedSpec
from tests.contract.drivers.rig import MIB, some_id
from tests.integration.local_pool.conftest import Bench, qemu
from tests.support.faults import What, Where, breaks
from tests.support.wait import until
from tests.support.web import Page

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BOOT_SECTOR = bytes(510) + b"\x55\xaa"


def raw_image(length: int = 8 * MIB) -> bytes:
    """Return a disk with a boot sector, something in its middle, and zeros."""
    middle = b"kowabunga" * 10_000
    return (BOOT_SECTOR + bytes(3 * MIB) + middle).ljust(length, b"\0")


class TestForms:
    async def test_qcow2_is_copied_with_its_content(self, bench: Bench) -> None:
        image = await bench.import_page(Page(content=bench.image))
        (bench.scratch / "source.qcow2").write_bytes(bench.image)
        await qemu(
            "convert", "-f", "qcow2", "-O", "raw",
            bench.scratch / "source.qcow2", bench.scratch / "source.raw",
        )  # fmt: skip
        expected = (bench.scratch / "source.raw").read_bytes().rstrip(b"\0")
        assert await bench.content(image.image_id) == expected
        assert bench.names() == [f"{image.image_id}.template.qcow2"]

    async def test_raw_is_kept_as_it_is_and_sparse(self, bench: Bench) -> None:
        content = raw_image(64 * MIB)
        image = await bench.import_page(Page(content=content))
        assert bench.names() == [f"{image.image_id}.template.raw"]
        assert image.size_bytes == len(content)
        assert image.allocated_bytes < 2 * MIB
        assert await bench.content(image.image_id) == content.rstrip(b"\0")

    async def test_raw_is_filled_up_to_a_sector(self, bench: Bench) -> None:
        image = await bench.import_page(Page(content=raw_image()[:-100]))
        assert image.size_bytes == 8 * MIB

    @pytest.mark.parametrize("form", ["raw", "qcow2"])
    @pytest.mark.parametrize("codec", ["gzip", "xz", "zstd", "two xz", "two gzip"])
    async def test_compressed_is_decompressed(self, bench: Bench, form: str, codec: str) -> None:
        content = raw_image() if form == "raw" else bench.image
        packed = {
            "gzip": lambda: gzip.compress(content),
            "xz": lambda: lzma.compress(content),
            "zstd": lambda: zstd.compress(content),
            "two xz": lambda: lzma.compress(content[:MIB]) + lzma.compress(content[MIB:]),
            "two gzip": lambda: gzip.compress(content[:MIB]) + gzip.compress(content[MIB:]),
        }[codec]()
        image = await bench.import_page(
            Page(content=packed), sha256=hashlib.sha256(packed).hexdigest()
        )
        assert bench.names() == [f"{image.image_id}.template.{form}"]
        if form == "raw":
            assert await bench.content(image.image_id) == content.rstrip(b"\0")

    async def test_the_end_may_be_told_by_chunks(self, bench: Bench) -> None:
        await bench.import_page(Page(content=bench.image, framing="chunked"))

    async def test_an_end_that_is_not_told_needs_a_checksum(self, bench: Bench) -> None:
        page = Page(content=bench.image, framing="close")
        with pytest.raises(Invalid, match="checksum"):
            await bench.import_page(page)
        await bench.import_page(page, sha256=hashlib.sha256(bench.image).hexdigest())

    async def test_only_its_owner_reads_the_file(self, bench: Bench) -> None:
        before = os.umask(0)
        try:
            await bench.import_page(Page(content=bench.image))
            await bench.volume(MIB)
            await bench.storage.ensure_seed(
                bench.pool,
                SeedSpec(image_id=some_id(), user_data="", meta_data="", network_config=""),
            )
        finally:
            os.umask(before)
        assert {path.stat().st_mode & 0o777 for path in bench.directory.iterdir()} == {0o600}
        assert len(bench.names()) == 3


@breaks(
    What.TEMPLATE,
    "template whose download breaks off, and that changes before it goes on",
    expected="it goes on where it was, or begins anew, but never joins parts of two versions",
    where=Where.HOST,
)
class TestResume:
    async def test_goes_on_where_the_server_hung_up(self, bench: Bench) -> None:
        template_id = some_id()
        with pytest.raises(Unavailable):
            await bench.import_page(
                Page(content=bench.image, cut_at=2 * MIB + 5), template_id=template_id
            )
        assert bench.names() == [f".{template_id}.download", f".{template_id}.download.json"]

        told: list[ImportProgress] = []
        bench.storage = bench.make()  # also over a restart
        await bench.import_page(
            Page(content=bench.image),
            template_id=template_id,
            sha256=hashlib.sha256(bench.image).hexdigest(),
            progress=told.append,
        )
        assert bench.web.asked[-1][1]["range"] == f"bytes={2 * MIB + 5}-"
        assert told[0].done_bytes > 2 * MIB
        assert bench.names() == [f"{template_id}.template.qcow2"]

    @pytest.mark.parametrize(
        "changed",
        [
            Page(validators={"ETag": '"two"'}),
            Page(validators={"ETag": 'W/"one"'}),
            Page(validators={"Last-Modified": "Mon, 23 Nov 2026 08:00:00 GMT"}),
            Page(validators={}),
            Page(ranges=False),
            Page(status=206, headers={"Content-Range": "bytes 7-9/10"}, ranges=False),
            Page(status=416, ranges=False),
        ],
        ids=["etag", "weak", "date", "none", "no ranges", "another range", "416"],
    )
    async def test_begins_anew_when_the_source_changed(self, bench: Bench, changed: Page) -> None:
        template_id = some_id()
        first = raw_image()
        with pytest.raises(Unavailable):
            await bench.import_page(Page(content=first, cut_at=4 * MIB), template_id=template_id)
        second = BOOT_SECTOR + b"second".ljust(8 * MIB, b"!")
        changed.content = second
        if changed.status != 200:
            # It answers what was asked for wrongly, and the question for the whole rightly.
            with pytest.raises(Invalid):
                await bench.import_page(changed, template_id=template_id)
            assert "range" not in bench.web.asked[-1][1]
            return
        await bench.import_page(
            changed, template_id=template_id, sha256=hashlib.sha256(second).hexdigest()
        )
        assert await bench.content(template_id) == second

    async def test_a_date_is_enough_to_go_on(self, bench: Bench) -> None:
        page = Page(
            content=bench.image,
            validators={"Last-Modified": "Mon, 23 Nov 2026 08:00:00 GMT"},
            cut_at=2 * MIB,
        )
        template_id = some_id()
        with pytest.raises(Unavailable):
            await bench.import_page(page, template_id=template_id)
        page.cut_at = None
        await bench.import_page(page, template_id=template_id)
        assert bench.web.asked[-1][1]["range"] == f"bytes={2 * MIB}-"

    async def test_nothing_is_asked_again_that_is_whole(self, bench: Bench) -> None:
        template_id = some_id()

        def interrupt(progress: ImportProgress) -> None:
            if progress.done_bytes == progress.total_bytes:
                work.cancel()

        work = asyncio.get_running_loop().create_task(
            bench.import_page(
                Page(content=bench.image), template_id=template_id, progress=interrupt
            )
        )
        with pytest.raises(asyncio.CancelledError):
            await work
        requests = len(bench.web.asked)
        await bench.import_page(Page(status=404), template_id=template_id)
        assert len(bench.web.asked) == requests
        assert bench.names() == [f"{template_id}.template.qcow2"]

    async def test_another_url_takes_nothing_over(self, bench: Bench) -> None:
        template_id = some_id()
        with pytest.raises(Unavailable):
            await bench.import_page(
                Page(content=bench.image, cut_at=2 * MIB), template_id=template_id
            )
        source = bench.source(
            bench.web.put("/other", Page(content=bench.image)), template_id=template_id
        )
        await bench.storage.import_template(bench.pool, source, lambda _: None)
        assert "range" not in bench.web.asked[-1][1]

    async def test_deleting_removes_what_was_kept(self, bench: Bench) -> None:
        template_id = some_id()
        with pytest.raises(Unavailable):
            await bench.import_page(
                Page(content=bench.image, cut_at=2 * MIB), template_id=template_id
            )
        await bench.storage.ensure_image_absent(bench.pool, template_id)
        assert bench.names() == []


@breaks(
    What.TEMPLATE,
    "template whose server stalls",
    expected="given up after a minute without a byte, and goes on later; holds up nothing else",
    where=Where.HOST,
)
class TestStall:
    async def test_holds_up_no_other_call(self, bench: Bench) -> None:
        stalled = asyncio.get_running_loop().create_task(
            bench.import_page(Page(content=bench.image, stall_at=2 * MIB))
        )
        await bench.web.stalled.wait()
        volume_id = await bench.volume(MIB)
        await bench.storage.ensure_snapshot(bench.pool, volume_id, some_id())
        await bench.storage.get_pool_statistics(bench.pool)
        await bench.storage.ensure_seed(
            bench.pool, SeedSpec(image_id=some_id(), user_data="", meta_data="", network_config="")
        )
        assert len(await bench.storage.list_images(bench.pool)) == 2
        quick = bench.source(bench.web.put("/quick", Page(content=bench.image)))
        await bench.storage.import_template(bench.pool, quick, lambda _: None)
        assert not stalled.done()
        stalled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stalled

    @pytest.mark.parametrize("stall_s", [3.0])  # a busy machine must not look stalled
    async def test_is_given_up_and_goes_on_later(self, bench: Bench) -> None:
        template_id = some_id()
        with pytest.raises(Unavailable, match="sent nothing"):
            await bench.import_page(
                Page(content=bench.image, stall_at=2 * MIB), template_id=template_id
            )
        assert await bench.storage.list_images(bench.pool) == []
        await bench.import_page(Page(content=bench.image), template_id=template_id)
        assert "range" in bench.web.asked[-1][1]

    async def test_the_same_import_twice_downloads_once(self, bench: Bench) -> None:
        template_id = some_id()
        page = Page(content=bench.image)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(bench.import_page(page, template_id=template_id))
        assert len(bench.web.asked) == 1


async def test_an_import_into_a_volume_is_refused_before_anything_is_asked(bench: Bench) -> None:
    volume_id = await bench.volume(MIB)
    with pytest.raises(Conflict):
        await bench.import_page(Page(content=bench.image), template_id=volume_id)
    assert bench.web.asked == []
    await until(lambda: bench.names() == [f"{volume_id}.volume.qcow2"], "only the volume")
