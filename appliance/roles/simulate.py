"""`serve --simulate`: a Kahuna whose agents are played in its own process.

Every agent in the store is played at once, over the real protocol on a transport in memory, and
says of itself that it is simulated. A composition root.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from appliance.agent.client import AgentClient
from appliance.agent.dispatch import Dispatcher
from appliance.agent.fences import FenceBook
from appliance.agent.logring import LogRing
from appliance.agent.simulated import simulated_handlers
from appliance.agent.streams import log_stream
from appliance.core import crypto
from appliance.core.aio import Backoff, supervise
from appliance.core.clock import Clock, SystemClock
from appliance.core.files import ensure_private_directory
from appliance.core.ids import new_id
from appliance.core.logs import copied_to
from appliance.core.version import VERSION
from appliance.drivers.fake.node import SimulatedNode
from appliance.drivers.fake.world import World
from appliance.model.agent import AgentIdentity, CredentialKind
from appliance.roles.kahuna import KahunaConfig, Ready, open_kahuna
from appliance.rpc.hello import Greeting
from appliance.rpc.local import LocalDialer
from appliance.rpc.methods import Event
from appliance.rpc.proof import HmacCredential
from appliance.services.agents import Agents

_VERSION: Final = f"{VERSION} simulated"
_LOOK_S: Final = 0.2  # between looks for agents that were made meanwhile
_QUICK: Final = Backoff(first_s=0.2, max_s=2.0)


async def run_simulation(config: KahunaConfig, *, ready: Callable[[Ready], None]) -> None:
    """Run a Kahuna and, for every agent in its store, a simulated one over the real protocol.

    Raises as `run_kahuna` does.
    """
    clock = SystemClock()
    verifier = crypto.random_key()
    directory_of = _SimulatedDirectory.playing_with(verifier)
    async with open_kahuna(config, clock, directory_of=directory_of) as kahuna:
        place = config.state / "simulation"
        ensure_private_directory(place)
        with World(place / "world.db") as world:
            cast = _Cast(kahuna.services.agents, place, world, verifier, clock)
            dialer = LocalDialer(kahuna.services.hub)
            async with asyncio.TaskGroup() as group:
                group.create_task(supervise("simulation", lambda: cast.play(dialer), clock=clock))
                await kahuna.serve(ready)


class _SimulatedDirectory:
    """The agents' rows, except that every agent with or before a credential has the cast's key.

    A revoked one stays out, as a real one would.
    """

    def __init__(self, agents: Agents, verifier: bytes) -> None:
        self._agents = agents
        self._verifier = verifier

    @classmethod
    def playing_with(cls, verifier: bytes) -> "Callable[[Agents], _SimulatedDirectory]":
        return lambda agents: cls(agents, verifier)

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


class _Cast:
    """One player for each agent in the store."""

    def __init__(
        self, agents: Agents, place: Path, world: World, verifier: bytes, clock: Clock
    ) -> None:
        self._agents = agents
        self._place = place
        self._world = world
        self._verifier = verifier
        self._clock = clock
        self._boot_id = new_id()

    async def play(self, dialer: LocalDialer) -> None:
        """Look for agents for ever; each is played until it is revoked or deleted."""
        players: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                wanted = {
                    agent.id: agent
                    for agent in await self._agents.list()
                    if _is_played(agent.credential, agent.credential_serial)
                }
                for agent_id in players.keys() - wanted.keys():
                    players.pop(agent_id).cancel()
                for agent_id in wanted.keys() - players.keys():
                    agent = wanted[agent_id]
                    me = Greeting(
                        agent_id,
                        agent.type,
                        HmacCredential(self._verifier),
                        self._boot_id,
                        _VERSION,
                    )
                    players[agent_id] = group.create_task(self._run(me, agent.name, dialer))
                await self._clock.sleep(_LOOK_S)

    async def _run(self, me: Greeting, name: str, dialer: LocalDialer) -> None:
        """Play one agent until cancelled."""
        logger = f"{__name__}.{me.agent_id}"
        log: structlog.stdlib.BoundLogger = structlog.get_logger(logger)
        ring = LogRing()
        clients: list[AgentClient] = []

        def send_event(event: Event) -> None:
            for client in clients:
                client.send_event(event)

        node = SimulatedNode(me.agent_id, self._world, clock=self._clock)
        handlers = simulated_handlers(
            node, me.type, version=me.version, boot_id=me.boot_id, send_event=send_event
        )
        with copied_to(ring, logger=logger):
            async with (
                FenceBook.open(self._place / f"{me.agent_id}.fences") as fences,
                Dispatcher(handlers, fences) as dispatcher,
            ):
                client = AgentClient(
                    ("local",),
                    me,
                    dispatcher,
                    dialer=dialer,
                    clock=self._clock,
                    stream_kinds={"log": log_stream(ring, me.agent_id)},
                    on_connected=lambda: log.info("simulated_agent_connected", simulated=True),
                    backoff=_QUICK,
                )
                clients.append(client)
                log.info("simulated_agent_started", simulated=True, name=name, type=me.type)
                await client.run()


def _is_played(credential: CredentialKind, serial: int) -> bool:
    """Tell whether an agent is played: any but a revoked one."""
    return credential is not CredentialKind.NONE or serial == 0
