"""What a project costs in a month: worked out when asked, so that no stored price can drift.

Exact inside, rounded once to the float that the contract has. The rules are the original's
(behaviour.md, 14) but for its infinite prices:

- A host sells its threads and whole GiB of memory, each times its overcommit ratio, for its two
  prices; a storage pool sells its whole GiB. A zone's price, and a region's, is the plain mean of
  those of its hosts, and of its pools.
- What has not reported its size has no price yet and stays out of the mean; where nothing has
  reported, nothing is charged.
- Machines and disks use whole vCPUs and whole GiB, rounded down.
- Currencies are not converted: amounts are added as they are, under the currency that most of the
  sum is in.
"""

from collections import defaultdict
from fractions import Fraction
from typing import Final, NamedTuple

import msgspec

from appliance.resources.cost import DEFAULT_CURRENCY, Cost
from appliance.resources.table import Part
from appliance.store.base import Row, Statement


class Offer(NamedTuple):
    """What one host or pool sells where a project uses `used` units of it.

    Attributes:
        what: "vcpus", "memory" or "storage".
        place: the zone, or the region, whose mean it counts into.
        used: units that the project uses there; all offers of a place say the same.
        price: of all its units, a decimal text.
        units: that it has; 0 when it did not report yet.
    """

    what: str
    place: str
    used: int
    price: str
    currency: str
    units: int


def cost_of(offers: list[Offer]) -> Cost:
    """Return the sum over all places of what is used times the mean price of its offers."""
    places: dict[tuple[str, str], list[Offer]] = defaultdict(list)
    for offer in offers:
        if offer.units > 0:
            places[offer.what, offer.place].append(offer)
    amounts: dict[str, Fraction] = defaultdict(Fraction)
    for beside in places.values():
        for offer in beside:
            share = Fraction(offer.price) * offer.used / offer.units / len(beside)
            amounts[offer.currency or DEFAULT_CURRENCY] += share
    if not amounts:
        return Cost(price=0.0, currency=DEFAULT_CURRENCY)
    # Of equal amounts the first in the alphabet: the answer never depends on the order of rows.
    _, currency = min((-amount, name) for name, amount in amounts.items())
    return Cost(price=float(sum(amounts.values())), currency=currency)


def _decode(row: Row) -> Cost:
    return cost_of(msgspec.json.decode(str(row["offers"]), type=list[Offer]))


PROJECT_COST: Final = Part(
    struct=Cost,
    read=lambda project_id: Statement(
        "SELECT (SELECT json_group_array(json_array(what, place, used, price, currency, units))"
        " FROM ("
        "SELECT 'vcpus' AS what, demand.zone_id AS place, demand.vcpus AS used,"
        " kaktus.cpu_price AS price, kaktus.cpu_currency AS currency,"
        " kaktus.cpu_threads * kaktus.overcommit_cpu_ratio AS units"
        " FROM (SELECT host.zone_id, sum(instance.vcpus) AS vcpus FROM instance"
        " JOIN kaktus AS host ON host.id = instance.kaktus_id"
        " WHERE instance.project_id = project.id GROUP BY host.zone_id) AS demand"
        " JOIN kaktus ON kaktus.zone_id = demand.zone_id"
        " UNION ALL SELECT 'memory', demand.zone_id, demand.gib, kaktus.memory_price,"
        " kaktus.memory_currency,"
        " kaktus.memory_bytes / 1073741824 * kaktus.overcommit_memory_ratio"
        " FROM (SELECT host.zone_id, sum(instance.memory_bytes / 1073741824) AS gib FROM instance"
        " JOIN kaktus AS host ON host.id = instance.kaktus_id"
        " WHERE instance.project_id = project.id GROUP BY host.zone_id) AS demand"
        " JOIN kaktus ON kaktus.zone_id = demand.zone_id"
        " UNION ALL SELECT 'storage', demand.region_id, demand.gib, pool.price, pool.currency,"
        " pool.capacity_bytes / 1073741824"
        " FROM (SELECT own.region_id, sum(volume.size_bytes / 1073741824) AS gib FROM volume"
        " JOIN storage_pool AS own ON own.id = volume.storage_pool_id"
        " WHERE volume.project_id = project.id GROUP BY own.region_id) AS demand"
        " JOIN storage_pool AS pool ON pool.region_id = demand.region_id"
        ")) AS offers FROM project WHERE project.id = ?",
        (project_id,),
    ),
    decode=_decode,
)
