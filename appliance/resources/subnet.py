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
from appliance.resources.names import check_count, check_name, check_text

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


def check_subnet(subnet: Subnet, *, private: bool, zones: int) -> None:
    """Accept a subnet on a virtual network that is private or not, in a region of so many zones.

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


def _check_network(network: Network, *, private: bool) -> None:
    if not MIN_PREFIX_LENGTH <= network.prefix_length <= MAX_PREFIX_LENGTH:
        raise Invalid(
            f"cidr {network} has a prefix length of {network.prefix_length}; "
            f"{MIN_PREFIX_LENGTH} to {MAX_PREFIX_LENGTH} is allowed",
            field="cidr",
        )
    if any(network.overlaps(special) for special in _NEVER):
        raise Invalid(f"cidr {network} has addresses that no machine can have", field="cidr")
    if private and not any(network.within(range_) for range_ in _PRIVATE):
        raise Invalid(
            f"cidr {network} is not private, its virtual network is",
            field="cidr",
            hint="use a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
        )
    if not private and any(network.overlaps(range_) for range_ in _PRIVATE):
        raise Invalid(
            f"cidr {network} is private, its virtual network is not",
            field="cidr",
            hint="use public addresses, or a private virtual network",
        )


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
