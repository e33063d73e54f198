"""Tell what a downloaded file is from its content, never from its name.

A raw image has no signature of its own, and any file, an error page too, could pass for one. So a
raw image must begin as something that a machine can boot or mount: a boot sector (MBR), a GUID
partition table, an ISO 9660 volume, or a file system of type ext, XFS or btrfs.
"""

from enum import StrEnum
from pathlib import Path
from typing import Final

from appliance.core.errors import Invalid
from appliance.drivers.local_pool.qcow2 import MAGIC


class Content(StrEnum):
    QCOW2 = "qcow2"
    RAW = "raw"
    GZIP = "gzip"
    XZ = "xz"
    ZSTD = "zstd"


COMPRESSED: Final = frozenset({Content.GZIP, Content.XZ, Content.ZSTD})
_BEGINNINGS: Final = {
    MAGIC: Content.QCOW2,
    b"\x1f\x8b": Content.GZIP,
    b"\xfd7zXZ\0": Content.XZ,
    b"\x28\xb5\x2f\xfd": Content.ZSTD,
}
_RAW_SIGNATURES: Final = (
    (510, b"\x55\xaa"),
    (512, b"EFI PART"),
    (32769, b"CD001"),
    (1080, b"\x53\xef"),
    (0, b"XFSB"),
    (65600, b"_BHRfS_M"),
)
_HEAD_BYTES: Final = 65536 + 4096


def recognise(path: Path) -> Content:
    """Raises Invalid when it is nothing that we take."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for beginning, content in _BEGINNINGS.items():
        if head.startswith(beginning):
            return content
    if any(head.startswith(signature, offset) for offset, signature in _RAW_SIGNATURES):
        return Content.RAW
    raise Invalid(
        "what the URL leads to is no disk image: neither qcow2, nor a raw image with a boot sector,"
        " a partition table or a file system, nor one of these compressed by gzip, xz or zstd",
        hint="look at what the URL answers",
        field="url",
    )
