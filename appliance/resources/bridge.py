"""Bridges on a Kaktus: made for the domains that need them, and mended and removed by looking.

A change of a vnet's VLAN, and the end of the last instance in a vnet, reach a node in this way.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from appliance.core.errors import Busy
from appliance.model.network import BridgeSpec, ObservedBridge
from appliance.model.target import target
from appliance.operations.step import OnFailure, OperationKind, Step, StepContext
from appliance.resources.work import CHANGE_BUDGET_S, Work, read_rows
from appliance.rpc.method import Nothing
from appliance.rpc.network import (
    NETWORK_ENSURE_BRIDGE,
    NETWORK_ENSURE_BRIDGE_ABSENT,
    NETWORK_LIST_BRIDGES,
    BridgeRemoval,
)
from appliance.store.base import Statement


class WantedBridge(msgspec.Struct, frozen=True):
    """A bridge that an instance of a node has a card in; `vlans`: how many vnets claim its name."""

    name: str
    vlan: int
    vlans: int


def wanted_bridges(agent_id: str) -> Statement:
    """Select each `WantedBridge` of the node that an agent acts for."""
    return Statement(
        "SELECT vnet.interface AS name, min(vnet.vlan) AS vlan, count(DISTINCT vnet.vlan) AS vlans"
        " FROM kaktus_agent JOIN instance ON instance.kaktus_id = kaktus_agent.kaktus_id"
        " JOIN adapter ON adapter.instance_id = instance.id"
        " JOIN subnet ON subnet.id = adapter.subnet_id JOIN vnet ON vnet.id = subnet.vnet_id"
        " WHERE kaktus_agent.agent_id = ? GROUP BY vnet.interface",
        (agent_id,),
    )


class BridgeChanges(NamedTuple):
    unwanted: tuple[ObservedBridge, ...]
    differing: tuple[BridgeSpec, ...]  # or missing


def compare_bridges(
    wanted: Sequence[WantedBridge], seen: Sequence[ObservedBridge]
) -> BridgeChanges:
    """Tell what to do to bridges; one whose VLAN the vnets do not agree on is left as it is."""
    names = {row.name for row in wanted}
    vlans = {bridge.name: bridge.vlan for bridge in seen}
    return BridgeChanges(
        tuple(bridge for bridge in seen if bridge.name not in names),
        tuple(
            BridgeSpec(name=row.name, vlan=row.vlan)
            for row in wanted
            if row.vlans == 1 and vlans.get(row.name) != row.vlan
        ),
    )


async def _mend(context: StepContext[Work]) -> None:
    """Remove what nobody wants; the order of the two looks makes that safe.

    An instance has its rows before it asks for a bridge. So a bridge that is missing among the rows
    either is needed by nobody, or will be asked for after it was listed here: then its revision is
    another one and it stays, or it has been removed and is made anew.
    """
    agent_id, held = context.arguments.host_agent, target("kaktus", context.arguments.id)
    seen = (await context.call(agent_id, NETWORK_LIST_BRIDGES, Nothing(), target=held)).bridges
    wanted = await read_rows(context, WantedBridge, wanted_bridges(agent_id))
    changes = compare_bridges(wanted, seen)
    for bridge in changes.unwanted:
        removal = BridgeRemoval(bridge.name, bridge.revision)
        try:
            await context.call(agent_id, NETWORK_ENSURE_BRIDGE_ABSENT, removal, target=held)
        except Busy:
            continue  # the next look will tell
    for spec in changes.differing:
        await context.call(agent_id, NETWORK_ENSURE_BRIDGE, spec, target=held)


BRIDGES_MEND: Final = OperationKind(
    name="bridges_mend",
    arguments=Work,
    steps=(Step("mend", _mend),),
    on_failure=OnFailure.LEAVE,
    budget_s=CHANGE_BUDGET_S,
)
