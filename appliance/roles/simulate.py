"""`serve --simulate`: a Kahuna whose agents are played in its own process.

A composition root: it wires and starts, it decides nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from appliance.core.aio import supervise
from appliance.core.clock import SystemClock
from appliance.core.files import ensure_private_directory
from appliance.roles.cast import Cast
from appliance.roles.kahuna import KahunaConfig, Ready, open_kahuna
from appliance.rpc.local import LocalDialer
from appliance.services.simulated_region import SimulatedRegion, ensure_simulated_region

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


async def run_simulation(
    config: KahunaConfig,
    *,
    ready: Callable[[Ready], None],
    nodes: int = 0,
    furnished: Callable[[SimulatedRegion], None] = lambda _: None,
) -> None:
    """Run a Kahuna and, for every agent in its store, a simulated one over the real protocol.

    With `nodes`, a region with that many Kaktus nodes is made first, if it is not there yet, and
    `furnished` is told of it.

    Raises as `run_kahuna` does.
    """
    clock = SystemClock()
    cast = Cast(clock)
    async with open_kahuna(config, clock, directory_of=cast.directory_of, stage=cast) as kahuna:
        services = kahuna.services
        if nodes:
            region = await ensure_simulated_region(
                services.store, services.agents, services.catalog, nodes
            )
            _log.info("simulated_region", nodes=region.nodes, made=region.made)
            furnished(region)
        place = config.state / "simulation"
        ensure_private_directory(place)
        dialer = LocalDialer(services.hub)

        def play() -> Awaitable[None]:
            return cast.play(place, services.agents, dialer)

        async with asyncio.TaskGroup() as group:
            group.create_task(supervise("simulation", play, clock=clock))
            await kahuna.serve(ready)
