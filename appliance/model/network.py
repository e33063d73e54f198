"""Networks of nodes: bridges on a Kaktus, names of a region on a Kiwi, and their drivers."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final, Protocol

import msgspec
from msgspec import Meta

from appliance.model.fields import InterfaceName, MacAddress

PORT_PREFIX: Final = "kw"
# Marks our bridges for the packet filter: the kernel's group of interfaces (ip link set ... group).
BRIDGE_GROUP: Final = 0x6B6F


class BridgeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The bridge of a vnet on one node."""

    name: InterfaceName
    vlan: Annotated[int, Meta(ge=0, le=4094)]  # 0: untagged


class ObservedBridge(BridgeSpec, frozen=True, kw_only=True, order=True):
    """A bridge as it is.

    Attributes:
        revision: another one after each `ensure_bridge`, also of an equal bridge.
    """

    revision: str


class BridgeList(msgspec.Struct, frozen=True):
    """The bridges that we made on a node, by name."""

    bridges: tuple[ObservedBridge, ...]


class HostNetworkDriver(Protocol):
    """The bridges that domains plug into. Never changes or removes an interface we did not make."""

    async def ensure_bridge(self, spec: BridgeSpec) -> None:
        """Create the bridge, joined to its VLAN; repair one of ours that differs.

        Raises:
            Conflict: an interface of that name exists and is not ours, or the VLAN is another's.
            Unavailable: the uplink is not there or down.
        """
        ...

    async def ensure_bridge_absent(self, name: str, *, revision: str | None = None) -> None:
        """Remove the bridge; one that is not there is fine.

        With a `revision` that was listed before, only if nobody has ensured the bridge since.

        Raises:
            Conflict: the interface is not ours.
            Busy: a running domain is plugged into it, or it has been ensured since.
        """
        ...

    async def list_bridges(self) -> BridgeList: ...


def port_name(mac: str) -> str:
    """Return the name of the host's end of the network card with this MAC address."""
    return PORT_PREFIX + mac.replace(":", "")


class PortSpec(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """The host's end of a network card, and what its guest may send from it.

    Attributes:
        name: `port_name` of `mac`.
        addresses: IPv4 addresses; None: a router, any address of any protocol.
    """

    name: InterfaceName
    mac: MacAddress
    addresses: tuple[str, ...] | None


class PortFilter(Protocol):
    """Keeps guests from sending in another's name. Fails closed: a port without a rule is mute.

    Rules name ports, so they may be set before the port exists and must be set before it carries
    anything. Each call may be repeated, also after a crash inside it.
    """

    async def ensure_ports(self, domain_id: str, ports: tuple[PortSpec, ...]) -> None:
        """Let exactly these ports of the domain speak, as each may."""
        ...

    async def ensure_ports_absent(self, domain_id: str) -> None: ...

    async def replace_all(self, ports: Mapping[str, tuple[PortSpec, ...]]) -> None:
        """Let the ports of these domains speak and no others, whatever was set before."""
        ...

    async def list_ports(self) -> tuple[PortSpec, ...]:
        """Return the ports that may speak, and what, as it is in force now; sorted."""
        ...


class DnsRecord(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One name and its IPv4 addresses; `name` is relative to its zone."""

    name: Annotated[str, Meta(min_length=1, max_length=253)]
    addresses: tuple[str, ...]


class DnsZone(msgspec.Struct, frozen=True, kw_only=True, order=True):
    name: Annotated[str, Meta(min_length=1, max_length=253)]
    records: tuple[DnsRecord, ...]


class RegionNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """All that a Kiwi serves for its region: always whole, so that no delta can be lost."""

    generation: Annotated[int, Meta(ge=0)]
    dns_zones: tuple[DnsZone, ...]


class ObservedRegionNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """What a Kiwi serves; `sha256` is `region_network_digest` of it."""

    generation: int
    sha256: str


def region_network_digest(network: RegionNetwork) -> str:
    """Return a SHA-256 that is equal for equal content, whatever its order and generation."""
    zones = sorted(
        DnsZone(
            name=zone.name,
            records=tuple(
                sorted(
                    DnsRecord(name=record.name, addresses=tuple(sorted(record.addresses)))
                    for record in zone.records
                )
            ),
        )
        for zone in network.dns_zones
    )
    return hashlib.sha256(msgspec.json.encode(zones)).hexdigest()


class NetworkDriver(Protocol):
    """What a Kiwi serves to its region."""

    async def ensure_region_network(self, network: RegionNetwork) -> ObservedRegionNetwork:
        """Serve exactly this document; what it does not name is served no longer.

        A document equal to the one served reloads nothing.

        Raises:
            Invalid: two zones, or two records of one zone, have the same name.
        """
        ...

    async def get_region_network(self) -> ObservedRegionNetwork:
        """Return what is served now; generation 0 with the empty document's digest at first."""
        ...
