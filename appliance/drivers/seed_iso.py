"""Build the NoCloud CD-ROM of an instance in memory, and tell which content one holds.

The digest of the content lies in the volume descriptor's "application use" area, where no guest
looks, so that a medium can be compared without being taken apart.
"""

import io
import re
from typing import Final

from pycdlib.pycdlib import PyCdlib

from appliance.model.storage import SeedSpec, seed_digest

DIGEST_AREA_BYTES: Final = 17 * 2048  # up to the end of the primary volume descriptor
_DESCRIPTOR: Final = 16 * 2048
_APPLICATION_USE: Final = slice(_DESCRIPTOR + 883, _DESCRIPTOR + 883 + 512)  # ECMA-119, 8.4.31
_DIGEST: Final = re.compile(rb"kowabunga-seed:([0-9a-f]{64}) *\0*")


def build_seed(seed: SeedSpec) -> bytes:
    """Return an ISO 9660 image labelled `cidata`.

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
    for number, (name, text) in enumerate(
        (
            ("meta-data", seed.meta_data),
            ("user-data", seed.user_data),
            ("network-config", seed.network_config),
        )
    ):
        content = text.encode()
        iso.add_fp(
            io.BytesIO(content),
            len(content),
            f"/FILE{number}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
        )
    medium = io.BytesIO()
    iso.write_fp(medium)
    iso.close()
    return medium.getvalue()


def read_digest(head: bytes) -> str | None:
    """Return the digest from a medium's first `DIGEST_AREA_BYTES`; None: it is none of ours."""
    found = _DIGEST.fullmatch(head[_APPLICATION_USE])
    return found[1].decode() if found else None
