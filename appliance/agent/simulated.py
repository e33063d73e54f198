"""The handlers of an agent whose node is simulated: those of a real one, before the fakes."""

from typing import Final

from appliance.agent.compute import EventSender, compute_handlers
from appliance.agent.dispatch import Handler
from appliance.agent.network import host_network_handlers, network_handlers
from appliance.agent.storage import storage_handlers
from appliance.drivers.fake.node import SimulatedNode
from appliance.model.agent import AgentType
from appliance.rpc.method import Nothing
from appliance.rpc.methods import AGENT_DESCRIBE, AGENT_PING, AgentDescription

_HOST_NAME: Final = "simulated"


def simulated_handlers(
    node: SimulatedNode,
    agent_type: AgentType,
    *,
    version: str,
    boot_id: str,
    send_event: EventSender,
) -> dict[str, Handler]:
    """Return all that an agent of this type serves, by method name.

    Its description tells of the machine that is simulated, never of the one that simulates.
    """

    async def ping(_: Nothing) -> Nothing:
        return Nothing()

    async def describe(_: Nothing) -> AgentDescription:
        host = node.traits.host
        return AgentDescription(
            agent_id=node.node_id,
            type=agent_type,
            version=version,
            boot_id=boot_id,
            hostname=f"{_HOST_NAME}-{node.node_id}",
            architecture=host.architecture,
            cpu_count=host.cpu_threads,
            memory_total_bytes=host.memory_bytes,
            memory_available_bytes=host.memory_bytes,
            uptime_s=node.uptime_s,
        )

    return {
        AGENT_PING.name: ping,
        AGENT_DESCRIBE.name: describe,
        **_driver_handlers(node, agent_type, send_event),
    }


def _driver_handlers(
    node: SimulatedNode, agent_type: AgentType, send_event: EventSender
) -> dict[str, Handler]:
    match agent_type:
        case AgentType.KAKTUS:
            return {
                **compute_handlers(node.compute, send_event),
                **storage_handlers(node.storage, send_event),
                **host_network_handlers(node.host_network),
            }
        case AgentType.KIWI:
            return network_handlers(node.network)
        case AgentType.KONTROLLER:
            return {}
