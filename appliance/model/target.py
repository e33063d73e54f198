"""Targets: the names by which operations lock things and agents fence effects."""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from appliance.core.errors import Invalid

TARGET_PATTERN: Final = r"^[a-z][a-z_]{0,31}/[0-9a-f]{24}$"
_TARGET: Final = re.compile(TARGET_PATTERN)


def target(kind: str, object_id: str) -> str:
    """Return the target of an object: "kind/id".

    Raises:
        Invalid: not a kind in snake case with an id of 24 hex digits.
    """
    name = f"{kind}/{object_id}"
    if not _TARGET.fullmatch(name):
        raise Invalid(f"{name!r} is not a target", hint="a target is kind/24 hex digits")
    return name


# What the databases of both sides can keep.
FenceNumber = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Fence(msgspec.Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """The right to act on a target: compared as (epoch, fence); a lower one has lost.

    `epoch` rises when a backup is restored, `fence` with each operation and each takeover.
    """

    epoch: FenceNumber
    fence: FenceNumber
