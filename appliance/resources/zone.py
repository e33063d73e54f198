"""Zone: the part of a region that fails as one."""

from typing import Annotated

import msgspec
from msgspec import UNSET

from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text


class Zone(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of a region with its own Kaktus nodes; other zones live on when it fails."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among zones")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET


def check_zone(zone: Zone) -> None:
    """Accept a zone by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(zone.name)
    check_text(given(zone.description, ""))
