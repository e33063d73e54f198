"""What makes an interface ours: its alias, which the kernel keeps as long as the interface."""

import secrets
from typing import Final

import msgspec

from appliance.drivers.netlink.links import Link
from appliance.model.fields import InterfaceName

_PREFIX: Final = "kowabunga:"


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What we note on an interface of ours.

    Attributes:
        vlan: that the bridge shall join, or that the VLAN link carries.
        uplink: over which link; None: the bridge stays on this node.
        revision: another one each time that the bridge was asked for.
    """

    vlan: int
    uplink: InterfaceName | None
    revision: str = ""


def new_mark(vlan: int, uplink: str | None) -> Mark:
    return Mark(vlan=vlan, uplink=uplink, revision=secrets.token_hex(8))


def write_mark(mark: Mark) -> str:
    return _PREFIX + msgspec.json.encode(mark).decode()


def read_mark(link: Link) -> Mark | None:
    """Return what we noted, or None: the link is not ours."""
    if link.alias is None or not link.alias.startswith(_PREFIX):
        return None
    try:
        return msgspec.json.decode(link.alias.removeprefix(_PREFIX), type=Mark)
    except msgspec.DecodeError:
        return None
