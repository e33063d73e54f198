"""The cast of a simulation: one player for each agent in the store.

A player is a real agent (protocol, dispatcher, handlers) on a transport in memory, whose drivers
are fakes. It says of itself that it is simulated.
"""

import asyncio
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from appliance.agent.client import AgentClient
from appliance.agent.consoles import console_streams
from appliance.agent.dispatch import Dispatcher
from appliance.agent.fences import FenceBook
from appliance.agent.logring import LogRing
from appliance.agent.simulated import simulated_handlers
from appliance.agent.streams import log_stream
from appliance.core import crypto
from appliance.core.aio import Backoff
from appliance.core.clock import Clock
from appliance.core.ids import new_id
from appliance.core.logs import copied_to
from appliance.core.version import VERSION
from appliance.drivers.fake.faults import Faults
from appliance.drivers.fake.node import SimulatedNode
from appliance.drivers.fake.world import World
from appliance.model.agent import AgentIdentity, AgentType, CredentialKind
from appliance.rpc.hello import Greeting
from appliance.rpc.local import LocalDialer
from appliance.rpc.methods import Event
from appliance.rpc.proof import HmacCredential
from appliance.services.agents import Agent, Agents

_VERSION: Final = f"{VERSION} simulated"
_LOOK_S: Final = 0.2
_QUICK: Final = Backoff(first_s=0.2, max_s=2.0)


class Cast:
    """Plays every agent; implements `services.simulation.Stage`.

    All share one book of fences, which is stricter than one book each and does not take a thread
    and a file for each of a thousand nodes.
    """

    def __init__(self, clock: Clock, *, look_s: float = _LOOK_S) -> None:
        """`look_s`: pause between looks for agents that were made or ended meanwhile."""
        self._clock = clock
        self._look_s = look_s
        self._verifier = crypto.random_key()
        self._boot_id = new_id()
        self._nodes: dict[str, SimulatedNode] = {}
        self._woken = asyncio.Event()

    def faults_of(self, agent_id: str) -> Faults | None:
        node = self._nodes.get(agent_id)
        return None if node is None else node.faults

    def look(self) -> None:
        self._woken.set()

    def directory_of(self, agents: Agents) -> "PlayedDirectory":
        """Return the directory that lets the players in."""
        return PlayedDirectory(agents, self._verifier)

    async def play(self, place: Path, agents: Agents, dialer: LocalDialer) -> None:
        """Look for agents for ever; each is played until it is revoked or deleted.

        `place`: the directory that keeps the nodes' things, and the fences.

        Raises:
            Corrupt: the fences are damaged.
        """
        players: dict[str, asyncio.Task[None]] = {}
        with World(place / "world.db") as world:
            async with FenceBook.open(place / "fences.db") as fences, asyncio.TaskGroup() as group:
                while True:
                    wanted = {
                        agent.id: agent
                        for agent in await agents.list()
                        if _is_played(agent.credential, agent.credential_serial)
                    }
                    for agent_id in players.keys() - wanted.keys():
                        players.pop(agent_id).cancel()
                    for agent_id in wanted.keys() - players.keys():
                        run = self._run(wanted[agent_id], world, fences, dialer)
                        players[agent_id] = group.create_task(run)
                    await self._pause()

    async def _pause(self) -> None:
        """Sleep until the next look for agents."""
        async with asyncio.TaskGroup() as group:
            slept = group.create_task(self._clock.sleep(self._look_s))
            woken = group.create_task(self._woken.wait())
            await asyncio.wait({slept, woken}, return_when=asyncio.FIRST_COMPLETED)
            slept.cancel()
            woken.cancel()
        self._woken.clear()

    async def _run(
        self, agent: Agent, world: World, fences: FenceBook, dialer: LocalDialer
    ) -> None:
        """Play one agent until cancelled. Its node, and what runs there, outlasts a cut."""
        me = Greeting(agent.id, agent.type, HmacCredential(self._verifier), self._boot_id, _VERSION)
        logger = f"{__name__}.{agent.id}"
        log: structlog.stdlib.BoundLogger = structlog.get_logger(logger)
        ring = LogRing()
        clients: list[AgentClient] = []

        def send_event(event: Event) -> None:
            for client in clients:
                client.send_event(event)

        node = SimulatedNode(agent.id, world, clock=self._clock)
        handlers = simulated_handlers(
            node, agent.type, version=me.version, boot_id=me.boot_id, send_event=send_event
        )
        is_kaktus = agent.type is AgentType.KAKTUS
        consoles = console_streams(node.compute, self._clock) if is_kaktus else {}
        self._nodes[agent.id] = node
        try:
            with copied_to(ring, logger=logger):
                async with Dispatcher(handlers, fences) as dispatcher:
                    client = AgentClient(
                        ("local",),
                        me,
                        dispatcher,
                        dialer=dialer,
                        clock=self._clock,
                        stream_kinds={"log": log_stream(ring, agent.id), **consoles},
                        on_connected=lambda: log.info("simulated_agent_connected", simulated=True),
                        backoff=_QUICK,
                    )
                    clients.append(client)
                    log.info(
                        "simulated_agent_started", simulated=True, name=agent.name, type=agent.type
                    )
                    while True:
                        await node.faults.wait_until_mended()
                        await _until_cut(client, node.faults)
                        log.info("simulated_agent_cut", simulated=True)
        finally:
            if self._nodes.get(agent.id) is node:  # not that of a player who came after us
                del self._nodes[agent.id]


async def _until_cut(client: AgentClient, faults: Faults) -> None:
    """Let the client hold its session until the node is cut off."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(client.run())
        await faults.wait_until_cut()
        running.cancel()


class PlayedDirectory:
    """The agents' rows, except that every agent with or before a credential has the cast's key.

    A revoked one stays out, as a real one would.
    """

    def __init__(self, agents: Agents, verifier: bytes) -> None:
        self._agents = agents
        self._verifier = verifier

    async def find(self, agent_id: str) -> AgentIdentity | None:
        identity = await self._agents.find(agent_id)
        if identity is None or not _is_played(identity.credential, identity.serial):
            return identity
        return dataclasses.replace(
            identity, credential=CredentialKind.HMAC, verifier=self._verifier, public_key=None
        )

    async def serials(self) -> Mapping[str, int]:
        return await self._agents.serials()

    async def may_speak(self, agent_id: str, about: str) -> bool:
        return await self._agents.may_speak(agent_id, about)


def _is_played(credential: CredentialKind, serial: int) -> bool:
    """Tell whether an agent is played: any but a revoked one."""
    return credential is not CredentialKind.NONE or serial == 0
