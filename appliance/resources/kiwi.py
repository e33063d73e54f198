"""Kiwi: the routers of a region."""

from typing import Annotated

import msgspec
from msgspec import UNSET

from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_references, check_text


class Kiwi(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The SD-WAN routers of a region: routing, firewall, DHCP, DNS and VPN."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among Kiwis")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    agents: Annotated[
        Maybe[list[str]], about("Ids of the Kiwi agents that act for it", implied=[])
    ] = UNSET


def check_kiwi(kiwi: Kiwi) -> None:
    """Accept a Kiwi by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(kiwi.name)
    check_text(given(kiwi.description, ""))
    check_references(given(kiwi.agents, []), "agents")
