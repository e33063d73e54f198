"""Faults of simulated nodes. On a Kahuna whose nodes are real there is nothing here."""

from typing import Annotated

import msgspec
from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from appliance.api.guards import allow
from appliance.api.services import Services
from appliance.core.errors import NotFound
from appliance.model.access import Allow
from appliance.model.fault import FaultError
from appliance.resources.fields import about
from appliance.services.simulation import SimulatedNodeView, Simulation


class Fail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    method: Annotated[
        str | None, about("Method of the agent protocol; null: any. compute.ensure_domain, ...")
    ] = None
    times: Annotated[int | None, about("How many calls fail; null: all until mended")] = 1
    after_effect: Annotated[bool, about("Do the work, then fail: the caller cannot know")] = False
    error: Annotated[FaultError, about("Code of the error")] = FaultError.DRIVER_FAILED


class Slow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    factor: Annotated[float, about("How many times as long everything takes")]


class SimulationController(Controller):
    """`node` is the id or name of a Kaktus, of a Kiwi, or of its agent."""

    path = "/sim"
    tags = ("simulation",)
    opt = allow(Allow.SUPER_ADMIN)

    @get("/nodes", operation_id="ListSimulatedNodes")
    async def list_nodes(self, services: NamedDependency[Services]) -> list[SimulatedNodeView]:
        """Return the simulated nodes and what troubles them."""
        return await _simulation(services).nodes()

    @post("/nodes/{node:str}/fail", operation_id="FailSimulatedNode", status_code=200)
    async def fail(
        self, services: NamedDependency[Services], node: FromPath[str], data: JSONBody[Fail]
    ) -> SimulatedNodeView:
        """Let the next calls to a node fail."""
        return await _simulation(services).fail(
            node,
            method=data.method,
            times=data.times,
            after_effect=data.after_effect,
            error=data.error,
        )

    @post("/nodes/{node:str}/slow", operation_id="SlowSimulatedNode", status_code=200)
    async def slow(
        self, services: NamedDependency[Services], node: FromPath[str], data: JSONBody[Slow]
    ) -> SimulatedNodeView:
        """Let everything on a node take longer."""
        return await _simulation(services).slow(node, data.factor)

    @post("/nodes/{node:str}/cut", operation_id="CutSimulatedNode", status_code=200)
    async def cut(
        self, services: NamedDependency[Services], node: FromPath[str]
    ) -> SimulatedNodeView:
        """Cut a node off the network; what runs on it goes on."""
        return await _simulation(services).cut(node)

    @post("/nodes/{node:str}/mend", operation_id="MendSimulatedNode", status_code=200)
    async def mend(
        self, services: NamedDependency[Services], node: FromPath[str]
    ) -> SimulatedNodeView:
        """End every fault of a node."""
        return await _simulation(services).mend(node)


def _simulation(services: Services) -> Simulation:
    if services.simulation is None:
        raise NotFound(
            "the nodes of this Kahuna are real, none is simulated",
            hint="faults can be injected only under kowabunga serve --simulate",
        )
    return services.simulation
