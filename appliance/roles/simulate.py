"""`serve --simulate`: a Kahuna whose agents are played in its own process."""

from collections.abc import Callable

from appliance.roles.kahuna import KahunaConfig, Ready


async def run_simulation(config: KahunaConfig, *, ready: Callable[[Ready], None]) -> None:
    """Run a Kahuna and, for every agent in its store, a simulated one over the real protocol.

    Raises as `run_kahuna` does.
    """
    raise NotImplementedError
