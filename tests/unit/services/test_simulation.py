"""Which node is meant by a name, and what is put upon it."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.api.services import Services
from appliance.core.clock import SystemClock
from appliance.core.errors import Conflict, DriverError, Invalid, NotFound, Unavailable
from appliance.core.ids import new_id
from appliance.drivers.fake.faults import Faults
from appliance.model.agent import AgentType
from appliance.model.fault import FaultError
from appliance.resources.kaktus import KAKTUSES, Kaktus
from appliance.resources.zone import ZONES
from appliance.roles.kahuna import KahunaConfig, open_kahuna
from appliance.services.simulated_region import SimulatedRegion, ensure_simulated_region
from appliance.services.simulation import Simulation


class Handles:
    """Plays the agents that are named, and no other."""

    def __init__(self) -> None:
        self.of: dict[str, Faults] = {}
        self.looks = 0

    def faults_of(self, agent_id: str) -> Faults | None:
        return self.of.get(agent_id)

    def look(self) -> None:
        self.looks += 1


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncGenerator[Services]:
    config = KahunaConfig(
        state=tmp_path / "state", host="127.0.0.1", port=0, node_name="n1", plain=True
    )
    async with open_kahuna(config, SystemClock()) as kahuna:
        yield kahuna.services


@pytest_asyncio.fixture
async def region(services: Services) -> SimulatedRegion:
    return await ensure_simulated_region(services.store, services.agents, services.catalog, 4)


@pytest_asyncio.fixture
async def handles(services: Services, region: SimulatedRegion) -> Handles:
    assert region.nodes
    handles = Handles()
    for agent in await services.agents.list():
        handles.of[agent.id] = Faults(SystemClock())
    return handles


@pytest.fixture
def simulation(services: Services, handles: Handles) -> Simulation:
    return Simulation(services.store, handles, services.hub.reachable, services.clock)


@pytest.mark.usefixtures("handles")
async def test_nodes_are_spread_over_the_zones_of_one_region(services: Services) -> None:
    zones = await services.catalog.list_ids(ZONES)
    children = ZONES.list_children_ids
    assert children is not None
    below = KAKTUSES.list_children_ids
    assert below is not None
    spread = [len(await services.catalog.list_below(below, ZONES, zone)) for zone in zones]
    assert spread == [2, 1, 1]


async def test_a_second_start_makes_only_what_is_missing(
    services: Services, region: SimulatedRegion
) -> None:
    assert region.made == 4
    kaktuses = await services.catalog.list_ids(KAKTUSES)
    await services.catalog.delete(KAKTUSES, kaktuses[0])
    again = await ensure_simulated_region(services.store, services.agents, services.catalog, 6)
    assert (again.region_id, again.nodes, again.made) == (region.region_id, 6, 3)
    assert len(await services.agents.list()) == 6


async def test_a_node_is_found_by_each_of_its_names(
    simulation: Simulation, services: Services
) -> None:
    (first, *_) = await simulation.nodes()
    assert first.node_id is not None
    kaktus = await services.catalog.get(KAKTUSES, first.node_id)
    await services.catalog.update(
        KAKTUSES, first.node_id, Kaktus(name="other", agents=kaktus.agents)
    )
    for name in (first.agent_id, first.agent_name, first.node_id, "other"):
        assert (await simulation.cut(name)).agent_id == first.agent_id
    (found,) = [node for node in await simulation.nodes() if node.cut]
    assert (found.agent_id, found.node_name) == (first.agent_id, "other")
    assert not (await simulation.mend("other")).cut


async def test_what_is_not_one_played_node_is_refused(
    simulation: Simulation, services: Services, handles: Handles
) -> None:
    with pytest.raises(NotFound, match="sim list"):
        await simulation.cut("nothing")
    first, second, *_ = await simulation.nodes()
    assert second.node_id is not None
    await services.catalog.update(
        KAKTUSES, second.node_id, Kaktus(name="two", agents=[second.agent_id])
    )
    late = await services.agents.register("two", AgentType.KIWI)
    with pytest.raises(Conflict, match=f"{second.agent_id}, {late.id}"):
        await simulation.cut("two")
    with pytest.raises(Unavailable, match="not played"):
        await simulation.cut(late.id)
    del handles.of[first.agent_id]
    assert first.agent_id not in [node.agent_id for node in await simulation.nodes()]


async def test_failures_are_told_until_they_happened(
    simulation: Simulation, handles: Handles
) -> None:
    (node, *_) = await simulation.nodes()
    told = await simulation.fail(
        node.agent_id,
        method="compute.reboot",
        times=2,
        after_effect=True,
        error=FaultError.DRIVER_FAILED,
    )
    (failure,) = told.failures
    assert (failure.method, failure.left, failure.after_effect, failure.error) == (
        "compute.reboot",
        2,
        True,
        "driver_failed",
    )
    effects = 0
    with pytest.raises(DriverError):
        async with handles.of[node.agent_id].around("compute.reboot"):
            effects += 1
    assert effects == 1
    ((failure,),) = [each.failures for each in await simulation.nodes() if each.failures]
    assert failure.left == 1
    assert (await simulation.slow(node.agent_id, 3)).slowness == 3
    mended = await simulation.mend(node.agent_id)
    assert (mended.failures, mended.slowness) == ([], 1.0)


async def test_impossible_faults_are_refused(simulation: Simulation) -> None:
    (node, *_) = await simulation.nodes()
    for factor in (0.5, float("nan"), float("inf"), 1e9):
        with pytest.raises(Invalid):
            await simulation.slow(node.agent_id, factor)
    with pytest.raises(Invalid, match="no method"):
        await simulation.fail(node.agent_id, method="compute.fly")
    with pytest.raises(Invalid):
        await simulation.fail(node.agent_id, times=0)
    assert not (await simulation.nodes())[0].failures
    with pytest.raises(NotFound):
        await simulation.slow(new_id(), 2)


async def test_an_agent_is_waited_for_until_it_is_connected_but_not_a_cut_one(
    services: Services, handles: Handles
) -> None:
    connected: list[str] = []

    def reachable(agent_id: str) -> bool:
        connected.append(agent_id)
        return len(connected) > 2

    simulation = Simulation(services.store, handles, reachable, services.clock)
    first, second, *_ = handles.of
    await simulation.settle(first)
    assert connected == [first] * 3
    assert handles.looks == 1
    connected.clear()
    handles.of[second].cut()
    await simulation.settle(second)
    assert connected == [second]
