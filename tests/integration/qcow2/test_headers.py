"""Structured nonsense as qcow2 headers: what our reader accepts, QEMU opens alone.

Headers of real images are changed where it matters: fields, extensions, lengths, single bytes.
"""

import resource
import struct
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from appliance.core.errors import Invalid
from appliance.drivers.local_pool.qcow2 import (
    MAX_HEAD_BYTES,
    MAX_VIRTUAL_BYTES,
    BadQcow2,
    Qcow2Header,
    check_importable,
    parse_header,
)
from appliance.drivers.local_pool.recognise import Content, recognise
from tests.support.faults import What, Where, breaks
from tests.support.fuzz import budget
from tests.support.needs import need

pytestmark = pytest.mark.timeout(3600)
FUZZ = breaks(
    What.INPUT,
    "qcow2 header of a template with fields, extensions and lengths changed at random",
    expected="refused, or accepted and then an image that QEMU opens without another file",
    where=Where.HOST,
)
# Name: offset and form in the header, of docs/interop/qcow2.txt.
FIELDS = {
    "version": (4, ">I"), "backing_offset": (8, ">Q"), "backing_length": (16, ">I"),
    "cluster_bits": (20, ">I"), "size": (24, ">Q"), "encryption": (32, ">I"),
    "l1_entries": (36, ">I"), "l1_offset": (40, ">Q"), "refcount_offset": (48, ">Q"),
    "refcount_clusters": (56, ">I"), "snapshots": (60, ">I"), "snapshots_offset": (64, ">Q"),
    "features": (72, ">Q"), "compatible": (80, ">Q"), "autoclear": (88, ">Q"),
    "refcount_order": (96, ">I"), "header_length": (100, ">I"), "compression": (104, ">B"),
}  # fmt: skip
EXTENSIONS = (0, 0xE2792ACA, 0x6803F857, 0x23852875, 0x0537BE77, 0x44415441)
NUMBERS = st.one_of(
    st.integers(0, 8),
    st.sampled_from([72, 96, 104, 112, 120, 512, 1024, 1023, 4096, 65536, 2**21, 2**31, 2**32 - 1]),
    st.integers(0, 63).map(lambda bit: 1 << bit),
    st.integers(0, 2**64 - 1),
)


class Image:
    """Shows its header only: Hypothesis prints what fails."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __repr__(self) -> str:
        return f"{len(self.content)} bytes, {self.content[:512].rstrip(bytes(1)).hex(' ', 8)}"


@cache
def originals() -> Sequence[bytes]:
    """Return images of every form that qemu-img makes, those that need other files too."""
    with TemporaryDirectory() as place:
        options = [
            ("compat=0.10",), ("compat=1.1",), ("cluster_size=512",), ("cluster_size=2M",),
            ("lazy_refcounts=on",), ("extended_l2=on",), ("compression_type=zstd",),
            ("refcount_bits=1",), (f"data_file={place}/data",),
            (f"data_file={place}/data", "data_file_raw=on"),
        ]  # fmt: skip
        made = [_made(place, ["-o", ",".join(each)]) for each in options]
        for backing in ("/etc/shadow", 'json:{"driver":"nbd","host":"::1"}', "nbd://127.0.0.1/"):
            for compat in ("0.10", "1.1"):
                arguments = ["-u", "-b", backing, "-F", "raw", "-o", f"compat={compat}"]
                made.append(_made(place, arguments))
        return made


def _made(place: str, arguments: Sequence[str]) -> bytes:
    path = Path(place, "image")
    command: list[str | Path] = [
        need("qemu-img"),
        "create",
        "-q",
        "-f",
        "qcow2",
        *arguments,
        path,
        "1M",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return path.read_bytes()


@st.composite
def changed_images(draw: st.DrawFn) -> Image:
    image = bytearray(originals()[draw(st.integers(0, len(originals()) - 1))])
    for name in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=3)):
        offset, form = FIELDS[name]
        value = draw(NUMBERS) % (1 << 8 * struct.calcsize(form))
        struct.pack_into(form, image, offset, value)
    if draw(st.booleans()):
        (length,) = struct.unpack_from(">I", image, 100)
        at = length if image[7] == 3 and 72 <= length < 512 else 72
        added = b"".join(draw(st.lists(extensions(), max_size=4)))
        image[at : at + len(added)] = added
    for _ in range(draw(st.integers(0, 2))):
        image[draw(st.integers(0, 511))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 9)) == 0:
        del image[draw(st.integers(0, 4096)) :]
    return Image(bytes(image))


@st.composite
def extensions(draw: st.DrawFn) -> bytes:
    """Draw a header extension, which may lie about its length."""
    content = draw(st.sampled_from([b"", b"raw", b"/etc/shadow", b"qcow2", bytes(48)]))
    length = draw(st.one_of(st.just(len(content)), NUMBERS)) % 2**32
    kind = draw(st.one_of(st.sampled_from(EXTENSIONS), st.integers(0, 2**32 - 1)))
    return struct.pack(">II", kind, length) + content.ljust(-(-len(content) // 8) * 8, b"\0")


def accepted(content: bytes) -> Qcow2Header | None:
    """Return what our reader accepts, as an import does; its errors are the two that it names."""
    try:
        header = parse_header(content[:MAX_HEAD_BYTES], len(content))
        check_importable(header)
    except (BadQcow2, Invalid):
        return None
    return header


class _Inside(msgspec.Struct, rename="kebab"):
    data_file: str | None = None
    encrypt: msgspec.Raw | None = None


class _Specific(msgspec.Struct):
    data: _Inside


class _Info(msgspec.Struct, rename="kebab"):
    virtual_size: int
    backing_filename: str | None = None
    format_specific: _Specific | None = None


def opened_by_qemu(path: Path) -> _Info | None:
    """Return what QEMU finds in an image, None if it refuses it."""
    done = subprocess.run(
        ["prlimit", "--as=4294967296", "--cpu=20", "--core=0", need("qemu-img"), "info", "-U", "-f",
         "qcow2", "--output=json", path],
        check=False, capture_output=True, timeout=100,
    )  # fmt: skip
    return msgspec.json.decode(done.stdout, type=_Info) if done.returncode == 0 else None


@FUZZ
@budget(300)
@given(changed_images())
def test_no_header_does_more_than_be_read_or_refused(image: Image) -> None:
    header = accepted(image.content)
    if header is not None:
        assert header.backing_file is None
        assert not header.external_data
        assert 0 < header.virtual_bytes <= MAX_VIRTUAL_BYTES


@FUZZ
@budget(80)
@given(changed_images().filter(lambda image: accepted(image.content) is not None))
def test_what_is_accepted_needs_no_other_file_of_qemu(image: Image) -> None:
    with TemporaryDirectory() as place:
        path = Path(place, "image")
        path.write_bytes(image.content)
        found = opened_by_qemu(path)
        event("opened" if found else "refused by QEMU")
        if found is None:
            return
        assert found.backing_filename is None
        if found.format_specific is not None:
            assert found.format_specific.data.data_file is None
            assert found.format_specific.data.encrypt is None
        header = accepted(image.content)
        assert header is not None
        assert found.virtual_size == header.virtual_bytes


@FUZZ
def test_the_images_that_need_other_files_are_refused_and_the_rest_is_not() -> None:
    judged = [accepted(image) is not None for image in originals()]
    assert judged == [True] * 8 + [False] * 8


@FUZZ
@budget(100)
@given(st.binary(max_size=70_000), st.sampled_from([b"", b"QFI\xfb", b"\x1f\x8b", b"\xfd7zXZ\0"]))
def test_any_file_is_recognised_or_refused(content: bytes, beginning: bytes) -> None:
    with TemporaryDirectory() as place:
        path = Path(place, "file")
        path.write_bytes(beginning + content)
        try:
            found = recognise(path)
        except Invalid:
            return
        assert (found is Content.QCOW2) is path.read_bytes().startswith(b"QFI\xfb")


@FUZZ
def test_a_header_of_two_megabytes_of_extensions_is_read_in_bounds() -> None:
    """The most that is ever read of an image, and all of it extensions without content."""
    head = bytearray(MAX_HEAD_BYTES)
    (original,) = (image for image in originals() if struct.unpack_from(">I", image, 20)[0] == 21)
    head[:112] = original[:112]
    for offset in range(112, len(head) - 8, 8):
        struct.pack_into(">II", head, offset, 1 + offset, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert accepted(bytes(head).ljust(len(original), b"\0")) is not None
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024, "KiB"
