"""Simulated networks: bridges that carry nothing, and a document of names that nobody asks."""

import secrets
from collections import Counter
from typing import Final

import msgspec

from appliance.core.errors import Busy, Conflict, Invalid
from appliance.drivers.fake.faults import Faults
from appliance.drivers.fake.world import World
from appliance.model.network import (
    BridgeList,
    BridgeSpec,
    ObservedBridge,
    ObservedRegionNetwork,
    RegionNetwork,
    region_network_digest,
)

_BRIDGE: Final = "bridge"
_PLUG: Final = "plug"
_REGION: Final = "region_network"


class _Plug(msgspec.Struct, frozen=True):
    """A running domain's interface in a bridge."""

    domain_id: str
    bridge: str


class Bridges:
    """The bridges of one simulated host, as both the network and the compute twin see them."""

    def __init__(self, world: World, node_id: str, *, foreign: frozenset[str]) -> None:
        """`foreign`: interfaces that the host has and that are not ours."""
        self._world = world
        self._place = f"node/{node_id}"
        self.foreign: Final = foreign

    def find(self, name: str) -> ObservedBridge | None:
        return self._world.find(self._place, _BRIDGE, name, ObservedBridge)

    def list_bridges(self) -> list[ObservedBridge]:
        return self._world.list_things(self._place, _BRIDGE, ObservedBridge)

    def put(self, spec: BridgeSpec) -> None:
        bridge = ObservedBridge(name=spec.name, vlan=spec.vlan, revision=secrets.token_hex(8))
        self._world.put(self._place, _BRIDGE, spec.name, bridge)

    def remove(self, name: str) -> None:
        self._world.remove(self._place, _BRIDGE, name)

    def plug(self, domain_id: str, mac: str, bridge: str) -> None:
        self._world.put(self._place, _PLUG, f"{domain_id}/{mac}", _Plug(domain_id, bridge))

    def unplug(self, domain_id: str, mac: str) -> None:
        self._world.remove(self._place, _PLUG, f"{domain_id}/{mac}")

    def list_plugged(self) -> set[str]:
        """Return the ids of the domains with a card in some bridge."""
        plugs = self._world.list_things(self._place, _PLUG, _Plug)
        return {plug.domain_id for plug in plugs}

    def is_used(self, name: str) -> bool:
        plugs = self._world.list_things(self._place, _PLUG, _Plug)
        return any(plug.bridge == name for plug in plugs)


class FakeHostNetworkDriver:
    """Implements `HostNetworkDriver` on a simulated world."""

    def __init__(self, bridges: Bridges, faults: Faults) -> None:
        self._bridges = bridges
        self._faults = faults

    async def ensure_bridge(self, spec: BridgeSpec) -> None:
        async with self._faults.around("network.ensure_bridge"):
            self._refuse_foreign(spec.name)
            self._bridges.put(spec)

    async def ensure_bridge_absent(self, name: str, *, revision: str | None = None) -> None:
        async with self._faults.around("network.ensure_bridge_absent"):
            self._refuse_foreign(name)
            bridge = self._bridges.find(name)
            if bridge and revision not in (None, bridge.revision):
                raise Busy(f"bridge {name} has been asked for meanwhile", interface=name)
            if self._bridges.is_used(name):
                raise Busy(f"a running domain is plugged into bridge {name}", interface=name)
            self._bridges.remove(name)

    async def list_bridges(self) -> BridgeList:
        async with self._faults.around("network.list_bridges"):
            return BridgeList(tuple(self._bridges.list_bridges()))

    def _refuse_foreign(self, name: str) -> None:
        if name in self._bridges.foreign:
            raise Conflict(
                f"interface {name} exists and was not made by Kowabunga",
                hint="choose another interface name for the vnet",
                interface=name,
            )


class FakeNetworkDriver:
    """Implements `NetworkDriver` on a simulated world."""

    def __init__(self, world: World, node_id: str, faults: Faults) -> None:
        self._world = world
        self._place = f"node/{node_id}"
        self._faults = faults

    async def ensure_region_network(self, network: RegionNetwork) -> ObservedRegionNetwork:
        async with self._faults.around("network.ensure_region"):
            _check_unique("zone", [zone.name for zone in network.dns_zones])
            for zone in network.dns_zones:
                _check_unique(f"name in zone {zone.name}", [r.name for r in zone.records])
            self._world.put(self._place, _REGION, _REGION, network)
            return self._observed()

    async def get_region_network(self) -> ObservedRegionNetwork:
        async with self._faults.around("network.get_region"):
            return self._observed()

    def _observed(self) -> ObservedRegionNetwork:
        served = self._world.find(self._place, _REGION, _REGION, RegionNetwork)
        network = served or RegionNetwork(generation=0, dns_zones=())
        return ObservedRegionNetwork(
            generation=network.generation, sha256=region_network_digest(network)
        )


def _check_unique(what: str, names: list[str]) -> None:
    twice = {name for name, times in Counter(names).items() if times > 1}
    if twice:
        raise Invalid(f"DNS {what} {min(twice)} is there twice", field="dns_zones")
