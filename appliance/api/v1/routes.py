"""Every operation of the contract that this server has: path, name, who may call it.

The one table that routing, authorisation and the served document follow from.
"""

from typing import Final

from appliance.api.guards import Allow
from appliance.api.v1.route import Route
from appliance.api.v1.standard import create, delete, list_all, list_below, read, update
from appliance.resources.region import REGIONS
from appliance.resources.zone import ZONES

_ALL: Final = Allow.AUTHENTICATED
_ADMIN: Final = Allow.SUPER_ADMIN

ROUTES: Final[tuple[Route, ...]] = (
    list_all(REGIONS, "/region", "ListRegions", "region", who=_ALL),
    create(REGIONS, None, "/region", "CreateRegion", "region", who=_ADMIN),
    read(REGIONS, "/region/{regionId}", "ReadRegion", "region", who=_ALL),
    update(REGIONS, "/region/{regionId}", "UpdateRegion", "region", who=_ADMIN),
    delete(REGIONS, "/region/{regionId}", "DeleteRegion", "region", who=_ADMIN),
    create(ZONES, REGIONS, "/region/{regionId}/zone", "CreateZone", "region zone", who=_ADMIN),
    list_below(
        ZONES, REGIONS, "/region/{regionId}/zones", "ListRegionZones", "region zone", who=_ADMIN
    ),
    list_all(ZONES, "/zone", "ListZones", "zone", who=_ALL),
    read(ZONES, "/zone/{zoneId}", "ReadZone", "zone", who=_ALL),
    update(ZONES, "/zone/{zoneId}", "UpdateZone", "zone", who=_ADMIN),
    delete(ZONES, "/zone/{zoneId}", "DeleteZone", "zone", who=_ADMIN),
)
