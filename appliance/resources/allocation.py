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


def assign_subnets(project_id: str, region_ids: str, prefix_length: int) -> Statement:
    """Give a project a private subnet in each region: the smallest free one that is large enough.

    Of equal ones the first, in the order of virtual networks, then of subnets. A subnet for storage
    is never given away, and neither is one in which a machine has an adapter already.

    Args:
        project_id: has none in these regions.
        region_ids: JSON array; each exists.
        prefix_length: of the smallest subnet that will do.
    """
    return Statement(
        "INSERT INTO project_region (project_id, region_id, subnet_id)"
        " SELECT ?, wanted.value, (SELECT subnet.id FROM subnet"
        " JOIN vnet ON vnet.id = subnet.vnet_id"
        " WHERE vnet.region_id = wanted.value AND vnet.private = 1"
        " AND subnet.application = 'user' AND subnet.prefix_length <= ?"
        " AND NOT EXISTS (SELECT 1 FROM project_region AS taken WHERE taken.subnet_id = subnet.id)"
        " AND NOT EXISTS (SELECT 1 FROM adapter WHERE adapter.subnet_id = subnet.id"
        " AND (adapter.instance_id IS NOT NULL OR adapter.kompute_id IS NOT NULL))"
        " ORDER BY subnet.prefix_length DESC, vnet.id, subnet.id LIMIT 1)"
        " FROM json_each(?) AS wanted",
        (project_id, prefix_length, region_ids),
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
