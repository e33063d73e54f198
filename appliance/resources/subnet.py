"""Subnet: an IPv4 network on a virtual network, and who may have its addresses."""

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.ipv4 import (
    Network,
    Range,
    format_address,
    parse_address,
    parse_network,
    parse_range,
)
from appliance.resources.names import check_count, check_name, check_text, quoted
from appliance.resources.table import Children, Rule, Table
from appliance.store.base import Row, Statement

MAX_RANGES: Final = 256
MAX_ROUTES: Final = 256
# A wider network would hold private and public addresses at once, a narrower one no guest.
MIN_PREFIX_LENGTH: Final = 8
MAX_PREFIX_LENGTH: Final = 30

_PRIVATE: Final = tuple(
    parse_network(text, "private")
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")  # RFC 1918
)
_NEVER: Final = tuple(
    parse_network(text, "never")
    for text in (
        "0.0.0.0/8",  # this network (RFC 1122)
        "127.0.0.0/8",  # loopback (RFC 1122)
        "169.254.0.0/16",  # link-local (RFC 3927); the metadata service answers there
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved (RFC 1112) and limited broadcast
    )
)


class Application(StrEnum):
    """What a subnet is for."""

    USER = "user"
    CEPH = "ceph"


class IpRange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """IPv4 addresses from the first to the last, both included."""

    first: Annotated[str, about("First address")]
    last: Annotated[str, about("Last address")]


class Subnet(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An IPv4 network on a virtual network."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among subnets")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    cidr: Annotated[str, about("Network, such as 192.168.0.0/24")]
    gateway: Annotated[str, about("Address of the router")]
    dns: Annotated[
        Maybe[str], about("Address of the DNS server; the router's if empty", implied="")
    ] = UNSET
    extra_routes: Annotated[
        Maybe[list[str]], about("Further networks behind the router", implied=[])
    ] = UNSET
    reserved: Annotated[
        Maybe[list[IpRange]], about("Addresses that nobody is given by itself", implied=[])
    ] = UNSET
    gw_pool: Annotated[
        Maybe[list[IpRange]],
        about("Addresses of a project's Kawaii gateways, at least one for each zone", implied=[]),
    ] = UNSET
    application: Annotated[
        Maybe[Application],
        about("What it is for; ceph is never given to a project", default=Application.USER),
    ] = UNSET


def check_subnet(subnet: Subnet, *, private: bool | None = None, zones: int = 0) -> None:
    """Accept a subnet on a virtual network that is private or not, in a region of so many zones.

    Left out, both are not looked at.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(subnet.name)
    check_text(given(subnet.description, ""))
    network = parse_network(subnet.cidr, "cidr")
    _check_network(network, private=private)
    gateway = parse_address(subnet.gateway, "gateway")
    if not network.has_host(gateway):
        raise Invalid(
            f"gateway {subnet.gateway} is no address of a machine in {network}", field="gateway"
        )
    if dns := given(subnet.dns, ""):
        parse_address(dns, "dns")
    routes = given(subnet.extra_routes, [])
    check_count(routes, "extra_routes", maximum=MAX_ROUTES)
    for index, route in enumerate(routes):
        parse_network(route, f"extra_routes[{index}]")
    _parse_ranges(given(subnet.reserved, []), "reserved", network)
    gateways = _parse_ranges(given(subnet.gw_pool, []), "gw_pool", network)
    _check_gateway_pool(gateways, network, gateway, zones)


def _check_network(network: Network, *, private: bool | None) -> None:
    if not MIN_PREFIX_LENGTH <= network.prefix_length <= MAX_PREFIX_LENGTH:
        raise Invalid(
            f"cidr {network} has a prefix length of {network.prefix_length}; "
            f"{MIN_PREFIX_LENGTH} to {MAX_PREFIX_LENGTH} is allowed",
            field="cidr",
        )
    if any(network.overlaps(special) for special in _NEVER):
        raise Invalid(f"cidr {network} has addresses that no machine can have", field="cidr")
    if private is True and not _is_private(network):
        raise Invalid(
            f"cidr {network} is not private, its virtual network is",
            field="cidr",
            hint="use a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
        )
    if private is False and not _is_public(network):
        raise Invalid(
            f"cidr {network} is private, its virtual network is not",
            field="cidr",
            hint="use public addresses, or a private virtual network",
        )


def _is_private(network: Network) -> bool:
    return any(network.within(range_) for range_ in _PRIVATE)


def _is_public(network: Network) -> bool:
    return not any(network.overlaps(range_) for range_ in _PRIVATE)


def _parse_ranges(ranges: Sequence[IpRange], field: str, network: Network) -> list[Range]:
    """Read ranges that lie in the network and do not overlap each other.

    Both lists may hold the same addresses: reserving the gateway pool is superfluous, not wrong.
    """
    check_count(ranges, field, maximum=MAX_RANGES)
    found = [
        parse_range(item.first, item.last, f"{field}[{index}]") for index, item in enumerate(ranges)
    ]
    for index, item in enumerate(found):
        if not (network.has(item.first) and network.has(item.last)):
            raise Invalid(f"{field} {item} is not within {network}", field=f"{field}[{index}]")
    for lower, upper in pairwise(sorted(found)):
        if lower.overlaps(upper):
            raise Invalid(f"{field} {lower} and {upper} overlap", field=field)
    return found


def _check_gateway_pool(
    ranges: Sequence[Range], network: Network, gateway: int, zones: int
) -> None:
    for index, item in enumerate(ranges):
        for address, owner in (
            (network.first, "the network's own address"),
            (network.last, "the broadcast address"),
            (gateway, "the router's address"),
        ):
            if item.has(address):
                raise Invalid(
                    f"gw_pool {item} has {format_address(address)}, {owner}",
                    field=f"gw_pool[{index}]",
                )
    size = sum(item.size for item in ranges)
    if ranges and size < zones:
        raise Invalid(
            f"gw_pool has {size} addresses, the region has {zones} zones",
            field="gw_pool",
            hint="a gateway in each zone needs one",
        )


def _as_ranges(text: str) -> list[dict[str, str]]:
    return [
        {"first": format_address(first), "last": format_address(last)}
        for first, last in msgspec.json.decode(text, type=list[tuple[int, int]])
    ]


def _decode(row: Row) -> Subnet:
    fields = row | {
        "extra_routes": msgspec.json.decode(str(row["extra_routes"])),
        "reserved": _as_ranges(str(row["reserved"])),
        "gw_pool": _as_ranges(str(row["gw_pool"])),
    }
    return msgspec.convert(fields, Subnet)


def _insert_ranges(subnet_id: str, subnet: Subnet) -> Statement:
    rows = [
        (purpose, position, *parse_range(item.first, item.last, purpose))
        for purpose, ranges in (("reserved", subnet.reserved), ("gw_pool", subnet.gw_pool))
        for position, item in enumerate(given(ranges, []))
    ]
    return Statement(
        "INSERT INTO subnet_range (subnet_id, purpose, position, first, last)"
        " SELECT ?, value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)",
        (subnet_id, msgspec.json.encode(rows).decode()),
    )


def _insert(subnet_id: str, vnet_id: str, subnet: Subnet, now_ms: int) -> Sequence[Statement]:
    network = parse_network(subnet.cidr, "cidr")
    return [
        # The first of a virtual network becomes its default.
        Statement(
            "INSERT INTO subnet (id, vnet_id, name, description, cidr, gateway, dns, extra_routes,"
            " application, prefix_length, first_usable, last_usable, gateway_address, is_default,"
            " created_at_ms, updated_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,"
            " NOT EXISTS (SELECT 1 FROM subnet WHERE vnet_id = ? AND is_default = 1), ?, ?)",
            (
                subnet_id,
                vnet_id,
                subnet.name,
                given(subnet.description, ""),
                subnet.cidr,
                subnet.gateway,
                given(subnet.dns, ""),
                msgspec.json.encode(given(subnet.extra_routes, [])).decode(),
                given(subnet.application, Application.USER).value,
                network.prefix_length,
                network.first + 1,
                network.last - 1,
                parse_address(subnet.gateway, "gateway"),
                vnet_id,
                now_ms,
                now_ms,
            ),
        ),
        _insert_ranges(subnet_id, subnet),
    ]


def _update(subnet_id: str, subnet: Subnet, now_ms: int) -> Sequence[Statement]:
    network = parse_network(subnet.cidr, "cidr")
    return [
        Statement(
            "UPDATE subnet SET name = ?, description = ?, cidr = ?, gateway = ?, dns = ?,"
            " extra_routes = ?, application = ?, prefix_length = ?, first_usable = ?,"
            " last_usable = ?, gateway_address = ?, generation = generation + 1, updated_at_ms = ?"
            " WHERE id = ?",
            (
                subnet.name,
                given(subnet.description, ""),
                subnet.cidr,
                subnet.gateway,
                given(subnet.dns, ""),
                msgspec.json.encode(given(subnet.extra_routes, [])).decode(),
                given(subnet.application, Application.USER).value,
                network.prefix_length,
                network.first + 1,
                network.last - 1,
                parse_address(subnet.gateway, "gateway"),
                now_ms,
                subnet_id,
            ),
        ),
        Statement("DELETE FROM subnet_range WHERE subnet_id = ?", (subnet_id,)),
        _insert_ranges(subnet_id, subnet),
    ]


# Rules that need other rows. The virtual network of an update is the stored one.


def _vnet_of_the_other_side(subnet_id: str, vnet_id: str, subnet: Subnet) -> Statement:
    network = parse_network(subnet.cidr, "cidr")
    return Statement(
        "SELECT vnet.private FROM vnet"
        " WHERE vnet.id = coalesce((SELECT vnet_id FROM subnet WHERE id = ?), ?)"
        " AND CASE vnet.private WHEN 1 THEN NOT ? ELSE NOT ? END",
        (subnet_id, vnet_id, int(_is_private(network)), int(_is_public(network))),
    )


def _more_zones_than_gateways(subnet_id: str, vnet_id: str, subnet: Subnet) -> Statement:
    """Select the zones if they are more; a pool that a new zone outgrew may stay as it is."""
    size = sum(
        parse_range(item.first, item.last, "gw_pool").size for item in given(subnet.gw_pool, [])
    )
    return Statement(
        "SELECT zones FROM (SELECT COUNT(*) AS zones FROM zone"
        " JOIN vnet ON vnet.region_id = zone.region_id"
        " WHERE vnet.id = coalesce((SELECT vnet_id FROM subnet WHERE id = ?), ?))"
        " WHERE ? BETWEEN 1 AND zones - 1 AND ? IS NOT (SELECT SUM(last - first + 1)"
        " FROM subnet_range WHERE subnet_id = ? AND purpose = 'gw_pool')",
        (subnet_id, vnet_id, size, size, subnet_id),
    )


def _overlapping_subnets(subnet_id: str, vnet_id: str, subnet: Subnet) -> Statement:
    network = parse_network(subnet.cidr, "cidr")
    return Statement(
        "SELECT other.id, other.name, other.cidr FROM subnet AS other"
        " JOIN vnet ON vnet.id = other.vnet_id WHERE vnet.region_id ="
        " (SELECT region_id FROM vnet"
        " WHERE id = coalesce((SELECT vnet_id FROM subnet WHERE id = ?), ?))"
        " AND other.id <> ? AND other.first_usable <= ? AND other.last_usable >= ?"
        " ORDER BY other.id",
        (subnet_id, vnet_id, subnet_id, network.last, network.first),
    )


def _refuse_overlap(subnet: Subnet, row: Row) -> None:
    # One pair of routers serves a region, and to a router an address is in one place.
    raise Invalid(
        f"cidr {subnet.cidr} overlaps {row['cidr']} of subnet {quoted(str(row['name']))},"
        f" {row['id']}, in the same region",
        field="cidr",
        hint="choose other addresses, or remove that subnet first",
    )


def _adapters_left_outside(subnet_id: str, _: str, subnet: Subnet) -> Statement:
    network = parse_network(subnet.cidr, "cidr")
    return Statement(
        "SELECT adapter_id, address FROM adapter_address"
        " WHERE subnet_id = ? AND address NOT BETWEEN ? AND ? ORDER BY address",
        (subnet_id, network.first + 1, network.last - 1),
    )


def _refuse_outside(subnet: Subnet, row: Row) -> None:
    raise Invalid(
        f"cidr {subnet.cidr} leaves out {format_address(int(row['address'] or 0))}"
        f" of adapter {row['adapter_id']}",
        field="cidr",
        hint="give the adapter another address first",
    )


def _machines_at_routers_addresses(subnet_id: str, _: str, subnet: Subnet) -> Statement:
    """Select adapters of machines at the router's address or at those of gateways."""
    pool = [parse_range(item.first, item.last, "gw_pool") for item in given(subnet.gw_pool, [])]
    return Statement(
        "SELECT adapter.id, taken.address FROM adapter_address AS taken"
        " JOIN adapter ON adapter.id = taken.adapter_id"
        " WHERE taken.subnet_id = ? AND adapter.reserved = 0 AND (taken.address = ? OR EXISTS"
        " (SELECT 1 FROM json_each(?) AS kept"
        " WHERE taken.address BETWEEN kept.value ->> 0 AND kept.value ->> 1))"
        " ORDER BY taken.address",
        (subnet_id, parse_address(subnet.gateway, "gateway"), msgspec.json.encode(pool).decode()),
    )


def _refuse_routers_address(subnet: Subnet, row: Row) -> None:
    address = format_address(int(row["address"] or 0))
    field = "gateway" if address == subnet.gateway else "gw_pool"
    raise Invalid(
        f"{field} takes {address}, which adapter {row['id']} has",
        field=field,
        hint="give the adapter another address first",
    )


def _projects_of_storage(subnet_id: str, _: str, subnet: Subnet) -> Statement:
    return Statement(
        "SELECT project_id FROM project_region WHERE subnet_id = ? AND ? = 'ceph'",
        (subnet_id, given(subnet.application, Application.USER).value),
    )


def _refuse_storage(subnet: Subnet, row: Row) -> None:
    raise Invalid(
        f"subnet {quoted(subnet.name)} cannot be for ceph: project {row['project_id']} has it",
        field="application",
    )


SUBNETS: Final = Table(
    kind="subnet",
    title="subnet",
    struct=Subnet,
    list_ids=Statement("SELECT id FROM subnet ORDER BY id"),
    list_children_ids=lambda vnet_id: Statement(
        "SELECT id FROM subnet WHERE vnet_id = ? ORDER BY id", (vnet_id,)
    ),
    find_named=lambda _, name: Statement("SELECT id FROM subnet WHERE name = ?", (name,)),
    read=lambda subnet_id: Statement(
        "SELECT id, name, description, cidr, gateway, dns, extra_routes, application, generation,"
        " (SELECT json_group_array(json_array(first, last)) FROM"
        " (SELECT first, last FROM subnet_range"
        " WHERE subnet_id = subnet.id AND purpose = 'reserved' ORDER BY position)) AS reserved,"
        " (SELECT json_group_array(json_array(first, last)) FROM"
        " (SELECT first, last FROM subnet_range"
        " WHERE subnet_id = subnet.id AND purpose = 'gw_pool' ORDER BY position)) AS gw_pool"
        " FROM subnet WHERE id = ?",
        (subnet_id,),
    ),
    decode=_decode,
    guard=lambda subnet_id, generation: Statement(
        "SELECT EXISTS (SELECT 1 FROM subnet WHERE id = ? AND generation = ?)",
        (subnet_id, generation),
    ),
    check=check_subnet,
    insert=_insert,
    update=_update,
    delete=lambda subnet_id: [Statement("DELETE FROM subnet WHERE id = ?", (subnet_id,))],
    set_default=lambda vnet_id, subnet_id: [
        Statement(
            "UPDATE subnet SET is_default = 0 WHERE vnet_id = ? AND is_default = 1"
            " AND EXISTS (SELECT 1 FROM subnet AS next WHERE next.id = ? AND next.vnet_id = ?)",
            (vnet_id, subnet_id, vnet_id),
        ),
        Statement(
            "UPDATE subnet SET is_default = 1 WHERE id = ? AND vnet_id = ?", (subnet_id, vnet_id)
        ),
    ],
    children=(
        Children(
            "adapters",
            lambda subnet_id: Statement(
                "SELECT COUNT(*) AS children FROM adapter WHERE subnet_id = ?", (subnet_id,)
            ),
        ),
        Children(
            "projects",
            lambda subnet_id: Statement(
                "SELECT COUNT(*) AS children FROM project_region WHERE subnet_id = ?",
                (subnet_id,),
            ),
        ),
    ),
    rules=(
        Rule(
            _vnet_of_the_other_side,
            lambda subnet, row: check_subnet(subnet, private=bool(row["private"])),
        ),
        Rule(
            _more_zones_than_gateways,
            lambda subnet, row: check_subnet(subnet, zones=int(row["zones"] or 0)),
        ),
        Rule(_overlapping_subnets, _refuse_overlap),
        Rule(_adapters_left_outside, _refuse_outside),
        Rule(_machines_at_routers_addresses, _refuse_routers_address),
        Rule(_projects_of_storage, _refuse_storage),
    ),
)
