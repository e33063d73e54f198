"""Read the header of a qcow2 file, strictly, before QEMU sees the file.

What comes from the Internet is opened by QEMU only after this has refused whatever makes QEMU open
another file: backing files and external data files. Format: docs/interop/qcow2.txt of QEMU.
"""

import struct
from typing import Final

import msgspec

from appliance.core.errors import Invalid
from appliance.model.storage import SECTOR_BYTES

MAGIC: Final = b"QFI\xfb"
HEAD_BYTES: Final = 65536  # of images made here; the header lies within the first cluster
MAX_HEAD_BYTES: Final = 2**21  # of any image
MAX_VIRTUAL_BYTES: Final = 64 * 2**40

_V2: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_V3: Final = struct.Struct(">QQQII")
_EXTENSION: Final = struct.Struct(">II")
_END_OF_EXTENSIONS: Final = 0
_EXTERNAL_DATA_NAME: Final = 0x44415441
_ENCRYPTION_HEADER: Final = 0x0537BE77
_MAX_NAME_BYTES: Final = 1023
_MAX_L1_BYTES: Final = 32 * 2**20  # as QEMU has it

_DIRTY: Final = 1 << 0
_CORRUPT: Final = 1 << 1
_EXTERNAL_DATA: Final = 1 << 2
_KNOWN_FEATURES: Final = 0b11111  # the above, the compression type, extended L2 entries


class BadQcow2(ValueError):
    """The bytes are no qcow2 header that may be trusted; says why."""


class Qcow2Header(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    virtual_bytes: int
    features: int  # the incompatible ones
    encrypted: bool
    external_data: bool
    backing_file: str | None


def parse_header(head: bytes, file_bytes: int) -> Qcow2Header:
    """Read the first cluster, or more, of a file of `file_bytes`.

    Raises:
        BadQcow2: they contradict the format, themselves or the length of the file.
    """
    if len(head) < _V2.size or not head.startswith(MAGIC):
        raise BadQcow2("it has no qcow2 header")
    (
        _, version, backing_offset, backing_length, cluster_bits, virtual_bytes, encryption,
        l1_entries, l1_offset, refcount_offset, _, _, _,
    ) = _V2.unpack_from(head)  # fmt: skip
    if version not in (2, 3):
        raise BadQcow2(f"it is of version {version} of qcow2")
    if not 9 <= cluster_bits <= 21:
        raise BadQcow2(f"its clusters have 2^{cluster_bits} bytes")
    features, header_bytes = _rest_of_header(head, version)
    cluster_bytes = 1 << cluster_bits
    _check_tables(l1_offset, l1_entries, refcount_offset, cluster_bytes, file_bytes)
    entries_per_table = cluster_bytes // (16 if features & 0b10000 else 8)
    if virtual_bytes > l1_entries * entries_per_table * cluster_bytes:
        raise BadQcow2("its tables are too small for its size")
    extensions = _extensions(head[: min(len(head), cluster_bytes)], header_bytes, backing_offset)
    return Qcow2Header(
        version=version,
        virtual_bytes=virtual_bytes,
        features=features,
        encrypted=encryption != 0 or _ENCRYPTION_HEADER in extensions,
        external_data=bool(features & _EXTERNAL_DATA) or _EXTERNAL_DATA_NAME in extensions,
        backing_file=_name(head, backing_offset, backing_length, cluster_bytes),
    )


def check_importable(header: Qcow2Header) -> None:
    """Accept an image that stands alone.

    Raises:
        Invalid: it needs another file or a key, or says itself that it is damaged.
    """
    problem = None
    if header.backing_file is not None:
        problem = "has a backing file"
    elif header.external_data:
        problem = "keeps its data in another file"
    elif header.encrypted:
        problem = "is encrypted"
    elif header.features & (_DIRTY | _CORRUPT):
        problem = "was not closed properly"
    elif header.features & ~_KNOWN_FEATURES:
        problem = "uses features of qcow2 that are unknown here"
    elif not 0 < header.virtual_bytes <= MAX_VIRTUAL_BYTES or header.virtual_bytes % SECTOR_BYTES:
        problem = f"claims to be a disk of {header.virtual_bytes} bytes"
    if problem:
        raise Invalid(
            f"the qcow2 image {problem}",
            hint="convert it with: qemu-img convert -O qcow2 IMAGE NEW_IMAGE",
            field="url",
        )


def _rest_of_header(head: bytes, version: int) -> tuple[int, int]:
    """Return the incompatible features and the length of the header."""
    if version == 2:
        return 0, _V2.size
    if len(head) < _V2.size + _V3.size:
        raise BadQcow2("its header is cut off")
    features, _, _, refcount_order, header_bytes = _V3.unpack_from(head, _V2.size)
    if refcount_order > 6:
        raise BadQcow2(f"its reference counts have 2^{refcount_order} bits")
    if header_bytes < _V2.size + _V3.size or header_bytes > len(head) or header_bytes % 8:
        raise BadQcow2(f"its header claims to have {header_bytes} bytes")
    return features, header_bytes


def _check_tables(
    l1_offset: int, l1_entries: int, refcount_offset: int, cluster_bytes: int, file_bytes: int
) -> None:
    if l1_entries * 8 > _MAX_L1_BYTES:
        raise BadQcow2(f"its first table claims {l1_entries} entries")
    for offset, length in ((l1_offset, l1_entries * 8), (refcount_offset, 8)):
        if offset % cluster_bytes or offset + length > file_bytes or (length and not offset):
            raise BadQcow2("its tables do not lie within the file")


def _extensions(first_cluster: bytes, begin: int, end: int) -> set[int]:
    """Return the types of the header extensions, which end where the backing file's name begins."""
    end = min(end or len(first_cluster), len(first_cluster))
    found: set[int] = set()
    while begin + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack_from(first_cluster, begin)
        if kind == _END_OF_EXTENSIONS:
            return found
        begin += _EXTENSION.size + -(-length // 8) * 8
        if begin > end:
            raise BadQcow2("its header extensions do not end")
        found.add(kind)
    return found


def _name(head: bytes, offset: int, length: int, cluster_bytes: int) -> str | None:
    if offset == 0:
        return None
    if not 0 < length <= _MAX_NAME_BYTES or offset + length > min(cluster_bytes, len(head)):
        raise BadQcow2("the name of its backing file does not lie within the header")
    return head[offset : offset + length].decode("utf-8", "surrogateescape")
