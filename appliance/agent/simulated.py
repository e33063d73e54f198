"""The handlers of an agent whose node is simulated: those of a real one, before the fakes."""

from appliance.agent.compute import EventSender, compute_handlers
from appliance.agent.dispatch import Handler
from appliance.agent.network import host_network_handlers, network_handlers
from appliance.agent.storage import storage_handlers
from appliance.drivers.fake.node import SimulatedNode
from appliance.model.agent import AgentType


def simulated_handlers(
    node: SimulatedNode, agent_type: AgentType, send_event: EventSender
) -> dict[str, Handler]:
    """Return what an agent of this type serves by method name; a Kontroller serves nothing yet."""
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
