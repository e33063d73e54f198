"""Faults of simulated nodes: which node is meant, and what is put upon it.

Knows no driver: whoever plays the nodes hands in the handles (`Stage`). Must not be given one by a
Kahuna whose nodes are real.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Protocol

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import (
    Conflict,
    DriverError,
    InsufficientResource,
    Invalid,
    KowabungaError,
    NotFound,
    Unavailable,
)
from appliance.model.agent import AgentType
from appliance.model.fault import FaultError
from appliance.resources.fields import about
from appliance.resources.names import quoted
from appliance.rpc.methods import METHODS
from appliance.store.base import Statement, Store, fetch

MAX_FACTOR: Final = 1_000_000.0  # of 5 ms: more than an hour
MAX_TIMES: Final = 1_000_000_000
_CONNECT_S: Final = 5.0  # an agent is played much sooner
_POLL_S: Final = 0.005


_CLASSES: Final[dict[FaultError, type[KowabungaError]]] = {
    FaultError.DRIVER_FAILED: DriverError,
    FaultError.UNAVAILABLE: Unavailable,
    FaultError.INSUFFICIENT_RESOURCE: InsufficientResource,
}


class PendingFailure(Protocol):
    """A failure that waits for its call."""

    @property
    def method(self) -> str | None: ...
    @property
    def left(self) -> int | None: ...
    @property
    def after_effect(self) -> bool: ...
    @property
    def error(self) -> type[KowabungaError]: ...


class NodeFaults(Protocol):
    """The handle on one simulated node."""

    @property
    def factor(self) -> float: ...
    @property
    def is_cut(self) -> bool: ...
    @property
    def failures(self) -> Sequence[PendingFailure]: ...
    def fail(
        self,
        *,
        method: str | None,
        times: int | None,
        after_effect: bool,
        error: type[KowabungaError],
    ) -> None: ...
    def slow(self, factor: float) -> None: ...
    def cut(self) -> None: ...
    def mend(self) -> None: ...


class Stage(Protocol):
    """Whoever plays the nodes."""

    def faults_of(self, agent_id: str) -> NodeFaults | None:
        """Return the handle on an agent's node; None: it is not played."""
        ...

    def look(self) -> None:
        """Have agents that were made just now played without delay."""
        ...


class FailureView(msgspec.Struct, frozen=True):
    method: Annotated[str | None, about("The method that fails; null: any")]
    left: Annotated[int | None, about("How many more calls fail; null: all until mended")]
    after_effect: Annotated[bool, about("Whether the work is done before the failure is told")]
    error: Annotated[str, about("Code of the error")]


class SimulatedNodeView(msgspec.Struct, frozen=True):
    """A simulated node and what troubles it."""

    agent_id: str
    agent_name: str
    type: AgentType
    node_id: Annotated[str | None, about("Id of the Kaktus or Kiwi that the agent acts for")]
    node_name: Annotated[str | None, about("Name of the Kaktus or Kiwi")]
    cut: Annotated[bool, about("Whether it is off the network")]
    slowness: Annotated[float, about("How many times longer than normal everything takes")]
    failures: list[FailureView]


class _Node(msgspec.Struct, frozen=True):
    agent_id: str
    agent_name: str
    type: AgentType
    node_id: str | None
    node_name: str | None


class Simulation:
    """What an operator of a simulated cloud does to its nodes."""

    def __init__(
        self, store: Store, stage: Stage, reachable: Callable[[str], bool], clock: Clock
    ) -> None:
        self._store = store
        self._stage = stage
        self._reachable = reachable
        self._clock = clock

    async def settle(self, agent_id: str) -> None:
        """Return once an agent is connected, unless its node is cut off.

        No client waits between an agent and what needs it. One that does not come in time is
        missed by what needs it.
        """
        end = self._clock.monotonic() + _CONNECT_S
        self._stage.look()
        while not self._reachable(agent_id) and self._clock.monotonic() < end:
            faults = self._stage.faults_of(agent_id)
            if faults is not None and faults.is_cut:
                return
            await self._clock.sleep(_POLL_S)

    async def nodes(self) -> list[SimulatedNodeView]:
        """Return the nodes that are played, by their agents' ids."""
        return [
            _view(node, faults)
            for node in await self._called(None)
            if (faults := self._stage.faults_of(node.agent_id)) is not None
        ]

    async def fail(
        self,
        node: str,
        *,
        method: str | None = None,
        times: int | None = 1,
        after_effect: bool = False,
        error: FaultError = FaultError.DRIVER_FAILED,
    ) -> SimulatedNodeView:
        """Let the next `times` calls of a method (None: of any) fail; None: all until mended.

        Raises:
            Invalid: no such method, or no such number.
            NotFound, Conflict, Unavailable: as `_find` says.
        """
        if method is not None and method not in METHODS:
            raise Invalid(
                f"agents have no method {quoted(method)}",
                hint="for instance compute.ensure_domain",
                field="method",
            )
        if times is not None and not 1 <= times <= MAX_TIMES:
            raise Invalid(f"1 to {MAX_TIMES} calls can fail", field="times")
        found, faults = await self._find(node)
        faults.fail(method=method, times=times, after_effect=after_effect, error=_CLASSES[error])
        return _view(found, faults)

    async def slow(self, node: str, factor: float) -> SimulatedNodeView:
        """Let everything on the node take `factor` times as long.

        Raises:
            Invalid: not a factor.
            NotFound, Conflict, Unavailable: as `_find` says.
        """
        if not (math.isfinite(factor) and 1 <= factor <= MAX_FACTOR):
            raise Invalid(f"a factor is between 1 and {MAX_FACTOR:g}", field="factor")
        found, faults = await self._find(node)
        faults.slow(factor)
        return _view(found, faults)

    async def cut(self, node: str) -> SimulatedNodeView:
        """Cut the node off the network; what runs on it goes on. Raises as `_find` does."""
        found, faults = await self._find(node)
        faults.cut()
        return _view(found, faults)

    async def mend(self, node: str) -> SimulatedNodeView:
        """End every fault of the node. Raises as `_find` does."""
        found, faults = await self._find(node)
        faults.mend()
        return _view(found, faults)

    async def _find(self, node: str) -> tuple[_Node, NodeFaults]:
        """Find a node by the id or name of its agent, or of its Kaktus or Kiwi.

        Raises:
            NotFound: nothing is called so.
            Conflict: several are.
            Unavailable: its agent is not played.
        """
        nodes = await self._called(node)
        if not nodes:
            raise NotFound(
                f"no node and no agent is called {quoted(node)}", hint="see kowabunga sim list"
            )
        if len(nodes) > 1:
            agents = ", ".join(found.agent_id for found in nodes)
            raise Conflict(
                f"{quoted(node)} is the name of more than one agent's node",
                hint=f"choose one by its agent's id: {agents}",
            )
        faults = self._stage.faults_of(nodes[0].agent_id)
        if faults is None:
            raise Unavailable(
                f"agent {nodes[0].agent_id} is not played",
                hint="a new agent is played within a second, one that was revoked never",
            )
        return nodes[0], faults

    async def _called(self, name: str | None) -> list[_Node]:
        """Return the agents' nodes that have this id or name; None: all."""
        return await fetch(
            self._store,
            _Node,
            Statement(
                "SELECT agent.id AS agent_id, agent.name AS agent_name, agent.type,"
                " COALESCE(kaktus.id, kiwi.id) AS node_id,"
                " COALESCE(kaktus.name, kiwi.name) AS node_name FROM agent"
                " LEFT JOIN kaktus_agent ON kaktus_agent.agent_id = agent.id"
                " LEFT JOIN kaktus ON kaktus.id = kaktus_agent.kaktus_id"
                " LEFT JOIN kiwi_agent ON kiwi_agent.agent_id = agent.id"
                " LEFT JOIN kiwi ON kiwi.id = kiwi_agent.kiwi_id"
                " WHERE ? IS NULL"
                " OR ? IN (agent.id, agent.name, kaktus.id, kaktus.name, kiwi.id, kiwi.name)"
                " ORDER BY agent.id",
                (name, name),
            ),
        )


def _view(node: _Node, faults: NodeFaults) -> SimulatedNodeView:
    return SimulatedNodeView(
        agent_id=node.agent_id,
        agent_name=node.agent_name,
        type=node.type,
        node_id=node.node_id,
        node_name=node.node_name,
        cut=faults.is_cut,
        slowness=faults.factor,
        failures=[
            FailureView(each.method, each.left, each.after_effect, each.error.code)
            for each in faults.failures
        ],
    )
