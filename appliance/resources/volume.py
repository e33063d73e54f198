"""Volume: a virtual disk."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text
from appliance.resources.sizes import check_disk, check_not_smaller


class VolumeType(StrEnum):
    OS = "os"  # cloned from a template
    ISO = "iso"  # a CD-ROM
    RAW = "raw"  # empty


class Volume(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A virtual disk of a project in a storage pool."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among volumes")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    type: Annotated[VolumeType, about("What is on it at first; cannot change")]
    size: Annotated[int, about("Size in bytes; can grow", json_format="int64")]


def check_volume(volume: Volume) -> None:
    """Accept a volume by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(volume.name)
    check_text(given(volume.description, ""))
    check_disk(volume.size, "size")


def check_volume_change(stored: Volume, wanted: Volume) -> None:
    """Accept an update.

    Raises:
        Invalid: another type, or a smaller size.
    """
    if wanted.type != stored.type:
        raise Invalid(
            f"volume {stored.name} is of type {stored.type} and cannot become {wanted.type}",
            field="type",
        )
    check_not_smaller(wanted.size, stored.size, "size")
