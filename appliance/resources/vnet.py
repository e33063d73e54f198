"""Virtual network: a layer-2 segment of a region."""

import re
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text, quoted
from appliance.resources.sizes import check_between
from appliance.resources.table import Children, Rule, Table, flat
from appliance.store.base import Row, Statement

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


def _insert(vnet_id: str, region_id: str, vnet: VNet, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "INSERT INTO vnet (id, region_id, name, description, vlan, interface, private,"
            " created_at_ms, updated_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                vnet_id,
                region_id,
                vnet.name,
                given(vnet.description, ""),
                given(vnet.vlan, 0),
                vnet.interface,
                int(given(vnet.private, otherwise=True)),
                now_ms,
                now_ms,
            ),
        )
    ]


def _update(vnet_id: str, vnet: VNet, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "UPDATE vnet SET name = ?, description = ?, vlan = ?, interface = ?, private = ?,"
            " generation = generation + 1, updated_at_ms = ? WHERE id = ?",
            (
                vnet.name,
                given(vnet.description, ""),
                given(vnet.vlan, 0),
                vnet.interface,
                int(given(vnet.private, otherwise=True)),
                now_ms,
                vnet_id,
            ),
        )
    ]


def _subnets_of_the_other_side(vnet_id: str, _: str, vnet: VNet) -> Statement:
    return Statement(
        "SELECT subnet.id, subnet.cidr FROM subnet JOIN vnet ON vnet.id = subnet.vnet_id"
        " WHERE vnet.id = ? AND vnet.private <> ? ORDER BY subnet.id",
        (vnet_id, int(given(vnet.private, otherwise=True))),
    )


def _refuse_other_side(vnet: VNet, row: Row) -> None:
    wanted = "private" if given(vnet.private, otherwise=True) else "public"
    raise Invalid(
        f"virtual network {quoted(vnet.name)} cannot become {wanted}:"
        f" it has subnet {row['id']}, {row['cidr']}",
        field="private",
        hint="remove its subnets first",
    )


VNETS: Final = Table(
    kind="vnet",
    title="virtual network",
    struct=VNet,
    list_ids=Statement("SELECT id FROM vnet ORDER BY id"),
    list_children_ids=lambda region_id: Statement(
        "SELECT id FROM vnet WHERE region_id = ? ORDER BY id", (region_id,)
    ),
    find_named=lambda _, name: Statement("SELECT id FROM vnet WHERE name = ?", (name,)),
    read=lambda vnet_id: Statement(
        "SELECT id, name, description, vlan, interface, private, generation FROM vnet WHERE id = ?",
        (vnet_id,),
    ),
    decode=flat(VNet),
    guard=lambda vnet_id, generation: Statement(
        "SELECT EXISTS (SELECT 1 FROM vnet WHERE id = ? AND generation = ?)",
        (vnet_id, generation),
    ),
    check=check_vnet,
    insert=_insert,
    update=_update,
    delete=lambda vnet_id: [Statement("DELETE FROM vnet WHERE id = ?", (vnet_id,))],
    children=(
        Children(
            "subnets",
            lambda vnet_id: Statement(
                "SELECT COUNT(*) AS children FROM subnet WHERE vnet_id = ?", (vnet_id,)
            ),
        ),
        Children(
            "VRRP ids of projects",
            lambda vnet_id: Statement(
                "SELECT COUNT(*) AS children FROM vrrp_id WHERE vnet_id = ?", (vnet_id,)
            ),
        ),
    ),
    rules=(Rule(_subnets_of_the_other_side, _refuse_other_side),),
)
