"""A simulated node: the fakes of one agent, joined to one world and troubled by one handle.

Knows nothing about the agent protocol: `agent/simulated.py` puts the handlers of a real agent
before these drivers.
"""

from dataclasses import dataclass, field

from appliance.core.clock import Clock
from appliance.drivers.fake.compute import FakeComputeDriver, HostSize
from appliance.drivers.fake.faults import Faults
from appliance.drivers.fake.images import Images
from appliance.drivers.fake.network import Bridges, FakeHostNetworkDriver, FakeNetworkDriver
from appliance.drivers.fake.storage import FakeStorageDriver, Internet
from appliance.drivers.fake.world import World

_TIB = 1024**4


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTraits:
    """What kind of machine is simulated.

    Attributes:
        pool_capacity_bytes: of each storage pool that the node reaches.
        foreign_interfaces: interfaces that the node has and that Kowabunga did not make.
        latency_s: what each call of a driver takes; 0 takes no time at all.
    """

    host: HostSize = field(default_factory=HostSize)
    pool_capacity_bytes: int = 10 * _TIB
    foreign_interfaces: frozenset[str] = frozenset({"lo", "eth0"})
    internet: Internet = field(default_factory=Internet)
    latency_s: float = 0.005


class SimulatedNode:
    """A machine of either type: a Kaktus uses all drivers but `network`, a Kiwi only that one."""

    def __init__(
        self, node_id: str, world: World, *, clock: Clock, traits: NodeTraits | None = None
    ) -> None:
        """Find the node's things in the world, or begin with none.

        Args:
            node_id: its agent's id, under which the world keeps what is only on this node.
            world: shared by all nodes, so that nodes meet in the same RBD pool.
            clock: all time, and all waiting, goes by it.
            traits: of the machine.
        """
        self.traits = traits = traits or NodeTraits()
        images = Images(world, node_id, capacity_bytes=traits.pool_capacity_bytes)
        bridges = Bridges(world, node_id, foreign=traits.foreign_interfaces)
        self.node_id = node_id
        self._clock = clock
        self._started = clock.monotonic()
        self.faults = Faults(clock, latency_s=traits.latency_s)
        self.compute = FakeComputeDriver(
            world,
            node_id,
            images=images,
            bridges=bridges,
            faults=self.faults,
            clock=clock,
            size=traits.host,
        )
        self.storage = FakeStorageDriver(world, images, self.faults, clock, traits.internet)
        self.host_network = FakeHostNetworkDriver(bridges, self.faults)
        self.network = FakeNetworkDriver(world, node_id, self.faults)

    @property
    def uptime_s(self) -> float:
        """How long this process has simulated the node."""
        return self._clock.monotonic() - self._started
