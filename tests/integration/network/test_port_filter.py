"""What a guest may send, proven with frames on cards of a real bridge behind real nftables."""

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import pytest
import pytest_asyncio

from appliance.core.errors import DriverError, Invalid, Unavailable
from appliance.drivers.netlink.bridges import LinuxBridges
from appliance.drivers.nftables import NftPortFilter
from appliance.model.network import BridgeSpec, PortSpec, port_name
from tests.support.clock import ManualClock
from tests.support.frames import (
    ANY,
    ARP,
    BROADCAST,
    EVERYBODY,
    arp,
    ethernet,
    router_advertisement,
    tagged,
    udp,
    udp6,
)
from tests.support.needs import need
from tests.support.netns import private_network
from tests.support.tap import Tap, ip

BRIDGE: Final = "br201"
GUEST: Final = "52:54:00:00:00:01"  # the MAC address of the guest in question
NEIGHBOUR: Final = "52:54:00:00:00:02"  # of another guest of the node
ROUTER: Final = "52:54:00:00:00:03"
OUTSIDE: Final = "02:00:00:00:00:04"  # of a machine behind the uplink
GUEST_IP: Final = "10.0.0.1"
OTHER_IP: Final = "10.0.0.9"
SECOND_IP: Final = "10.0.0.11"

LEGAL: Final = {
    "IPv4": udp(GUEST, GUEST_IP, OTHER_IP),
    "IPv4 from a second address": udp(GUEST, SECOND_IP, OTHER_IP),
    "IPv4 multicast": udp(GUEST, GUEST_IP, "224.0.0.18", destination="01:00:5e:00:00:12"),
    "ARP request": arp(GUEST, GUEST, GUEST_IP, OTHER_IP),
    "ARP answer": arp(GUEST, GUEST, GUEST_IP, OTHER_IP, operation=2),
    "ARP announcement": arp(GUEST, GUEST, GUEST_IP, GUEST_IP),
    "ARP probe": arp(GUEST, GUEST, ANY, GUEST_IP),
    "DHCP discover": udp(GUEST, ANY, EVERYBODY, ports=(68, 67)),
    "DHCP renewal": udp(GUEST, GUEST_IP, OTHER_IP, ports=(68, 67)),
}
ILLEGAL: Final = {
    "another's MAC": udp(NEIGHBOUR, GUEST_IP, OTHER_IP),
    "another's IPv4": udp(GUEST, OTHER_IP, "10.0.0.8"),
    "no IPv4": udp(GUEST, ANY, EVERYBODY),
    "no IPv4 to one server": udp(GUEST, ANY, OTHER_IP, ports=(68, 67)),
    "ARP from another's MAC": arp(NEIGHBOUR, GUEST, GUEST_IP, OTHER_IP),
    "ARP that names another's MAC": arp(GUEST, NEIGHBOUR, GUEST_IP, OTHER_IP),
    "ARP that names another's IPv4": arp(GUEST, GUEST, OTHER_IP, GUEST_IP),
    "ARP answer from no address": arp(GUEST, GUEST, ANY, OTHER_IP, operation=2),
    "ARP answer that names another's IPv4": arp(GUEST, GUEST, OTHER_IP, GUEST_IP, operation=2),
    "RARP": ethernet(GUEST, BROADCAST, 0x8035, arp(GUEST, GUEST, GUEST_IP, OTHER_IP)[14:]),
    "DHCP offer": udp(GUEST, GUEST_IP, EVERYBODY, ports=(67, 68)),
    "DHCPv6": udp6(
        GUEST, "fe80::1", "ff02::1:2", destination="33:33:00:01:00:02", ports=(547, 546)
    ),
    "router advertisement": router_advertisement(GUEST),
    "tagged": tagged(udp(GUEST, GUEST_IP, OTHER_IP), 202),
    "tagged with priority only": tagged(udp(GUEST, GUEST_IP, OTHER_IP), 0),
    "tagged twice": tagged(tagged(udp(GUEST, GUEST_IP, OTHER_IP), 202), 201),
    "802.1ad": tagged(udp(GUEST, GUEST_IP, OTHER_IP), 202, kind=0x88A8),
    "spanning tree": ethernet(GUEST, "01:80:c2:00:00:00", 38, b"\x42\x42\x03" + bytes(35)),
    "PPPoE": ethernet(GUEST, BROADCAST, 0x8863, bytes(46)),
    "no protocol": ethernet(GUEST, BROADCAST, 46, bytes(46)),
}
ROUTED: Final = {
    "IPv4 of others": udp(ROUTER, "198.51.100.7", GUEST_IP),
    "ARP of others": arp(ROUTER, ROUTER, OTHER_IP, GUEST_IP),
    "IPv6": udp6(ROUTER, "2001:db8::1", "ff02::1", destination=BROADCAST, ports=(4000, 4000)),
    "router advertisement": router_advertisement(ROUTER),
    "DHCP offer": udp(ROUTER, GUEST_IP, EVERYBODY, ports=(67, 68)),
}
NOT_ROUTED: Final = {
    "another's MAC": udp(GUEST, GUEST_IP, OTHER_IP),
    "tagged": tagged(udp(ROUTER, GUEST_IP, OTHER_IP), 202),
    "802.1ad": tagged(udp(ROUTER, GUEST_IP, OTHER_IP), 202, kind=0x88A8),
    "spanning tree": ethernet(ROUTER, "01:80:c2:00:00:00", 38, b"\x42\x42\x03" + bytes(35)),
}


def port(mac: str, *addresses: str) -> PortSpec:
    return PortSpec(name=port_name(mac), mac=mac, addresses=addresses)


GUEST_PORT: Final = port(GUEST, GUEST_IP, SECOND_IP)
ROUTER_PORT: Final = PortSpec(name=port_name(ROUTER), mac=ROUTER, addresses=None)


@dataclass(frozen=True)
class Segment:
    """A bridge with the cards of a guest and a router, and a machine outside."""

    filter: NftPortFilter
    clock: ManualClock
    guest: Tap
    router: Tap
    outside: Tap

    def passes(self, frame: bytes) -> bool:
        """Tell whether a frame of the guest comes out."""
        return passes(self.guest, frame, self.outside, OWN)

    def guest_is_mute(self) -> bool:
        """Tell whether even what is the guest's own is stopped: a neighbour speaks after it."""
        self.guest.send(OWN)
        return not passes(self.router, OWN, self.outside, ROUTERS)


_MARK: Final = b"all that was sent before has come or never will"

OWN: Final = udp(GUEST, GUEST_IP, OTHER_IP, payload=_MARK)
ROUTERS: Final = udp(ROUTER, OTHER_IP, GUEST_IP, payload=_MARK)


def passes(sender: Tap, frame: bytes, receiver: Tap, legal: bytes) -> bool:
    """Tell whether `frame` gets through; `legal`, which does, shows that it is time to judge."""
    sender.send(frame)
    sender.send(legal)
    return frame in receiver.receive_until(legal)


def nft(command: str) -> str:
    done = subprocess.run(
        [need("nft"), *command.split()], check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def network() -> Generator[ExitStack]:
    need("nft")
    with private_network(), ExitStack() as stack:
        yield stack


@pytest_asyncio.fixture
async def segment(network: ExitStack) -> AsyncGenerator[Segment]:
    bridges = LinuxBridges(None)
    network.callback(bridges.close)
    await bridges.ensure_bridge(BridgeSpec(name=BRIDGE, vlan=0))
    clock = ManualClock()
    ports = NftPortFilter(clock=clock)
    await ports.replace_all({"guest": (GUEST_PORT,), "router": (ROUTER_PORT,)})
    guest, router, outside = (
        network.enter_context(Tap(name, bridge=BRIDGE))
        for name in (GUEST_PORT.name, ROUTER_PORT.name, "outside0")
    )
    yield Segment(filter=ports, clock=clock, guest=guest, router=router, outside=outside)


class TestGuest:
    @pytest.mark.parametrize("frame", LEGAL.values(), ids=LEGAL.keys())
    async def test_sends_what_is_its_own(self, segment: Segment, frame: bytes) -> None:
        assert segment.passes(frame)

    @pytest.mark.parametrize("frame", ILLEGAL.values(), ids=ILLEGAL.keys())
    async def test_sends_nothing_else(self, segment: Segment, frame: bytes) -> None:
        assert not segment.passes(frame)

    async def test_spoofs_no_neighbour_on_its_node(self, segment: Segment) -> None:
        frame = arp(GUEST, GUEST, OTHER_IP, GUEST_IP, operation=2)
        assert not passes(segment.guest, frame, segment.router, OWN)

    async def test_is_stopped_by_nothing_but_the_filter(self, segment: Segment) -> None:
        nft("flush ruleset")
        assert [name for name, frame in ILLEGAL.items() if not segment.passes(frame)] == []

    async def test_receives_what_others_send(self, segment: Segment) -> None:
        frames = [
            udp(OUTSIDE, OTHER_IP, GUEST_IP, destination=GUEST),
            arp(OUTSIDE, OUTSIDE, OTHER_IP, GUEST_IP),
            udp(OUTSIDE, OTHER_IP, EVERYBODY, ports=(67, 68)),
        ]
        for frame in frames:
            segment.outside.send(frame)
        last = udp(OUTSIDE, OTHER_IP, GUEST_IP, destination=GUEST, payload=_MARK)
        segment.outside.send(last)
        received = segment.guest.receive_until(last)
        assert [frame for frame in received if frame in frames] == frames


class TestRouter:
    @pytest.mark.parametrize("frame", ROUTED.values(), ids=ROUTED.keys())
    async def test_sends_in_the_name_of_others(self, segment: Segment, frame: bytes) -> None:
        assert passes(segment.router, frame, segment.outside, ROUTERS)

    @pytest.mark.parametrize("frame", NOT_ROUTED.values(), ids=NOT_ROUTED.keys())
    async def test_stays_on_its_segment(self, segment: Segment, frame: bytes) -> None:
        assert not passes(segment.router, frame, segment.outside, ROUTERS)


class TestPort:
    async def test_is_mute_without_a_rule(self, segment: Segment) -> None:
        await segment.filter.ensure_ports_absent("guest")
        assert segment.guest_is_mute()
        await segment.filter.ensure_ports_absent("guest")
        assert segment.guest_is_mute()

    async def test_speaks_again_with_one(self, segment: Segment) -> None:
        await segment.filter.ensure_ports_absent("guest")
        await segment.filter.ensure_ports("guest", (GUEST_PORT,))
        await segment.filter.ensure_ports("guest", (GUEST_PORT,))
        assert segment.passes(LEGAL["IPv4"])

    async def test_loses_the_address_that_was_taken_from_it(self, segment: Segment) -> None:
        await segment.filter.ensure_ports("guest", (port(GUEST, GUEST_IP),))
        assert segment.passes(LEGAL["IPv4"])
        assert not segment.passes(LEGAL["IPv4 from a second address"])

    async def test_without_addresses_asks_for_one_only(self, segment: Segment) -> None:
        await segment.filter.ensure_ports("guest", (port(GUEST),))
        discover = LEGAL["DHCP discover"]
        assert not passes(segment.guest, LEGAL["IPv4"], segment.outside, discover)
        assert not passes(segment.guest, LEGAL["ARP request"], segment.outside, discover)

    async def test_lends_its_addresses_to_no_other(self, segment: Segment) -> None:
        await segment.filter.ensure_ports(
            "guest", (port(GUEST, GUEST_IP), port(NEIGHBOUR, OTHER_IP))
        )
        assert not segment.passes(udp(GUEST, OTHER_IP, GUEST_IP))
        assert not segment.passes(udp(NEIGHBOUR, OTHER_IP, GUEST_IP))


class TestFilter:
    async def test_outlives_its_agent(self, segment: Segment) -> None:
        after_a_restart = NftPortFilter(clock=segment.clock)
        assert not segment.passes(ILLEGAL["another's IPv4"])
        with pytest.raises(Unavailable):
            await after_a_restart.ensure_ports("guest", (port(GUEST, OTHER_IP),))
        with pytest.raises(Unavailable):
            await after_a_restart.ensure_ports_absent("guest")
        assert not segment.passes(ILLEGAL["another's IPv4"])

    async def test_forgets_what_it_is_not_told_anew(self, segment: Segment) -> None:
        after_a_restart = NftPortFilter(clock=segment.clock)
        await after_a_restart.replace_all({"router": (ROUTER_PORT,)})
        assert segment.guest_is_mute()

    async def test_comes_back_when_somebody_removes_it(self, segment: Segment) -> None:
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(segment.filter.keep())
            for _ in range(2):
                nft("flush ruleset")
                while "kowabunga" not in nft("list tables"):
                    await segment.clock.advance(60)
                    await asyncio.sleep(0.01)
                assert not segment.passes(ILLEGAL["another's IPv4"])
            keeper.cancel()

    async def test_tells_what_is_in_force(self, segment: Segment) -> None:
        assert await segment.filter.list_ports() == tuple(sorted((GUEST_PORT, ROUTER_PORT)))
        mute = port(NEIGHBOUR)
        await segment.filter.ensure_ports("guest", (mute,))
        assert await segment.filter.list_ports() == tuple(sorted((mute, ROUTER_PORT)))
        nft("flush ruleset")
        nft("add table bridge other")
        nft("add set bridge other some { type mark ; flags interval ; elements = { 1-9 } ; }")
        assert await segment.filter.list_ports() == ()

    async def test_leaves_the_tables_of_others_alone(self, segment: Segment) -> None:
        nft("add table bridge other")
        nft("add table inet other")
        await segment.filter.replace_all({})
        assert nft("list tables").count("other") == 2

    async def test_takes_no_names_for_addresses(self, segment: Segment) -> None:
        with pytest.raises(Invalid):
            await segment.filter.ensure_ports("guest", (port(GUEST, "localhost"),))
        assert segment.passes(LEGAL["IPv4"])

    async def test_says_when_there_is_none(self, network: ExitStack) -> None:
        ports = NftPortFilter(clock=ManualClock(), nft="/nonexistent/nft")
        with pytest.raises(DriverError, match="cannot filter what guests send"):
            await ports.replace_all({})


class TestVnet:
    async def test_hears_nothing_of_another(self, segment: Segment, network: ExitStack) -> None:
        bridges = LinuxBridges(None)
        network.callback(bridges.close)
        await bridges.ensure_bridge(BridgeSpec(name="br202", vlan=0))
        other = network.enter_context(Tap("outside1", bridge="br202"))
        listener = network.enter_context(Tap("outside2", bridge="br202"))
        frames = [*LEGAL.values(), *ROUTED.values()]
        for frame in LEGAL.values():
            segment.guest.send(frame)
        for frame in ROUTED.values():
            segment.router.send(frame)
        segment.router.send(ROUTERS)
        segment.outside.receive_until(ROUTERS)
        last = udp(OUTSIDE, OTHER_IP, GUEST_IP)
        other.send(last)
        assert not [frame for frame in listener.receive_until(last) if frame in frames]


@dataclass(frozen=True)
class Service:
    """A service of the node, at an address that the node has elsewhere, with a neighbour there."""

    socket: socket.socket
    elsewhere: Tap

    ADDRESS: ClassVar = "192.0.2.1"
    NEIGHBOUR: ClassVar = "192.0.2.7"

    def hears(self, sender: Tap, frame: bytes) -> bool:
        """Tell whether it gets what this frame carries before it gets what the node itself says."""
        sender.send(frame)
        self.socket.sendto(_MARK, (self.ADDRESS, 4000))
        heard = False
        while self.socket.recv(100) != _MARK:
            heard = True
        return heard

    def forwards(self, sender: Tap, mac: str, address: str) -> bool:
        """Tell whether what goes to the node's neighbour comes out before what the node sends."""
        call = udp(mac, address, self.NEIGHBOUR, destination=bridge_mac(), payload=_CALL)
        sender.send(call)
        self.socket.sendto(_MARK, (self.NEIGHBOUR, 4000))
        return any(_CALL in frame for frame in self.elsewhere.receive_until_content(_MARK))


_CALL: Final = b"out of the vnet"


def bridge_mac() -> str:
    (bridge,) = json.loads(ip(f"-j link show {BRIDGE}"))
    return str(bridge["address"])


class TestNode:
    @pytest.fixture
    def service(self, segment: Segment, network: ExitStack) -> Service:
        elsewhere = network.enter_context(Tap("manage0"))
        ip(f"address add {Service.ADDRESS}/24 dev manage0")
        ip(f"neighbour add {Service.NEIGHBOUR} lladdr {OUTSIDE} dev manage0")
        ip("link set lo up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for setting in Path("/proc/sys/net/ipv4/conf").glob("*/rp_filter"):
            setting.write_text("0")  # nothing but the filter is to stop anybody
        service = network.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        service.bind(("", 4000))
        service.settimeout(60)
        return Service(service, elsewhere)

    @pytest.fixture
    def calls(self) -> dict[str, bytes]:
        """What a guest, and what somebody on another node, sends to the service."""
        mac = bridge_mac()
        return {
            "guest": udp(GUEST, GUEST_IP, Service.ADDRESS, destination=mac),
            "guest to all": udp(GUEST, GUEST_IP, EVERYBODY),
            "outside": udp(OUTSIDE, OTHER_IP, Service.ADDRESS, destination=mac),
            "outside to all": udp(OUTSIDE, OTHER_IP, EVERYBODY),
        }

    async def test_hears_nobody_over_the_bridge(
        self, segment: Segment, service: Service, calls: dict[str, bytes]
    ) -> None:
        for name, call in calls.items():
            sender = segment.guest if name.startswith("guest") else segment.outside
            assert not service.hears(sender, call), name

    async def test_would_hear_without_the_filter(
        self, segment: Segment, service: Service, calls: dict[str, bytes]
    ) -> None:
        nft("flush ruleset")
        assert service.hears(segment.guest, calls["guest"])
        assert service.hears(segment.outside, calls["outside"])

    async def test_forwards_nothing_from_the_bridge(
        self, segment: Segment, service: Service
    ) -> None:
        assert not service.forwards(segment.guest, GUEST, GUEST_IP)
        assert not service.forwards(segment.outside, OUTSIDE, OTHER_IP)

    async def test_would_forward_without_the_filter(
        self, segment: Segment, service: Service
    ) -> None:
        nft("flush ruleset")
        assert service.forwards(segment.guest, GUEST, GUEST_IP)
        assert service.forwards(segment.outside, OUTSIDE, OTHER_IP)

    async def test_answers_nobody_who_looks_for_it(
        self, segment: Segment, service: Service
    ) -> None:
        segment.outside.send(arp(OUTSIDE, OUTSIDE, OTHER_IP, Service.ADDRESS))
        segment.router.send(ROUTERS)
        frames = segment.outside.receive_until(ROUTERS)
        assert [frame for frame in frames if frame[12:14] == ARP.to_bytes(2, "big")] == []
