"""Adapter: a virtual network card with addresses in one subnet."""

import re
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.allocation import assign_address, mac_candidates
from appliance.resources.fields import Maybe, about, given
from appliance.resources.ipv4 import (
    format_address,
    parse_address,
    parse_network,
    parse_range,
)
from appliance.resources.names import check_count, check_name, check_text, check_unique, quoted
from appliance.resources.subnet import Subnet
from appliance.resources.table import View
from appliance.store.base import Row, Statement

MAX_ADDRESSES: Final = 256

_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}")
_GROUP_BIT: Final = 1 << 40  # the lowest bit of the first octet (IEEE 802)


class Adapter(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A network card of a virtual machine, or a set of addresses that a router holds."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among adapters")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    mac: Annotated[Maybe[str], about("Hardware address; one is made if empty", implied="")] = UNSET
    addresses: Annotated[Maybe[list[str]], about("IPv4 addresses", implied=[])] = UNSET
    reserved: Annotated[
        Maybe[bool],
        about("Whether it belongs to a router, whose hardware address may repeat", default=False),
    ] = UNSET


def canonical_mac(mac: str) -> str:
    """Return the one form in which equal hardware addresses are equal texts."""
    return mac.lower()


def check_adapter(adapter: Adapter, subnet: Subnet | None = None) -> None:
    """Accept an adapter, in a subnet that was accepted; left out, it is not looked at.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(adapter.name)
    check_text(given(adapter.description, ""))
    if mac := given(adapter.mac, ""):
        _check_mac(mac)
    addresses = given(adapter.addresses, [])
    check_count(addresses, "addresses", maximum=MAX_ADDRESSES)
    check_unique(addresses, "addresses")
    router = given(adapter.reserved, otherwise=False)
    for index, text in enumerate(addresses):
        address = parse_address(text, f"addresses[{index}]")
        if subnet is not None:
            _check_address(address, f"addresses[{index}]", subnet, router=router)


def _check_mac(mac: str) -> None:
    if not _MAC.fullmatch(mac):
        raise Invalid(
            f"mac {quoted(mac)} is not a hardware address",
            field="mac",
            hint="the form is 00:11:22:33:44:55",
        )
    number = int(mac.replace(":", ""), 16)
    if number == 0 or number & _GROUP_BIT:
        raise Invalid(
            f"mac {mac} does not belong to one machine",
            field="mac",
            hint="the first octet is even, and not all are zero",
        )


def _check_address(address: int, field: str, subnet: Subnet, *, router: bool) -> None:
    network = parse_network(subnet.cidr, "cidr")
    text = format_address(address)
    if not network.has_host(address):
        raise Invalid(f"{field} {text} is no address of a machine in {network}", field=field)
    if router:
        return
    if text == subnet.gateway:
        raise Invalid(
            f"{field} {text} is the address of the subnet's router",
            field=field,
            hint="only a reserved adapter may have it",
        )
    for gateways in given(subnet.gw_pool, []):
        if parse_range(gateways.first, gateways.last, "gw_pool").has(address):
            raise Invalid(
                f"{field} {text} is kept for the gateways of a project",
                field=field,
                hint="only a reserved adapter may have an address of gw_pool",
            )


def insert_adapter(
    adapter_id: str,
    subnet_id: str,
    name: str,
    now_ms: int,
    *,
    description: str = "",
    reserved: bool = False,
    mac: str = "",
    addresses: Sequence[str] = (),
    automatic: bool = False,
    kompute_id: str | None = None,
    attached: tuple[str, int] | None = None,
) -> list[Statement]:
    """Make an adapter, for a batch that may hold more.

    Refused with a conflict of `adapter_address.address` when no address is left (see
    `allocation.exhausted`), of `adapter_address.subnet_id, adapter_address.address` when one is
    taken, of `adapter.name` when the name is. A hardware address that is given and taken clashes in
    an index without columns; one that is made is free.

    Without a `mac` one is made. `addresses` are checked texts, kept in their order; an `automatic`
    adapter has none and takes the lowest free one of the subnet. `attached` is the id of an
    instance and the place among that one's interfaces.
    """
    instance_id, position = attached or (None, None)
    return [
        Statement(
            "INSERT INTO adapter (id, subnet_id, kompute_id, name, description, mac, reserved,"
            " instance_id, position, created_at_ms, updated_at_ms) VALUES (?, ?, ?, ?, ?,"
            " coalesce(nullif(?, ''), (SELECT value FROM json_each(?) WHERE NOT EXISTS"
            " (SELECT 1 FROM adapter WHERE lower(adapter.mac) = value) LIMIT 1)), ?, ?, ?, ?, ?)",
            (
                adapter_id,
                subnet_id,
                kompute_id,
                name,
                description,
                mac,
                mac_candidates(),
                int(reserved),
                instance_id,
                position,
                now_ms,
                now_ms,
            ),
        ),
        assign_address(adapter_id, subnet_id)
        if automatic
        else _insert_addresses(adapter_id, addresses),
    ]


def _insert_addresses(adapter_id: str, addresses: Sequence[str]) -> Statement:
    return Statement(
        "INSERT INTO adapter_address (subnet_id, address, adapter_id, position)"
        " SELECT adapter.subnet_id, wanted.value, adapter.id, wanted.key"
        " FROM adapter, json_each(?) AS wanted WHERE adapter.id = ?",
        (_as_numbers(addresses), adapter_id),
    )


def _as_numbers(addresses: Sequence[str]) -> str:
    numbers = [parse_address(text, "addresses") for text in addresses]
    return msgspec.json.encode(numbers).decode()


def update_adapter(adapter_id: str, adapter: Adapter, now_ms: int) -> list[Statement]:
    """Write all of an adapter; refused by the same conflicts as `insert_adapter`."""
    return [
        Statement(
            "UPDATE adapter SET name = ?, description = ?, mac = ?, reserved = ?,"
            " generation = generation + 1, updated_at_ms = ? WHERE id = ?",
            (
                adapter.name,
                given(adapter.description, ""),
                given(adapter.mac, ""),
                int(given(adapter.reserved, otherwise=False)),
                now_ms,
                adapter_id,
            ),
        ),
        Statement("DELETE FROM adapter_address WHERE adapter_id = ?", (adapter_id,)),
        _insert_addresses(adapter_id, given(adapter.addresses, [])),
    ]


def delete_adapter(adapter_id: str) -> Statement:
    """Remove an adapter; its addresses are free at once."""
    return Statement("DELETE FROM adapter WHERE id = ?", (adapter_id,))


def _decode(row: Row) -> Adapter:
    numbers = msgspec.json.decode(str(row["addresses"]), type=list[int])
    addresses = [format_address(number) for number in numbers]
    return msgspec.convert(row | {"addresses": addresses}, Adapter, strict=False)


def who_has(subnet_id: str, addresses: Sequence[str], other_than: str) -> Statement:
    """Select the `id` and `name` of adapters that have one of the addresses, and that `address`."""
    return Statement(
        "SELECT adapter.id, adapter.name, taken.address FROM json_each(?) AS wanted"
        " JOIN adapter_address AS taken ON taken.subnet_id = ? AND taken.address = wanted.value"
        " JOIN adapter ON adapter.id = taken.adapter_id"
        " WHERE adapter.id <> ? ORDER BY wanted.key",
        (_as_numbers(addresses), subnet_id, other_than),
    )


def who_has_mac(mac: str, other_than: str) -> Statement:
    """Select the `id` and `name` of the adapter that has a hardware address to itself."""
    return Statement(
        "SELECT id, name FROM adapter WHERE lower(mac) = ? AND reserved = 0 AND id <> ?",
        (canonical_mac(mac), other_than),
    )


def place_of(adapter_id: str) -> Statement:
    """Select where an adapter is: its subnet, and the instance and Kompute it belongs to."""
    return Statement(
        "SELECT subnet_id, instance_id, kompute_id FROM adapter WHERE id = ?", (adapter_id,)
    )


def unchanged(adapter_id: str, generation: int, instance_id: str | None) -> Statement:
    """Select 1 while nobody changed an adapter or its attachment, and no Kompute owns it."""
    return Statement(
        "SELECT EXISTS (SELECT 1 FROM adapter WHERE id = ? AND generation = ?"
        " AND instance_id IS ? AND kompute_id IS NULL)",
        (adapter_id, generation, instance_id),
    )


# Those of a Kompute that is being made are hidden as it is.
ADAPTERS: Final = View(
    kind="adapter",
    title="adapter",
    struct=Adapter,
    list_ids=Statement(
        "SELECT adapter.id FROM adapter LEFT JOIN kompute ON kompute.id = adapter.kompute_id"
        " WHERE kompute.phase IS NOT 'creating' ORDER BY adapter.id"
    ),
    list_children_ids=lambda subnet_id: Statement(
        "SELECT adapter.id FROM adapter LEFT JOIN kompute ON kompute.id = adapter.kompute_id"
        " WHERE kompute.phase IS NOT 'creating'"
        " AND adapter.subnet_id = ? ORDER BY adapter.id",
        (subnet_id,),
    ),
    find_named=lambda _, name: Statement("SELECT id FROM adapter WHERE name = ?", (name,)),
    read=lambda adapter_id: Statement(
        "SELECT adapter.id, adapter.name, adapter.description, adapter.mac, adapter.reserved,"
        " adapter.generation, (SELECT json_group_array(address) FROM (SELECT address"
        " FROM adapter_address WHERE adapter_id = adapter.id ORDER BY position)) AS addresses"
        " FROM adapter LEFT JOIN kompute ON kompute.id = adapter.kompute_id"
        " WHERE kompute.phase IS NOT 'creating' AND adapter.id = ?",
        (adapter_id,),
    ),
    decode=_decode,
)
