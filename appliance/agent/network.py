"""Serve the network methods with a driver. Decodes nothing and decides nothing."""

from appliance.agent.dispatch import Handler
from appliance.model.network import (
    BridgeList,
    BridgeSpec,
    HostNetworkDriver,
    NetworkDriver,
    ObservedRegionNetwork,
    RegionNetwork,
)
from appliance.rpc.method import Nothing
from appliance.rpc.network import (
    NETWORK_ENSURE_BRIDGE,
    NETWORK_ENSURE_BRIDGE_ABSENT,
    NETWORK_ENSURE_REGION,
    NETWORK_GET_REGION,
    NETWORK_LIST_BRIDGES,
    BridgeRemoval,
)


def host_network_handlers(driver: HostNetworkDriver) -> dict[str, Handler]:
    """Return the handlers of a Kaktus by method name."""

    async def ensure_bridge(params: BridgeSpec) -> Nothing:
        await driver.ensure_bridge(params)
        return Nothing()

    async def ensure_bridge_absent(params: BridgeRemoval) -> Nothing:
        await driver.ensure_bridge_absent(params.name, revision=params.revision)
        return Nothing()

    async def list_bridges(_: Nothing) -> BridgeList:
        return await driver.list_bridges()

    return {
        NETWORK_ENSURE_BRIDGE.name: ensure_bridge,
        NETWORK_ENSURE_BRIDGE_ABSENT.name: ensure_bridge_absent,
        NETWORK_LIST_BRIDGES.name: list_bridges,
    }


def network_handlers(driver: NetworkDriver) -> dict[str, Handler]:
    """Return the handlers of a Kiwi by method name."""

    async def ensure_region(params: RegionNetwork) -> ObservedRegionNetwork:
        return await driver.ensure_region_network(params)

    async def get_region(_: Nothing) -> ObservedRegionNetwork:
        return await driver.get_region_network()

    return {
        NETWORK_ENSURE_REGION.name: ensure_region,
        NETWORK_GET_REGION.name: get_region,
    }
