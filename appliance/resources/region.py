"""Region: a place whose zones share networks and storage."""

from typing import Annotated

import msgspec
from msgspec import UNSET

from appliance.resources.fields import Maybe, about, given
from appliance.resources.host_name import check_domain
from appliance.resources.names import check_name, check_text


class Region(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A place with its own networks, storage pools and Kiwi routers, made of zones."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among regions")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    domain: Annotated[str, about("DNS domain of the region's own records")]


def check_region(region: Region) -> None:
    """Accept a region by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(region.name)
    check_text(given(region.description, ""))
    check_domain(region.domain, min_labels=1)
