"""Every operation of the contract that this server has: path, name, who may call it.

The one table that routing, authorisation and the served document follow from.
"""

from typing import Final

from litestar import Router

from appliance.api.v1.agents import AGENT_ROUTES
from appliance.api.v1.compute import COMPUTE_ROUTES
from appliance.api.v1.document import document_route
from appliance.api.v1.projects import PROJECT_ROUTES
from appliance.api.v1.route import Call, Route, handler_of
from appliance.api.v1.standard import (
    create,
    delete,
    list_all,
    list_below,
    read,
    read_part,
    set_default,
    update,
)
from appliance.api.v1.users import USER_ROUTES
from appliance.model.access import Allow
from appliance.resources.kaktus import KAKTUS_CAPS, KAKTUSES, Kaktus, list_instances
from appliance.resources.kiwi import KIWIS
from appliance.resources.region import REGIONS
from appliance.resources.storage_pool import STORAGE_POOLS, StoragePool, list_volumes
from appliance.resources.subnet import SUBNETS
from appliance.resources.team import TEAMS
from appliance.resources.vnet import VNETS
from appliance.resources.zone import ZONES

V1_PATH: Final = "/api/v1"

_ALL: Final = Allow.AUTHENTICATED
_ADMIN: Final = Allow.SUPER_ADMIN

_REGION: Final = "/region/{regionId}"
_ZONE: Final = "/zone/{zoneId}"
_KIWI: Final = "/kiwi/{kiwiId}"
_KAKTUS: Final = "/kaktus/{kaktusId}"
_VNET: Final = "/vnet/{vnetId}"
_SUBNET: Final = "/subnet/{subnetId}"
_POOL: Final = "/pool/{poolId}"
_TEAM: Final = "/team/{teamId}"


def _look_soon(call: Call, node: Kaktus | StoragePool) -> None:
    """Have the agents of a node looked at: they may have been connected long before it was made."""
    for agent_id in node.agents:
        call.services.compute.reconciler.agent_connected(agent_id)


ROUTES: Final[tuple[Route, ...]] = (
    list_all(REGIONS, "/region", "ListRegions", "region", who=_ALL),
    create(REGIONS, None, "/region", "CreateRegion", "region", who=_ADMIN),
    read(REGIONS, _REGION, "ReadRegion", "region", who=_ALL),
    update(REGIONS, _REGION, "UpdateRegion", "region", who=_ADMIN),
    delete(REGIONS, _REGION, "DeleteRegion", "region", who=_ADMIN),
    list_all(ZONES, "/zone", "ListZones", "zone", who=_ALL),
    create(ZONES, REGIONS, _REGION + "/zone", "CreateZone", "region zone", who=_ADMIN),
    list_below(
        ZONES.list_children_ids,
        REGIONS,
        _REGION + "/zones",
        "ListRegionZones",
        "region zone",
        who=_ADMIN,
    ),
    read(ZONES, _ZONE, "ReadZone", "zone", who=_ALL),
    update(ZONES, _ZONE, "UpdateZone", "zone", who=_ADMIN),
    delete(ZONES, _ZONE, "DeleteZone", "zone", who=_ADMIN),
    list_all(KIWIS, "/kiwi", "ListKiwis", "kiwi", who=_ADMIN),
    create(KIWIS, REGIONS, _REGION + "/kiwi", "CreateKiwi", "region kiwi", who=_ADMIN),
    list_below(
        KIWIS.list_children_ids,
        REGIONS,
        _REGION + "/kiwis",
        "ListRegionKiwis",
        "region kiwi",
        who=_ADMIN,
    ),
    read(KIWIS, _KIWI, "ReadKiwi", "kiwi", who=_ADMIN),
    update(KIWIS, _KIWI, "UpdateKiwi", "kiwi", who=_ADMIN),
    delete(KIWIS, _KIWI, "DeleteKiwi", "kiwi", who=_ADMIN),
    list_all(KAKTUSES, "/kaktus", "ListKaktuss", "kaktus", who=_ADMIN),
    create(
        KAKTUSES,
        ZONES,
        _ZONE + "/kaktus",
        "CreateKaktus",
        "zone kaktus",
        who=_ADMIN,
        after=_look_soon,
    ),
    list_below(
        KAKTUSES.list_children_ids,
        ZONES,
        _ZONE + "/kaktuses",
        "ListZoneKaktuses",
        "zone kaktus",
        who=_ADMIN,
    ),
    read(KAKTUSES, _KAKTUS, "ReadKaktus", "kaktus", who=_ADMIN),
    update(KAKTUSES, _KAKTUS, "UpdateKaktus", "kaktus", who=_ADMIN, after=_look_soon),
    delete(KAKTUSES, _KAKTUS, "DeleteKaktus", "kaktus", who=_ADMIN),
    read_part(
        KAKTUSES,
        KAKTUS_CAPS,
        _KAKTUS + "/caps",
        "ReadKaktusCaps",
        "kaktus",
        who=_ADMIN,
    ),
    list_below(
        list_instances,
        KAKTUSES,
        _KAKTUS + "/instances",
        "ListKaktusInstances",
        "kaktus instance",
        who=_ADMIN,
    ),
    list_all(VNETS, "/vnet", "ListVNets", "vnet", who=_ADMIN),
    create(VNETS, REGIONS, _REGION + "/vnet", "CreateVNet", "region vnet", who=_ADMIN),
    list_below(
        VNETS.list_children_ids,
        REGIONS,
        _REGION + "/vnets",
        "ListRegionVNets",
        "region vnet",
        who=_ADMIN,
    ),
    read(VNETS, _VNET, "ReadVNet", "vnet", who=_ADMIN),
    update(VNETS, _VNET, "UpdateVNet", "vnet", who=_ADMIN),
    delete(VNETS, _VNET, "DeleteVNet", "vnet", who=_ADMIN),
    list_all(SUBNETS, "/subnet", "ListSubnets", "subnet", who=_ADMIN),
    create(SUBNETS, VNETS, _VNET + "/subnet", "CreateSubnet", "vnet subnet", who=_ADMIN),
    list_below(
        SUBNETS.list_children_ids,
        VNETS,
        _VNET + "/subnets",
        "ListVNetSubnets",
        "vnet subnet",
        who=_ADMIN,
    ),
    read(SUBNETS, _SUBNET, "ReadSubnet", "subnet", who=Allow.PROJECT_MEMBER),
    update(SUBNETS, _SUBNET, "UpdateSubnet", "subnet", who=_ADMIN),
    delete(SUBNETS, _SUBNET, "DeleteSubnet", "subnet", who=_ADMIN),
    set_default(
        SUBNETS,
        VNETS,
        _VNET + "/subnet/{subnetId}/default",
        "SetVNetDefaultSubnet",
        "vnet subnet",
        who=_ADMIN,
    ),
    list_all(STORAGE_POOLS, "/pool", "ListStoragePools", "pool", who=_ADMIN),
    create(
        STORAGE_POOLS,
        REGIONS,
        _REGION + "/pool",
        "CreateStoragePool",
        "region pool",
        who=_ADMIN,
        after=_look_soon,
    ),
    list_below(
        STORAGE_POOLS.list_children_ids,
        REGIONS,
        _REGION + "/pools",
        "ListRegionStoragePools",
        "region pool",
        who=_ADMIN,
    ),
    read(STORAGE_POOLS, _POOL, "ReadStoragePool", "pool", who=_ADMIN),
    update(STORAGE_POOLS, _POOL, "UpdateStoragePool", "pool", who=_ADMIN, after=_look_soon),
    delete(STORAGE_POOLS, _POOL, "DeleteStoragePool", "pool", who=_ADMIN),
    set_default(
        STORAGE_POOLS,
        REGIONS,
        _REGION + "/pool/{poolId}/default",
        "SetRegionDefaultStoragePool",
        "region pool",
        who=_ADMIN,
    ),
    list_below(
        list_volumes,
        STORAGE_POOLS,
        _POOL + "/volumes",
        "ListStoragePoolVolumes",
        "pool volume",
        who=_ADMIN,
    ),
    list_all(TEAMS, "/team", "ListTeams", "team", who=_ADMIN),
    create(TEAMS, None, "/team", "CreateTeam", "team", who=_ADMIN),
    read(TEAMS, _TEAM, "ReadTeam", "team", who=_ADMIN),
    update(TEAMS, _TEAM, "UpdateTeam", "team", who=_ADMIN),
    delete(TEAMS, _TEAM, "DeleteTeam", "team", who=_ADMIN),
    *USER_ROUTES,
    *AGENT_ROUTES,
    *PROJECT_ROUTES,
    *COMPUTE_ROUTES,
)


def v1_router() -> Router:
    """Return what serves the routes, and the document that describes them."""
    return Router(
        V1_PATH, route_handlers=[*(handler_of(route) for route in ROUTES), document_route(ROUTES)]
    )
