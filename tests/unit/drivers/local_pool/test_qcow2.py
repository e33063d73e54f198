"""The strict reader of qcow2 headers, on headers made by hand."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import Invalid
from appliance.drivers.local_pool.qcow2 import (
    MAX_VIRTUAL_BYTES,
    BadQcow2,
    check_importable,
    parse_header,
)

FILE_BYTES = 10 * 65536
# Name: offset, form, value of a sound image of 1 GiB.
FIELDS: dict[str, tuple[int, str, int]] = {
    "magic": (0, ">I", 0x514649FB),
    "version": (4, ">I", 3),
    "backing_offset": (8, ">Q", 0),
    "backing_length": (16, ">I", 0),
    "cluster_bits": (20, ">I", 16),
    "size": (24, ">Q", 2**30),
    "encryption": (32, ">I", 0),
    "l1_entries": (36, ">I", 2),
    "l1_offset": (40, ">Q", 3 * 65536),
    "refcount_offset": (48, ">Q", 65536),
    "refcount_clusters": (56, ">I", 1),
    "features": (72, ">Q", 0),
    "refcount_order": (96, ">I", 4),
    "header_length": (100, ">I", 112),
}


def header(extensions: bytes = b"", /, **changed: int) -> bytes:
    head = bytearray(65536)
    for name, (offset, form, value) in FIELDS.items():
        struct.pack_into(form, head, offset, changed.get(name, value))
    head[112 : 112 + len(extensions)] = extensions
    return bytes(head)


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack(">II", kind, len(content)) + content.ljust(-(-len(content) // 8) * 8, b"\0")


def test_a_sound_header_is_importable() -> None:
    features = extension(0x6803F857, bytes(48))
    read = parse_header(header(features), FILE_BYTES)
    assert (read.version, read.virtual_bytes, read.backing_file) == (3, 2**30, None)
    check_importable(read)


def test_the_old_version_has_extensions_where_the_new_has_features() -> None:
    read = parse_header(header(version=2, features=0x44415441 << 32), FILE_BYTES)
    assert (read.features, read.external_data) == (0, True)


@pytest.mark.parametrize(
    "changed",
    [
        {"magic": 0x514649FA},
        {"version": 1},
        {"version": 4},
        {"cluster_bits": 8},
        {"cluster_bits": 22},
        {"cluster_bits": 2**32 - 1},
        {"l1_entries": 1},
        {"l1_entries": 2**32 - 1},
        {"l1_offset": 0},
        {"l1_offset": 512},
        {"l1_offset": FILE_BYTES},
        {"l1_offset": 2**64 - 65536},
        {"refcount_offset": 0},
        {"refcount_offset": FILE_BYTES},
        {"refcount_order": 7},
        {"header_length": 96},
        {"header_length": 105},
        {"header_length": 2**32 - 8},
        {"size": 2**60},
        {"backing_offset": 65536, "backing_length": 5},
        {"backing_offset": 1024, "backing_length": 0},
        {"backing_offset": 1024, "backing_length": 1024},
        {"backing_offset": 2**64 - 1, "backing_length": 8},
    ],
    ids=str,
)
def test_a_header_that_contradicts_itself_is_bad(changed: dict[str, int]) -> None:
    with pytest.raises(BadQcow2):
        parse_header(header(**changed), FILE_BYTES)


def test_extensions_that_do_not_end_are_bad() -> None:
    with pytest.raises(BadQcow2):
        parse_header(header(struct.pack(">II", 0x6803F857, 2**31)), FILE_BYTES)


def test_a_header_that_is_cut_off_is_bad() -> None:
    whole = header()
    for length in range(112):
        with pytest.raises(BadQcow2):
            parse_header(whole[:length], FILE_BYTES)


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (header(features=1 << 0), "not closed"),
        (header(features=1 << 1), "not closed"),
        (header(features=1 << 2), "another file"),
        (header(extension(0x44415441, b"/etc/shadow")), "another file"),
        (header(extension(0x0537BE77, bytes(16))), "encrypted"),
        (header(encryption=1), "encrypted"),
        (header(features=1 << 5), "unknown"),
        (header(features=1 << 63), "unknown"),
        (header(size=0), "claims"),
        (header(size=2**20 + 1), "claims"),  # QEMU leaves out what is not a whole sector
        (header(backing_offset=1024, backing_length=4), "backing"),
        (header(cluster_bits=21, size=MAX_VIRTUAL_BYTES + 512, l1_entries=2**22,
                l1_offset=2**21, refcount_offset=2**21), "claims"),
    ],
)  # fmt: skip
def test_an_image_that_does_not_stand_alone_is_refused(head: bytes, problem: str) -> None:
    with pytest.raises(Invalid, match=problem):
        check_importable(parse_header(head, 2**40))


@given(
    st.dictionaries(st.sampled_from(sorted(FIELDS)), st.integers(0, 2**32 - 1)),
    st.binary(max_size=200),
    st.integers(0, 2**40),
    st.integers(0, 65536),
)
def test_no_header_does_more_than_be_read_or_refused(
    changed: dict[str, int], extensions: bytes, file_bytes: int, length: int
) -> None:
    head = header(extensions, **changed)[:length]
    try:
        check_importable(parse_header(head, file_bytes))
    except (BadQcow2, Invalid):
        return
    assert struct.unpack_from(">Q", head, 8)[0] == 0  # no backing file


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_read_or_refused(content: bytes) -> None:
    for head in (content, b"QFI\xfb" + content, b"QFI\xfb\0\0\0\3" + content):
        try:
            parse_header(head, 2**40)
        except BadQcow2:
            continue
