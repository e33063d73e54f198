"""Build the NoCloud CD-ROM of an instance in memory, and tell which content one holds.

The digest of the content lies in the volume descriptor's "application use" area, where no guest
looks, so that a medium can be compared without being taken apart.
"""

import io
import re
import struct
from typing import Final

from pycdlib.pycdlib import PyCdlib

from appliance.model.storage import SeedSpec, seed_digest

DIGEST_AREA_BYTES: Final = 17 * 2048  # up to the end of the primary volume descriptor
_SECTOR_BYTES: Final = 2048
_DESCRIPTORS: Final = (16 * _SECTOR_BYTES, 17 * _SECTOR_BYTES)  # of the volume, and of Joliet
_APPLICATION_USE: Final = slice(_DESCRIPTORS[0] + 883, _DESCRIPTORS[0] + 883 + 512)
_DIGEST: Final = re.compile(rb"kowabunga-seed:([0-9a-f]{64}) *\0*")

# Where dates are, and what stands for none: ECMA-119, 8.4.26.1, 9.1.5.
_VOLUME_DATES: Final = 813
_NO_VOLUME_DATES: Final = (b"0" * 16 + b"\0") * 4
_ROOT_RECORD: Final = 156
_RECORD_DATE: Final = slice(18, 25)
_NO_RECORD_DATE: Final = bytes(7)


def build_seed(seed: SeedSpec) -> bytes:
    """Return an ISO 9660 image labelled `cidata`, the same for the same content.

    Every file has a Rock Ridge and a Joliet name: Linux reads one, Windows the other.
    """
    iso = PyCdlib()
    iso.new(
        interchange_level=3,
        vol_ident="cidata",
        joliet=3,
        rock_ridge="1.09",
        app_use=f"kowabunga-seed:{seed_digest(seed)}",
    )
    texts = {
        "meta-data": seed.meta_data,
        "user-data": seed.user_data,
        "network-config": seed.network_config,
    }
    for number, (name, text) in enumerate(texts.items()):
        encoded = text.encode()
        iso.add_fp(
            io.BytesIO(encoded),
            len(encoded),
            f"/FILE{number}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
        )
    medium = io.BytesIO()
    iso.write_fp(medium)
    extents = [
        iso.get_record(iso_path=f"/FILE{number}.;1").extent_location()
        for number, text in enumerate(texts.values())
        if text  # an empty file lies nowhere
    ]
    iso.close()
    content = medium.getvalue()
    return _without_dates(content, min(extents) * _SECTOR_BYTES if extents else len(content))


def _without_dates(medium: bytes, head_bytes: int) -> bytes:
    """Remove the time of the making, which the library writes everywhere, from the head."""
    head = bytearray(medium[:head_bytes])
    dates: set[bytes] = set()
    for descriptor in _DESCRIPTORS:
        begin = descriptor + _VOLUME_DATES
        head[begin : begin + len(_NO_VOLUME_DATES)] = _NO_VOLUME_DATES
        root = descriptor + _ROOT_RECORD
        dates.add(bytes(head[root:][_RECORD_DATE]))
        (sector,) = struct.unpack_from("<I", head, root + 2)
        record = sector * _SECTOR_BYTES
        while head[record]:
            dates.add(bytes(head[record:][_RECORD_DATE]))
            record += head[record]
    for date in dates:  # the same ones stand in the entries of Rock Ridge
        head = head.replace(date, _NO_RECORD_DATE)
    return bytes(head) + medium[head_bytes:]


def read_digest(head: bytes) -> str | None:
    """Return the digest from a medium's first `DIGEST_AREA_BYTES`; None: it is none of ours."""
    found = _DIGEST.fullmatch(head[_APPLICATION_USE])
    return found[1].decode() if found else None
