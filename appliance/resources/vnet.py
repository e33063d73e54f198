"""Virtual network: a layer-2 segment of a region."""

import re
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text, quoted
from appliance.resources.sizes import check_between

MAX_VLAN: Final = 4095  # 12 bits of the tag (IEEE 802.1Q)

# IFNAMSIZ is 16 with the final NUL; the kernel's dev_valid_name() refuses blanks, "/" and ":".
# "%" would be a pattern to it, and a first letter or digit keeps options and dot files out.
_INTERFACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
# Folders of net.ipv4.conf that are no interface, and the loopback.
_NO_BRIDGES: Final = frozenset({"all", "default", "lo"})


class VNet(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A layer-2 segment of a region: a VLAN and the bridge that carries it on each Kaktus."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among virtual networks")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    vlan: Annotated[
        Maybe[int], about("VLAN number; 0 is untagged", implied=0, json_format="int64")
    ] = UNSET
    interface: Annotated[str, about("Name of the bridge on each Kaktus, such as br201")]
    private: Annotated[
        Maybe[bool], about("Whether it is inside (LAN) or reaches the outside (WAN)", default=True)
    ] = UNSET


def check_vnet(vnet: VNet) -> None:
    """Accept a virtual network by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(vnet.name)
    check_text(given(vnet.description, ""))
    check_between(given(vnet.vlan, 0), "vlan", 0, MAX_VLAN)
    if not _INTERFACE.fullmatch(vnet.interface) or vnet.interface in _NO_BRIDGES:
        raise Invalid(
            f"interface {quoted(vnet.interface)} cannot be the name of a bridge",
            field="interface",
            hint="1 to 15 letters, digits, dots, hyphens and underscores, such as br201",
        )
