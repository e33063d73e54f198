"""Sources that are wrong, malicious or too large: each ends in a clear error, nothing is left."""

import gzip
import hashlib
import shutil
import ssl
import struct
from pathlib import Path

import msgspec
import pytest

from appliance.core.clock import SystemClock
from appliance.core.errors import (
    InsufficientResource,
    Invalid,
    KowabungaError,
    Unavailable,
)
from appliance.core.x509 import issue_server_certificate, make_authority
from appliance.drivers.local_pool.qcow2 import MAX_VIRTUAL_BYTES
from tests.contract.drivers.rig import MIB, ignore, some_id
from tests.contract.drivers.rig_local_pool import local_storage
from tests.integration.local_pool.conftest import Bench, qemu
from tests.support.faults import What, Where, breaks
from tests.support.small_disk import SmallDisk
from tests.support.web import Page, open_web

HTML = b"<!DOCTYPE html><html><body>Please log in" + b" to the portal" * 1000 + b"</body></html>"


def _row(fault: str, expected: str) -> pytest.MarkDecorator:
    return breaks(What.TEMPLATE, fault, expected=expected, where=Where.HOST)


async def refused(
    bench: Bench, page: Page, kind: type[KowabungaError], *, sha256: str | None = None
) -> str:
    """Import in vain; return what was said."""
    with pytest.raises(kind) as error:
        await bench.import_page(page, sha256=sha256)
    assert bench.names() == []
    return error.value.detail


def patched(image: bytes, offset: int, form: str, value: int) -> bytes:
    changed = bytearray(image)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


def certificate(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what serves as localhost, and what trusts that."""
    authority = make_authority("test")
    issued = issue_server_certificate(authority, ["localhost"], SystemClock().now_ms())
    certificate_file, key_file = directory / "server.pem", directory / "server.key"
    certificate_file.write_text(issued.certificate_pem)
    key_file.write_text(issued.key_pem.reveal_text())
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate_file, key_file)
    return serving, ssl.create_default_context(cadata=authority.certificate_pem)


@_row(
    "template from a URL of any status, form or host",
    "wrong ones are refused, others may be tried again; nothing is left",
)
class TestUrl:
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
    async def test_that_leads_to_nothing_is_refused(self, bench: Bench, status: int) -> None:
        said = await refused(bench, Page(status=status), Invalid)
        assert str(status) in said

    @pytest.mark.parametrize("status", [408, 429, 500, 503])
    async def test_that_has_trouble_may_be_tried_again(self, bench: Bench, status: int) -> None:
        with pytest.raises(Unavailable, match=str(status)):
            await bench.import_page(Page(status=status))

    @pytest.mark.parametrize(
        "url", ["ftp://127.0.0.1/a", "file:///etc/passwd", "http:///a", "http://u:p@127.0.0.1/"]
    )
    async def test_of_another_form_is_refused(self, bench: Bench, url: str) -> None:
        with pytest.raises(Invalid):
            await bench.storage.import_template(bench.pool, bench.source(url), ignore)
        assert bench.names() == []

    async def test_that_nobody_answers_may_be_tried_again(self, bench: Bench) -> None:
        source = bench.source("http://127.0.0.1:1/a")
        with pytest.raises(Unavailable, match="does not answer"):
            await bench.storage.import_template(bench.pool, source, ignore)


@_row(
    "template that is redirected: without end, inside, to other forms, from https to http",
    "refused, and what it leads to is not asked",
)
class TestRedirect:
    async def test_is_followed(self, bench: Bench) -> None:
        bench.web.put("/real", Page(content=bench.image))
        await bench.import_page(Page(status=302, headers={"Location": "/real#part"}))
        assert [path for path, _ in bench.web.asked] == ["/image", "/real"]

    async def test_without_end_is_refused(self, bench: Bench) -> None:
        page = Page(status=301, headers={"Location": "/image"})
        assert "redirects" in await refused(bench, page, Invalid)
        assert len(bench.web.asked) == 6

    @pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://127.0.0.1/", ""])
    async def test_to_another_form_of_url_is_refused(self, bench: Bench, location: str) -> None:
        await refused(bench, Page(status=302, headers={"Location": location}), Invalid)

    async def test_to_an_internal_address_is_refused(self, bench: Bench, tmp_path: Path) -> None:
        """One host is allowed by its name, and redirects to another name of the same machine."""

        async def resolve(host: str) -> list[str]:
            assert host in ("mirror.example", "127.0.0.1")
            return ["127.0.0.1"]

        async with local_storage(tmp_path / "pools", resolve=resolve) as make:
            bench.web.put("/secret", Page(content=bench.image))
            inside = f"{bench.web.base}/secret"
            outside = bench.web.put("/image", Page(status=307, headers={"Location": inside}))
            source = msgspec.structs.replace(
                bench.source(outside.replace("127.0.0.1", "mirror.example")),
                allowed_sources=("mirror.example",),
            )
            with pytest.raises(Invalid, match="internal address"):
                await make().import_template(bench.pool, source, ignore)
        assert [path for path, _ in bench.web.asked] == ["/image"]
        assert bench.names() == []

    async def test_from_https_to_http_needs_a_checksum(self, bench: Bench, tmp_path: Path) -> None:
        serving, trusting = certificate(tmp_path)
        async with (
            local_storage(tmp_path / "pools", tls=trusting) as make,
            open_web(tls=serving) as secure,
        ):
            plain = bench.web.put("/plain", Page(content=bench.image))
            url = secure.put("/image", Page(status=302, headers={"Location": plain}))
            source = bench.source(url)
            with pytest.raises(Invalid, match="from https to"):
                await make().import_template(bench.pool, source, ignore)
            proven = bench.source(url, sha256=hashlib.sha256(bench.image).hexdigest())
            await make().import_template(bench.pool, proven, ignore)


@_row(
    "template from a host whose name leads to the node or its cluster, also the second time only",
    "refused, and never connected to",
)
class TestAddress:
    async def test_of_the_node_itself_is_refused(self, bench: Bench) -> None:
        for host in (
            "127.0.0.1",
            "localhost",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "2130706433",
        ):
            source = msgspec.structs.replace(bench.source(f"http://{host}:1/a"), allowed_sources=())
            with pytest.raises(Invalid, match="internal address"):
                await bench.storage.import_template(bench.pool, source, ignore)
        assert bench.web.asked == []

    async def test_of_the_cluster_is_refused(self, bench: Bench, tmp_path: Path) -> None:
        async def resolve(host: str) -> list[str]:
            assert host == "mirror.example"
            return ["10.20.30.40"]

        async with local_storage(tmp_path / "pools", resolve=resolve) as make:
            source = msgspec.structs.replace(
                bench.source("http://mirror.example/a"), refused_networks=("10.20.0.0/16",)
            )
            with pytest.raises(Invalid, match=r"10\.20\.30\.40"):
                await make().import_template(bench.pool, source, ignore)

    async def test_that_changes_between_look_and_connection_gains_nothing(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """DNS rebinding: what was looked at is what is connected to."""
        looked: list[str] = []

        async def resolve(host: str) -> list[str]:
            looked.append(host)
            return ["127.0.0.2"] if len(looked) == 1 else ["127.0.0.1"]

        port = bench.web.base.rpartition(":")[2]
        bench.web.put("/image", Page(content=bench.image))
        async with local_storage(tmp_path / "pools", resolve=resolve) as make:
            source = msgspec.structs.replace(
                bench.source(f"http://rebind.example:{port}/image"),
                allowed_sources=("127.0.0.2",),
            )
            with pytest.raises(Unavailable, match="does not answer"):
                await make().import_template(bench.pool, source, ignore)
        assert (looked, bench.web.asked) == (["rebind.example"], [])

    async def test_that_is_refused_is_passed_over_for_one_that_is_not(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        async def resolve(host: str) -> list[str]:
            assert host == "mirror.example"
            return ["169.254.169.254", "127.0.0.1"]

        async with local_storage(tmp_path / "pools", resolve=resolve) as make:
            url = bench.web.put("/image", Page(content=bench.image))
            source = bench.source(url.replace("127.0.0.1", "mirror.example"))
            await make().import_template(bench.pool, source, ignore)
        assert bench.web.asked[0][1]["host"].startswith("mirror.example:")


@_row("template from a server without a trusted certificate", "refused")
class TestTls:
    async def test_keeps_the_name_of_the_host(self, bench: Bench, tmp_path: Path) -> None:
        serving, trusting = certificate(tmp_path)
        async with (
            local_storage(tmp_path / "pools", tls=trusting) as make,
            open_web(tls=serving) as web,
        ):
            source = bench.source(web.put("/image", Page(content=bench.image)))
            await make().import_template(bench.pool, source, ignore)

    async def test_without_trust_is_refused(self, bench: Bench, tmp_path: Path) -> None:
        serving, _ = certificate(tmp_path)
        async with open_web(tls=serving) as web:
            source = bench.source(web.put("/image", Page(content=bench.image)))
            with pytest.raises(Invalid, match="certificate"):
                await bench.storage.import_template(bench.pool, source, ignore)
        assert bench.names() == []


@_row("template of another length than its server tells", "refused or tried again, never published")
class TestLength:
    async def test_larger_than_what_comes_is_tried_again(self, bench: Bench) -> None:
        with pytest.raises(Unavailable, match="broke off"):
            await bench.import_page(
                Page(content=bench.image, length=len(bench.image) + 1, cut_at=len(bench.image))
            )

    async def test_smaller_than_what_comes_cuts_the_image_off(self, bench: Bench) -> None:
        page = Page(content=bench.image, length=len(bench.image) // 2)
        assert "damaged" in await refused(bench, page, Invalid)

    async def test_larger_than_the_pool_is_refused_at_once(self, bench: Bench) -> None:
        page = Page(content=bench.image, length=2**60)
        assert "room" in await refused(bench, page, InsufficientResource)


@_row(
    "template that is no image, another one, or compressed twice, badly or to a bomb",
    "refused; nothing is left",
)
class TestContent:
    @pytest.mark.parametrize(
        "content",
        [b"", b"x", HTML, gzip.compress(HTML), b"KDMV" + bytes(5000), bytes(MIB)],
        ids=["nothing", "little", "html", "html.gz", "vmdk", "zeros"],
    )
    async def test_that_is_no_image_is_refused(self, bench: Bench, content: bytes) -> None:
        assert "no disk image" in await refused(bench, Page(content=content), Invalid)

    async def test_with_another_checksum_is_refused(self, bench: Bench) -> None:
        said = await refused(bench, Page(content=bench.image), Invalid, sha256="0" * 64)
        assert hashlib.sha256(bench.image).hexdigest() in said

    async def test_compressed_twice_is_refused(self, bench: Bench) -> None:
        page = Page(content=gzip.compress(gzip.compress(bench.image)))
        assert "twice" in await refused(bench, page, Invalid)

    async def test_compressed_and_cut_off_is_refused(self, bench: Bench) -> None:
        page = Page(content=gzip.compress(bench.image)[:-100])
        assert "damaged" in await refused(bench, page, Invalid)

    async def test_compressed_to_more_than_the_pool_is_refused(self, small: Bench) -> None:
        bomb = gzip.compress(b"A" * (64 * MIB))
        assert len(bomb) < MIB
        await refused(small, Page(content=bomb), InsufficientResource)

    async def test_compressed_from_more_zeros_than_the_pool_is_refused(self, small: Bench) -> None:
        bomb = gzip.compress(bytes(64 * MIB))
        said = await refused(small, Page(content=bomb), InsufficientResource)
        assert "larger than the pool" in said


@_row(
    "template in qcow2 that needs another file, lies about its size or is damaged",
    "refused before QEMU sees it, or by what QEMU finds; nothing is left",
)
class TestQcow2:
    async def test_with_a_backing_file_is_refused(self, bench: Bench) -> None:
        path = bench.scratch / "evil.qcow2"
        await qemu("create", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", path, "1M")
        said = await refused(bench, Page(content=path.read_bytes()), Invalid)
        assert "backing file" in said

    async def test_with_an_external_data_file_is_refused(self, bench: Bench) -> None:
        path, data = bench.scratch / "evil.qcow2", bench.scratch / "data"
        await qemu("create", "-f", "qcow2", "-o", f"data_file={data}", path, "1M")
        said = await refused(bench, Page(content=path.read_bytes()), Invalid)
        assert "another file" in said

    async def test_that_is_encrypted_is_refused(self, bench: Bench) -> None:
        page = Page(content=patched(bench.image, 32, ">I", 2))
        assert "encrypted" in await refused(bench, page, Invalid)

    async def test_that_claims_an_absurd_size_is_refused(self, bench: Bench) -> None:
        huge = bench.scratch / "huge.qcow2"
        await qemu("create", "-f", "qcow2", "-o", "cluster_size=2M", huge, "100T")
        image = patched(huge.read_bytes(), 24, ">Q", MAX_VIRTUAL_BYTES + 512)
        assert "claims" in await refused(bench, Page(content=image), Invalid)

    async def test_larger_than_the_pool_is_refused(self, bench: Bench) -> None:
        pool = await bench.storage.get_pool_statistics(bench.pool)
        huge = bench.scratch / "huge.qcow2"
        size = pool.capacity_bytes // 512 * 512 + 512
        await qemu("create", "-f", "qcow2", "-o", "cluster_size=2M", huge, str(size))
        page = Page(content=huge.read_bytes())
        assert "larger than its pool" in await refused(bench, page, InsufficientResource)

    async def test_that_is_damaged_inside_is_refused(self, bench: Bench) -> None:
        (l1_offset,) = struct.unpack_from(">Q", bench.image, 40)
        page = Page(content=patched(bench.image, l1_offset, ">Q", 2**50))
        assert "damaged" in await refused(bench, page, Invalid)

    async def test_that_unpacks_to_more_than_the_pool_can_spare_is_refused(
        self, small: Bench
    ) -> None:
        raw, bomb = small.scratch / "bomb.raw", small.scratch / "bomb.qcow2"
        raw.write_bytes(b"A" * (16 * MIB))
        await qemu("convert", "-c", "-f", "raw", "-O", "qcow2", raw, bomb)
        assert bomb.stat().st_size < MIB
        said = await refused(small, Page(content=bomb.read_bytes()), InsufficientResource)
        assert "no room" in said


@breaks(
    What.DISK,
    "disk of a local pool full before or while a template comes",
    expected="refused as out of room, before anything is downloaded if its length is known;"
    " nothing is left",
    where=Where.HOST,
)
class TestFull:
    async def test_pool_is_told_before_anything_is_downloaded(self, small: Bench) -> None:
        page = Page(content=bytes(510) + b"\x55\xaa" + b"A" * (20 * MIB))
        assert "room" in await refused(small, page, InsufficientResource)

    async def test_pool_ends_a_download_of_unknown_length(self, small: Bench) -> None:
        page = Page(content=bytes(510) + b"\x55\xaa" + b"A" * (20 * MIB), framing="chunked")
        assert "room" in await refused(small, page, InsufficientResource)

    async def test_pool_is_not_what_a_download_fills_that_goes_on(self, small: Bench) -> None:
        content = bytes(510) + b"\x55\xaa" + b"A" * (10 * MIB)
        template_id = some_id()
        with pytest.raises(Unavailable):
            await small.import_page(Page(content=content, cut_at=9 * MIB), template_id=template_id)
        await small.import_page(Page(content=content), template_id=template_id)
        assert "range" in small.web.asked[-1][1]

    @pytest.mark.parametrize("packed", [False, True])
    async def test_pool_keeps_some_room_for_guests_whatever_else_fills_it(
        self, small: Bench, *, packed: bool
    ) -> None:
        """Several imports at once, for instance: each began with room enough for itself."""
        content = bytes(510) + b"\x55\xaa" + b"A" * (10 * MIB)
        page = Page(content=gzip.compress(content) if packed else content)
        disk = SmallDisk(small.directory.parent)

        def fill(_: object) -> None:
            if not (disk.path / "hog").exists():
                disk.fill(but=MIB)

        source = small.source(small.web.put("/image", page))
        with pytest.raises(InsufficientResource, match=r"filled the pool|larger than the pool"):
            await small.storage.import_template(small.pool, source, fill)
        assert small.names() == []

    async def test_disk_while_downloading_leaves_nothing(self, small: Bench) -> None:
        """Somebody else fills the disk meanwhile."""
        page = Page(content=bytes(510) + b"\x55\xaa" + b"A" * (10 * MIB))

        def fill(_: object) -> None:
            hog = small.directory.parent / "hog"
            if not hog.exists():
                free = shutil.disk_usage(small.directory).free
                hog.write_bytes(b"x" * (free - 512 * 1024))

        source = small.source(small.web.put("/image", page))
        with pytest.raises(InsufficientResource):
            await small.storage.import_template(small.pool, source, fill)
        assert small.names() == []
