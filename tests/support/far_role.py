"""A Kahuna, or a Kaktus whose drivers are simulated, as a process: the rest is what a node runs.

And a long way to a Kahuna, as a process on the node that has it to go.

Run: python -m tests.support.far_role kahuna|kaktus|way SETTINGS, with settings as JSON. A Kahuna
that gets SIGUSR1 writes the number of its tasks to the file `tasks` in its state directory.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from appliance.agent.compute import EventSender
from appliance.agent.simulated import simulated_handlers
from appliance.core.clock import SystemClock
from appliance.core.logs import configure_logs
from appliance.core.service import run_service
from appliance.drivers.fake.node import NodeTraits, SimulatedNode
from appliance.drivers.fake.world import World
from appliance.model.agent import AgentType
from appliance.roles.agent_role import AgentRoleConfig, Served, run_agent
from appliance.roles.kahuna import KahunaConfig, TlsFiles, run_kahuna
from tests.support.proxy import proxy_to

PORT: Final = 8443


class FarKahuna(msgspec.Struct, frozen=True, kw_only=True):
    """`certificate` and `key`: the owner's own, if given."""

    state: str
    names: tuple[str, ...]
    certificate: str = ""
    key: str = ""


class FarKaktus(msgspec.Struct, frozen=True, kw_only=True):
    """`latency_s`: what each call of a driver takes."""

    state: str
    credential: str
    url: str
    ca_file: str = ""
    latency_s: float = 0.1


class LongWay(msgspec.Struct, frozen=True, kw_only=True):
    """`delay_s`: what everything takes from the loopback to a Kahuna, and as much back."""

    kahuna: str
    delay_s: float


async def _kahuna(settings: FarKahuna) -> None:
    state = Path(settings.state)
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGUSR1, lambda: (state / "tasks").write_text(str(len(asyncio.all_tasks())))
    )
    config = KahunaConfig(
        state=state,
        host="0.0.0.0",
        port=PORT,
        node_name="far",
        names=settings.names,
        tls=TlsFiles(certificate=Path(settings.certificate), key=Path(settings.key))
        if settings.certificate
        else None,
    )
    await run_kahuna(config, ready=lambda _: print("ready", flush=True))


async def _kaktus(settings: FarKaktus) -> None:
    state = Path(settings.state)
    config = AgentRoleConfig(
        state=state,
        type=AgentType.KAKTUS,
        name="far",
        kahunas=(settings.url,),
        ca_file=Path(settings.ca_file) if settings.ca_file else None,
        credential_file=Path(settings.credential),
    )
    drivers = partial(_simulated, state, settings.latency_s)
    await run_agent(config, ready=lambda: print("ready", flush=True), drivers=drivers)


async def _way(settings: LongWay) -> None:
    async with proxy_to(PORT, target=settings.kahuna, own_port=PORT) as proxy:
        proxy.delay_s = settings.delay_s
        print("ready", flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def _simulated(
    state: Path, latency_s: float, send_event: EventSender
) -> AsyncGenerator[Served]:
    with World(state / "world.db") as world:
        traits = NodeTraits(latency_s=latency_s)
        node = SimulatedNode("far", world, clock=SystemClock(), traits=traits)
        yield Served(
            simulated_handlers(
                node, AgentType.KAKTUS, version="far", boot_id="far", send_event=send_event
            )
        )


if __name__ == "__main__":
    configure_logs()
    _, role, text = sys.argv
    match role:
        case "kahuna":
            run_service(_kahuna(msgspec.json.decode(text, type=FarKahuna)))
        case "kaktus":
            run_service(_kaktus(msgspec.json.decode(text, type=FarKaktus)))
        case _:
            run_service(_way(msgspec.json.decode(text, type=LongWay)))
