"""A region of simulated Kaktus nodes, made by the services that the API uses."""

import asyncio
from typing import Final

import msgspec

from appliance.model.agent import AgentType
from appliance.resources.agent import AGENTS
from appliance.resources.kaktus import KAKTUSES, Kaktus
from appliance.resources.region import REGIONS, Region
from appliance.resources.zone import ZONES, Zone
from appliance.services.agents import Agents
from appliance.services.catalog import Catalog
from appliance.store.base import Statement, Store

REGION: Final = "simulated"
_DOMAIN: Final = "simulated.example"
_ZONES: Final = ("simulated-a", "simulated-b", "simulated-c")
_ABOUT: Final = "made by serve --simulate-nodes"
_AT_ONCE: Final = 32  # writes that share commits


class SimulatedRegion(msgspec.Struct, frozen=True):
    """What is there now, and how many of the nodes were not there before."""

    region_id: str
    zones: tuple[str, ...]
    nodes: int
    made: int


async def ensure_simulated_region(
    store: Store, agents: Agents, catalog: Catalog, nodes: int
) -> SimulatedRegion:
    """Make `nodes` Kaktus nodes with their agents, in turn in the zones of one region.

    Idempotent by the names of the region, the zones and the agents: what is there stays as it is,
    also when it is more, or has another name by now; what was deleted is made again.
    """

    async def find(statement: Statement) -> str | None:
        rows = await store.query(statement)
        return str(rows[0]["id"]) if rows else None

    region_id = await find(REGIONS.find_named("", REGION))
    if region_id is None:
        region_id = str((await catalog.create(REGIONS, Region(name=REGION, domain=_DOMAIN))).id)
    zone_ids: list[str] = []
    for name in _ZONES[:nodes]:
        zone_id = await find(ZONES.find_named("", name))
        if zone_id is None:
            zone_id = str((await catalog.create(ZONES, Zone(name=name), REGIONS, region_id)).id)
        zone_ids.append(zone_id)
    turn = asyncio.Semaphore(_AT_ONCE)

    async def ensure_node(number: int) -> bool:
        name = f"{REGION}-{number:04}"
        async with turn:
            agent_id = await find(AGENTS.find_named("", name))
            if agent_id is None:
                agent_id = (await agents.register(name, AgentType.KAKTUS, _ABOUT)).id
            if await find(_acts_for(agent_id)) is not None:
                return False
            kaktus = Kaktus(name=name, description=_ABOUT, agents=[agent_id])
            await catalog.create(KAKTUSES, kaktus, ZONES, zone_ids[(number - 1) % len(zone_ids)])
        return True

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ensure_node(number)) for number in range(1, nodes + 1)]
    return SimulatedRegion(region_id, _ZONES[:nodes], nodes, sum(task.result() for task in tasks))


def _acts_for(agent_id: str) -> Statement:
    return Statement("SELECT kaktus_id AS id FROM kaktus_agent WHERE agent_id = ?", (agent_id,))
