"""What Kahuna may ask a Kaktus about bridges and a Kiwi about its region: declarations only.

Effectful ones are fenced by the node that they change: "kaktus/ID", "kiwi/ID".
"""

from typing import Final

import msgspec

from appliance.model.fields import InterfaceName
from appliance.model.network import BridgeList, BridgeSpec, ObservedRegionNetwork, RegionNetwork
from appliance.rpc.method import AnyMethod, Method, Nothing, TimeoutClass


class BridgeRemoval(msgspec.Struct, frozen=True):
    """`revision`: only if nobody has ensured the bridge since it was listed with this one."""

    name: InterfaceName
    revision: str | None = None


NETWORK_ENSURE_BRIDGE: Final = Method(
    "network.ensure_bridge", BridgeSpec, Nothing, TimeoutClass.NORMAL, effectful=True,
    answered_by="agent", about="Create the bridge of a vnet on a Kaktus, joined to its VLAN.",
)  # fmt: skip
NETWORK_ENSURE_BRIDGE_ABSENT: Final = Method(
    "network.ensure_bridge_absent", BridgeRemoval, Nothing, TimeoutClass.NORMAL, effectful=True,
    answered_by="agent", about="Remove a bridge that no domain uses.",
)  # fmt: skip
NETWORK_LIST_BRIDGES: Final = Method(
    "network.list_bridges", Nothing, BridgeList, TimeoutClass.FAST, effectful=False,
    answered_by="agent", about="The bridges that we made on a Kaktus.",
)  # fmt: skip
NETWORK_ENSURE_REGION: Final = Method(
    "network.ensure_region", RegionNetwork, ObservedRegionNetwork, TimeoutClass.NORMAL,
    effectful=True, answered_by="agent",
    about="Replace all that a Kiwi serves for its region by this document.",
)  # fmt: skip
NETWORK_GET_REGION: Final = Method(
    "network.get_region", Nothing, ObservedRegionNetwork, TimeoutClass.FAST, effectful=False,
    answered_by="agent", about="Generation and digest of what a Kiwi serves.",
)  # fmt: skip

NETWORK_METHODS: Final[tuple[AnyMethod, ...]] = (
    NETWORK_ENSURE_BRIDGE, NETWORK_ENSURE_BRIDGE_ABSENT, NETWORK_LIST_BRIDGES,
    NETWORK_ENSURE_REGION, NETWORK_GET_REGION,
)  # fmt: skip
