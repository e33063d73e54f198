"""What is given out once: addresses, private subnets, VRRP ids, hardware addresses.

Everything is chosen inside the INSERT that takes it, so two that ask at once never get the same.
When nothing is left the choice is NULL, which the column refuses: `exhausted` tells it from other
conflicts. Addresses are integers here.
"""

import secrets
from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec

from appliance.core.errors import Conflict
from appliance.resources.ipv4 import Range
from appliance.store.base import Statement

_MAC_PREFIX: Final = "da:1e:70"  # locally administered; what the original gives to guests
# With all three random bytes in use by half, one in 65,536 creates would find none of so many free.
_MAC_CANDIDATES: Final = 16


def assign_address(adapter_id: str, subnet_id: str) -> Statement:
    """Give an adapter without addresses the lowest free one of its subnet.

    Free is what is not the router's, not in `reserved` or `gw_pool`, and not another adapter's.
    The lowest free address is the first usable one or follows one that is not free, so only those
    are looked at: about 1 ms with 4,000 addresses taken in a row.
    """
    return Statement(
        "INSERT INTO adapter_address (subnet_id, address, adapter_id, position)"
        " SELECT subnet.id, (SELECT min(start.address) FROM ("
        "SELECT subnet.first_usable AS address"
        " UNION ALL SELECT subnet.gateway_address + 1"
        " UNION ALL SELECT last + 1 FROM subnet_range WHERE subnet_id = subnet.id"
        " UNION ALL SELECT address + 1 FROM adapter_address AS taken"
        " WHERE subnet_id = subnet.id AND NOT EXISTS (SELECT 1 FROM adapter_address AS next"
        " WHERE next.subnet_id = taken.subnet_id AND next.address = taken.address + 1)"
        ") AS start"
        " WHERE start.address BETWEEN subnet.first_usable AND subnet.last_usable"
        " AND start.address <> subnet.gateway_address"
        " AND NOT EXISTS (SELECT 1 FROM adapter_address AS taken"
        " WHERE taken.subnet_id = subnet.id AND taken.address = start.address)"
        " AND NOT EXISTS (SELECT 1 FROM subnet_range WHERE subnet_range.subnet_id = subnet.id"
        " AND start.address BETWEEN subnet_range.first AND subnet_range.last)"
        "), ?, 0 FROM subnet WHERE subnet.id = ?",
        (adapter_id, subnet_id),
    )


def mac_candidates() -> str:
    """Return random hardware addresses as a JSON array, for `insert_adapter` to take a free one."""
    return msgspec.json.encode(
        [
            ":".join((_MAC_PREFIX, *(f"{octet:02x}" for octet in secrets.token_bytes(3))))
            for _ in range(_MAC_CANDIDATES)
        ]
    ).decode()


def assign_subnets(project_id: str, region_ids: str) -> Statement:
    """Give a project a private subnet in each region where it has none.

    It is the smallest free one that has room for the project's `prefix_length`; of equal ones the
    first, in the order of virtual networks, then of subnets.

    Args:
        project_id: of a row that exists.
        region_ids: JSON array; each exists.
    """
    return Statement(
        "INSERT INTO project_region (project_id, region_id, subnet_id)"
        " SELECT project.id, wanted.value, (SELECT free.id FROM free_private_subnet AS free"
        " WHERE free.region_id = wanted.value AND free.prefix_length <= project.prefix_length"
        " ORDER BY free.prefix_length DESC, free.vnet_id, free.id LIMIT 1)"
        " FROM project, json_each(?) AS wanted WHERE project.id = ? AND wanted.value NOT IN"
        " (SELECT region_id FROM project_region WHERE project_id = project.id)",
        (region_ids, project_id),
    )


def regions_without_subnet(project_id: str, region_ids: str, prefix_length: int) -> Statement:
    """Select regions in which `assign_subnets` finds nothing: `id`, `name`, `prefix_length`.

    The prefix length is that of a project that is not a row yet.
    """
    return Statement(
        "SELECT region.id, region.name, size.prefix_length FROM json_each(?) AS wanted"
        " JOIN region ON region.id = wanted.value, (SELECT coalesce("
        "(SELECT prefix_length FROM project WHERE id = ?), ?) AS prefix_length) AS size"
        " WHERE wanted.value NOT IN (SELECT region_id FROM project_region WHERE project_id = ?)"
        " AND NOT EXISTS (SELECT 1 FROM free_private_subnet AS free"
        " WHERE free.region_id = wanted.value AND free.prefix_length <= size.prefix_length)"
        " ORDER BY wanted.key",
        (region_ids, project_id, prefix_length, project_id),
    )


def assign_vrrp_id(project_id: str, vnet_id: str, owner: str) -> Statement:
    """Give `owner`, a target, the lowest VRRP id that nobody has on the virtual network.

    Routers tell each other apart by this id within one segment (RFC 5798, 5.2.3), so it is unique
    there, whatever project they serve.
    """
    return Statement(
        "INSERT INTO vrrp_id (vnet_id, vrrp_id, project_id, owner)"
        " VALUES (?, (SELECT min(start.id) FROM (SELECT 1 AS id"
        " UNION ALL SELECT vrrp_id + 1 FROM vrrp_id WHERE vnet_id = ?) AS start"
        " WHERE start.id <= 255 AND NOT EXISTS (SELECT 1 FROM vrrp_id AS taken"
        " WHERE taken.vnet_id = ? AND taken.vrrp_id = start.id)), ?, ?)",
        (vnet_id, vnet_id, vnet_id, project_id, owner),
    )


def exhausted(conflict: Conflict, column: str) -> bool:
    """Tell whether a batch was refused because nothing was left for `column` ("table.column")."""
    return (
        conflict.context.get("constraint") == "not_null"
        and conflict.context.get("columns") == column
    )


def zone_gateways(zone_names: list[str], gw_pool: list[Range]) -> dict[str, int]:
    """Map each zone of a region to its gateway's address in a project's subnet.

    Zones in the order of their names, addresses in the order of the ranges; a zone for which no
    address is left has none.
    """
    return dict(zip(sorted(zone_names), islice(_addresses(gw_pool), len(zone_names)), strict=False))


def _addresses(ranges: list[Range]) -> Iterator[int]:
    for each in ranges:
        yield from range(each.first, each.last + 1)
