"""Bridges on a Kaktus: made when a domain needs them, taken away when no instance there does."""

from typing import Final

import msgspec

from appliance.core.errors import Busy
from appliance.model.target import target
from appliance.operations.step import OnFailure, OperationKind, Step, StepContext
from appliance.resources.work import CHANGE_BUDGET_S, Work, read_rows
from appliance.rpc.method import Nothing
from appliance.rpc.network import (
    NETWORK_ENSURE_BRIDGE_ABSENT,
    NETWORK_LIST_BRIDGES,
    BridgeRemoval,
)
from appliance.store.base import Statement


class WantedBridge(msgspec.Struct, frozen=True):
    name: str


def wanted_bridges(agent_id: str) -> Statement:
    """Select the `WantedBridge` of each vnet in which an instance of the node has a card."""
    return Statement(
        "SELECT DISTINCT vnet.interface AS name FROM kaktus_agent"
        " JOIN instance ON instance.kaktus_id = kaktus_agent.kaktus_id"
        " JOIN adapter ON adapter.instance_id = instance.id"
        " JOIN subnet ON subnet.id = adapter.subnet_id JOIN vnet ON vnet.id = subnet.vnet_id"
        " WHERE kaktus_agent.agent_id = ?",
        (agent_id,),
    )


async def _remove_unwanted(context: StepContext[Work]) -> None:
    """Remove what nobody wants; the order of the two looks makes that safe.

    An instance has its rows before it asks for a bridge. So a bridge that is missing among the rows
    either is needed by nobody, or will be asked for after it was listed here: then its revision is
    another one and it stays, or it has been removed and is made anew.
    """
    agent_id, held = context.arguments.host_agent, target("kaktus", context.arguments.id)
    listed = await context.call(agent_id, NETWORK_LIST_BRIDGES, Nothing(), target=held)
    wanted = {row.name for row in await read_rows(context, WantedBridge, wanted_bridges(agent_id))}
    for bridge in listed.bridges:
        if bridge.name in wanted:
            continue
        removal = BridgeRemoval(bridge.name, bridge.revision)
        try:
            await context.call(agent_id, NETWORK_ENSURE_BRIDGE_ABSENT, removal, target=held)
        except Busy:
            continue  # the next look will tell


BRIDGES_CLEAR: Final = OperationKind(
    name="bridges_clear",
    arguments=Work,
    steps=(Step("remove", _remove_unwanted),),
    on_failure=OnFailure.LEAVE,
    budget_s=CHANGE_BUDGET_S,
)
