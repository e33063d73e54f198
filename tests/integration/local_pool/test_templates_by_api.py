"""Bad templates through the REST API, a real Kahuna and a real Kaktus.

Each ends with the reason and the next step; nothing is left of it, and a good one has its place.
"""

import asyncio
import gzip
import lzma
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from tests.contract.drivers.rig import MIB
from tests.support.faults import What, Where, breaks
from tests.support.needs import need
from tests.support.storage_node import StorageNode, storage_node
from tests.support.wait import until
from tests.support.web import Page, Web, open_web

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.timeout(600)
BOOT = bytes(510) + b"\x55\xaa"
GOOD = BOOT + b"good" * 1000
HTML = b"<!DOCTYPE html><html><body>Please log in" + b" to the portal" * 1000 + b"</body></html>"
DESCRIPTOR = b"""# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"
RW 2048 FLAT "/etc/shadow" 0
"""


@pytest.fixture(scope="module")
def node() -> Generator[StorageNode]:
    with storage_node() as running:
        yield running


@cache
def qcow2(*arguments: str, size: str = "1M", content: bytes = b"") -> bytes:
    """Return what qemu-img makes."""
    with TemporaryDirectory() as place:
        path, raw = Path(place, "image"), Path(place, "raw")
        raw.write_bytes(content)
        made: list[str | Path] = (
            ["convert", "-f", "raw", "-O", "qcow2", *arguments, raw, path]
            if content
            else ["create", "-q", "-f", "qcow2", *arguments, path, size]
        )
        subprocess.run([need("qemu-img"), *made], check=True, capture_output=True)
        return path.read_bytes()


def with_data_file() -> bytes:
    with TemporaryDirectory() as place:
        return qcow2("-o", f"data_file={place}/data")


def patched(image: bytes, offset: int, form: str, value: int) -> bytes:
    changed = bytearray(image)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


def window_of_2_gib() -> bytes:
    """Return a few bytes that take 2 GiB of memory to unpack."""
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 31})
    return packer.compress(GOOD) + packer.flush()  # in pieces, so that their length is not told


@dataclass(frozen=True, slots=True)
class Bad:
    """A bad source, and what has to be told of it."""

    page: Callable[[Web], Page]
    told: str
    status: int = 422


def content(make: Callable[[], bytes], told: str, status: int = 422) -> Bad:
    return Bad(lambda _: Page(content=make()), told, status)


def redirect(target: str, told: str = "internal address") -> Bad:
    def page(web: Web) -> Page:
        return Page(status=302, headers={"Location": target.replace("PORT", web.port)})

    return Bad(page, told)


def chain(web: Web) -> Page:
    for number in range(3):
        web.put(f"/{number}", Page(status=307, headers={"Location": f"/{number + 1}"}))
    web.put("/3", Page(status=302, headers={"Location": "http://169.254.169.254/latest/"}))
    return Page(status=301, headers={"Location": "/0"})


def bad(fault: str, **sources: Bad) -> Sequence[object]:
    row = breaks(
        What.TEMPLATE,
        fault,
        expected="refused with the reason, the field and the next step; nothing is left, and a"
        " good one is imported in its place",
        where=Where.NAMESPACE,
    )
    return [
        pytest.param(source, marks=row, id=name.replace("_", "-"))
        for name, source in sources.items()
    ]


SOURCES = [
    *bad(
        "template whose URL leads to nothing",
        not_found=Bad(lambda _: Page(status=404), "404"),
        gone=Bad(lambda _: Page(status=410), "410"),
        forbidden=Bad(lambda _: Page(status=403), "403"),
    ),
    *bad(
        "template whose server tells a length that is too short, or none",
        short=Bad(lambda _: Page(content=qcow2(content=GOOD), length=4096), "damaged"),
        none=Bad(lambda _: Page(content=GOOD, framing="close"), "checksum"),
    ),
    *bad(
        "template whose server redirects to the node, its link or its cluster",
        loopback=redirect("http://127.0.0.2:PORT/image"),
        number=redirect("http://2130706434:PORT/image"),
        hexadecimal=redirect("http://0x7f000002:PORT/image"),
        short_address=redirect("http://127.2:PORT/image"),
        any_address=redirect("http://0.0.0.0:PORT/image"),
        six=redirect("http://[::1]:PORT/image"),
        mapped=redirect("http://[::ffff:127.0.0.2]:PORT/image"),
        compatible=redirect("http://[::127.0.0.2]:PORT/image"),
        translated=redirect("http://[64:ff9b::7f00:2]:PORT/image"),
        translated_locally=redirect("http://[64:ff9b:1::7f00:2]:PORT/image"),
        six_to_four=redirect("http://[2002:7f00:2::1]:PORT/image"),
        metadata=redirect("http://169.254.169.254/latest/meta-data/"),
        metadata_of_six=redirect("http://[fd00:ec2::254]/latest/meta-data/"),
        link_of_six=redirect("http://[fe80::1]/image"),
        cluster=redirect("http://10.0.0.7/image"),
        chain=Bad(chain, "internal address"),
        loop=redirect("/image", "redirects"),
        password=redirect("http://user:pass@127.0.0.1:PORT/image", "password"),
        file=redirect("file:///etc/passwd", "no http"),
        gopher=redirect("gopher://127.0.0.1:PORT/1", "no http"),
        nothing=Bad(lambda _: Page(status=302), "redirects"),
    ),
    *bad(
        "template that is no disk image, or one that may name files of the node",
        html=content(lambda: HTML, "no disk image"),
        packed_html=content(lambda: gzip.compress(HTML), "no disk image"),
        nothing=content(lambda: b"", "no disk image"),
        zeros=content(lambda: bytes(MIB), "no disk image"),
        vmdk=content(lambda: b"KDMV" + bytes(5000), "no disk image"),
        descriptor=content(lambda: DESCRIPTOR, "no disk image"),
        vhd=content(lambda: b"conectix" + bytes(5000), "no disk image"),
        vhdx=content(lambda: b"vhdxfile" + bytes(70_000), "no disk image"),
        qed=content(lambda: b"QED\0" + bytes(5000), "no disk image"),
        json=content(lambda: b'json:{"driver":"raw"}' + bytes(5000), "no disk image"),
    ),
    *bad(
        "template in qcow2 that needs another file, is encrypted, damaged or absurdly large",
        backing=content(lambda: qcow2("-u", "-b", "/etc/shadow", "-F", "raw"), "backing file"),
        backing_in_json=content(
            lambda: qcow2("-u", "-b", 'json:{"driver":"nbd","host":"::1"}', "-F", "raw"), "backing"
        ),
        packed_backing=content(
            lambda: gzip.compress(qcow2("-u", "-b", "/etc/shadow", "-F", "raw")), "backing file"
        ),
        data_file=content(with_data_file, "another file"),
        encrypted=content(lambda: patched(qcow2(), 32, ">I", 2), "encrypted"),
        terabytes=content(
            lambda: qcow2("-o", "cluster_size=2M", size="100T"), "claims", status=422
        ),
        terabyte=content(lambda: qcow2(size="1T"), "larger than its pool", status=507),
        damaged=content(
            lambda: patched(qcow2(), struct.unpack_from(">Q", qcow2(), 40)[0], ">Q", 2**50),
            "damaged",
        ),
        cut_off=content(lambda: qcow2(content=GOOD)[:100], "damaged"),
    ),
    *bad(
        "template compressed to a bomb, twice, or damaged",
        gzip=content(lambda: gzip.compress(BOOT + b"A" * (40 * MIB)), "larger than the pool", 507),
        xz=content(lambda: lzma.compress(BOOT + bytes(40 * MIB)), "larger than the pool", 507),
        zstd=content(lambda: zstd.compress(BOOT + bytes(40 * MIB)), "larger than the pool", 507),
        window=content(window_of_2_gib, "damaged"),
        clusters=content(lambda: qcow2("-c", content=b"A" * (24 * MIB)), "no room", 507),
        twice=content(lambda: gzip.compress(lzma.compress(GOOD)), "twice"),
        thrice=content(lambda: gzip.compress(gzip.compress(gzip.compress(GOOD))), "twice"),
        damaged=content(lambda: gzip.compress(GOOD)[:-20], "damaged"),
    ),
]  # fmt: skip


async def create(client: httpx.AsyncClient, node: StorageNode, url: str) -> httpx.Response:
    path = f"/api/v1/pool/{node.pool_id}/template"
    return await client.post(path, json={"name": "debian", "source": url})


@pytest.mark.parametrize("source", SOURCES)
async def test_a_bad_source_leaves_nothing_and_a_good_one_takes_its_place(
    node: StorageNode, source: Bad
) -> None:
    async with node.client() as client, open_web() as web:
        answer = await create(client, node, web.put("/image", source.page(web)))
        reason = answer.json()["reason"]
        assert answer.status_code == source.status, reason
        assert source.told in reason
        assert reason.endswith(")"), f"no next step: {reason}"
        assert answer.status_code == 507 or reason.startswith("source: "), reason
        assert (await client.get("/api/v1/template")).json() == []
        node.assert_sound()
        assert node.names() == []
        last = node.ask("/operations")[0]
        assert (last["kind"], last["state"]) == ("template_create", "failed")

        made = await create(client, node, web.put("/good", Page(content=GOOD)))
        assert made.status_code == 201, made.text
        template_id = made.json()["id"]
        assert node.names() == [f"{template_id}.template.raw"]
        gone = await client.delete(f"/api/v1/template/{template_id}")
        assert gone.is_success, gone.text
        assert node.names() == []


@breaks(
    What.TEMPLATE,
    "template whose server dies in the middle, and comes back",
    expected="the import waits, shows why, and goes on where it was; of another version it begins"
    " anew",
    where=Where.NAMESPACE,
)
@pytest.mark.parametrize("version", ["same", "other"])
async def test_an_import_goes_on_when_its_server_comes_back(
    node: StorageNode, version: str
) -> None:
    image = BOOT + random.Random(1).randbytes(4 * MIB)
    async with node.client() as client, open_web() as web, asyncio.TaskGroup() as group:
        page = Page(content=image, cut_at=3 * MIB)
        url = web.put("/image", page)
        creating = group.create_task(create(client, node, url))
        await until(
            lambda: node.unfinished() and node.unfinished()[0]["problem"],
            "it tells why",
            timeout_s=300,
        )
        assert "broke off" in node.unfinished()[0]["problem"]["detail"]
        if version == "other":
            image = BOOT + random.Random(2).randbytes(5 * MIB)
            page.content, page.validators = image, {"ETag": '"two"'}
        page.cut_at = None
        made = await creating
        assert made.status_code == 201, made.text
        assert web.asked[-1][1]["range"] == f"bytes={3 * MIB}-"
        (name,) = node.names()
        assert (node.pool_directory / name).read_bytes() == image.ljust(-(-len(image) // 512) * 512)
        (await client.delete(f"/api/v1/template/{made.json()['id']}")).raise_for_status()
        node.assert_sound()


@breaks(
    What.TEMPLATE,
    "template whose server tells a length that is too long, or stalls, until somebody gives up",
    expected="the import shows why; deleting the template ends it and leaves nothing",
    where=Where.NAMESPACE,
)
@pytest.mark.parametrize("fault", ["long", "stall"])
async def test_an_import_that_gets_nowhere_is_ended_by_deleting_the_template(
    node: StorageNode, fault: str
) -> None:
    image = BOOT + random.Random(1).randbytes(4 * MIB)
    async with node.client() as client, open_web() as web, asyncio.TaskGroup() as group:
        page = Page(content=image)
        if fault == "long":
            page.length, page.cut_at = len(image) + 1, len(image)
        else:
            page.stall_at = 3 * MIB
        creating = group.create_task(create(client, node, web.put("/image", page)))
        if fault == "long":
            await until(
                lambda: node.unfinished() and node.unfinished()[0]["problem"],
                "it tells",
                timeout_s=300,
            )
            assert "broke off" in node.unfinished()[0]["problem"]["detail"]
        else:
            await web.stalled.wait()
        (target,) = node.unfinished()[0]["targets"]
        gone = await client.delete(f"/api/v1/{target}")
        assert gone.is_success, gone.text
        ended = await creating
        assert ended.status_code == 409, ended.text
        node.assert_sound()
        assert node.names() == []
