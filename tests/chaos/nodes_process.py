"""Simulated nodes in a process of their own: real agents over real WebSockets, before fakes.

What is on the nodes lies in a file of all such processes, and each agent's fences in one of its
own, so a killed process begins again where the real things would be. Argument: its `Rack` as JSON.
"""

import asyncio
import random
import sys
from pathlib import Path
from typing import Final

import msgspec

from appliance.agent.client import AgentClient
from appliance.agent.consoles import console_streams
from appliance.agent.dial import WebSocketDialer
from appliance.agent.dispatch import Dispatcher
from appliance.agent.fences import FenceBook
from appliance.agent.simulated import simulated_handlers
from appliance.core.aio import Backoff
from appliance.core.clock import SystemClock
from appliance.core.errors import DriverError, Unavailable
from appliance.core.logs import configure_logs
from appliance.core.service import run_service
from appliance.drivers.fake.node import NodeTraits, SimulatedNode
from appliance.drivers.fake.storage import Internet, RemoteFile
from appliance.drivers.fake.world import World
from appliance.model.agent import AgentType
from appliance.rpc.hello import Greeting
from appliance.rpc.methods import Event
from appliance.rpc.proof import Ed25519Credential

_VERSION: Final = "chaos"
_QUICK: Final = Backoff(first_s=0.2, max_s=2.0)
_TRAITS: Final = NodeTraits(internet=Internet(default=RemoteFile(8 * 1024**2)), latency_s=0.002)


class Rack(msgspec.Struct, frozen=True):
    """What one process plays.

    Attributes:
        keys: the agents' private keys, by their ids.
        boot_id: of all machines in it.
        lost_power: whether they were off since the last process ended.
        trouble_s: pause between two calls that fail, on the average; 0: none does.
    """

    url: str
    world: str
    directory: str
    keys: dict[str, bytes]
    boot_id: str
    lost_power: bool
    trouble_s: float = 0


async def _play(rack: Rack, agent_id: str, world: World, dialer: WebSocketDialer) -> None:
    clock = SystemClock()
    node = SimulatedNode(agent_id, world, clock=clock, traits=_TRAITS)
    if rack.lost_power:
        node.compute.power_cycle_host()
    clients: list[AgentClient] = []

    def send_event(event: Event) -> None:
        for client in clients:
            client.send_event(event)

    handlers = simulated_handlers(
        node, AgentType.KAKTUS, version=_VERSION, boot_id=rack.boot_id, send_event=send_event
    )
    credential = Ed25519Credential(rack.keys[agent_id])
    me = Greeting(agent_id, AgentType.KAKTUS, credential, rack.boot_id, _VERSION)
    async with (
        FenceBook.open(Path(rack.directory) / f"{agent_id}.fences") as fences,
        Dispatcher(handlers, fences) as dispatcher,
    ):
        client = AgentClient(
            (rack.url,),
            me,
            dispatcher,
            dialer=dialer,
            clock=clock,
            stream_kinds=console_streams(node.compute, clock),
            backoff=_QUICK,
        )
        clients.append(client)
        async with asyncio.TaskGroup() as group:
            if rack.trouble_s:
                group.create_task(_trouble(node, rack.trouble_s * len(rack.keys)))
            await client.run()


async def _trouble(node: SimulatedNode, pause_s: float) -> None:
    """Let a call of the node fail now and then, before or after its effect."""
    while True:
        await asyncio.sleep(random.expovariate(1 / pause_s))
        node.faults.fail(
            after_effect=random.random() < 0.5, error=random.choice((DriverError, Unavailable))
        )


async def _play_all(rack: Rack) -> None:
    dialer = WebSocketDialer(None)
    # Another process may be frozen in the middle of a change.
    with World(Path(rack.world), patience_s=60) as world:
        async with asyncio.TaskGroup() as group:
            for agent_id in rack.keys:
                group.create_task(_play(rack, agent_id, world, dialer))


def main() -> None:
    configure_logs()
    run_service(_play_all(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Rack)))


if __name__ == "__main__":
    main()
