"""What every HostNetworkDriver and every NetworkDriver does."""

import msgspec
import pytest

from appliance.core.errors import Busy, Conflict, Invalid
from appliance.model.network import (
    BridgeSpec,
    DnsRecord,
    DnsZone,
    HostNetworkDriver,
    NetworkDriver,
    RegionNetwork,
    region_network_digest,
)
from tests.contract.drivers.rig import BRIDGE
from tests.contract.drivers.rig_network import HostNetworkRig

WEB = DnsRecord(name="web", addresses=("10.0.0.2", "10.0.0.1"))
MAIL = DnsRecord(name="mail", addresses=("10.0.0.3",))
NETWORK = RegionNetwork(
    generation=7,
    dns_zones=(
        DnsZone(name="one.example", records=(WEB, MAIL)),
        DnsZone(name="two.example", records=()),
    ),
)


async def listed(driver: HostNetworkDriver) -> list[BridgeSpec]:
    bridges = (await driver.list_bridges()).bridges
    return [BridgeSpec(name=bridge.name, vlan=bridge.vlan) for bridge in bridges]


async def revision(driver: HostNetworkDriver) -> str:
    """Return that of the only bridge."""
    (bridge,) = (await driver.list_bridges()).bridges
    return bridge.revision


class TestBridge:
    async def test_ensured_twice_is_there_once(self, host: HostNetworkRig) -> None:
        await host.driver.ensure_bridge(BRIDGE)
        await host.driver.ensure_bridge(BRIDGE)
        assert await listed(host.driver) == [BRIDGE]

    async def test_is_known_after_a_restart(self, host: HostNetworkRig) -> None:
        await host.driver.ensure_bridge(BRIDGE)
        bridges = await host.driver.list_bridges()
        assert await host.reopen().list_bridges() == bridges

    async def test_moves_to_another_vlan(self, host: HostNetworkRig) -> None:
        await host.driver.ensure_bridge(BRIDGE)
        moved = BridgeSpec(name=BRIDGE.name, vlan=101)
        await host.driver.ensure_bridge(moved)
        assert await listed(host.driver) == [moved]

    async def test_absent_twice_is_fine(self, host: HostNetworkRig) -> None:
        await host.driver.ensure_bridge(BRIDGE)
        await host.driver.ensure_bridge_absent(BRIDGE.name)
        await host.driver.ensure_bridge_absent(BRIDGE.name)
        assert await listed(host.driver) == []

    async def test_never_touches_an_interface_that_is_not_ours(self, host: HostNetworkRig) -> None:
        with pytest.raises(Conflict):
            await host.driver.ensure_bridge(BridgeSpec(name=host.foreign_interface, vlan=0))
        with pytest.raises(Conflict):
            await host.driver.ensure_bridge_absent(host.foreign_interface)
        assert await listed(host.driver) == []

    async def test_stays_while_a_running_domain_is_plugged_in(self, host: HostNetworkRig) -> None:
        await host.driver.ensure_bridge(BRIDGE)
        await host.plug()
        with pytest.raises(Busy):
            await host.driver.ensure_bridge_absent(BRIDGE.name)
        assert await listed(host.driver) == [BRIDGE]
        await host.unplug()
        await host.driver.ensure_bridge_absent(BRIDGE.name)
        assert await listed(host.driver) == []

    async def test_stays_when_ensured_since_it_was_listed(self, host: HostNetworkRig) -> None:
        await host.driver.ensure_bridge(BRIDGE)
        before = await revision(host.driver)
        await host.driver.ensure_bridge(BRIDGE)
        with pytest.raises(Busy):
            await host.driver.ensure_bridge_absent(BRIDGE.name, revision=before)
        now = await revision(host.driver)
        await host.driver.ensure_bridge_absent(BRIDGE.name, revision=now)
        await host.driver.ensure_bridge_absent(BRIDGE.name, revision=now)
        assert await listed(host.driver) == []

    async def test_stays_when_made_anew_since_it_was_listed(self, host: HostNetworkRig) -> None:
        await host.driver.ensure_bridge(BRIDGE)
        before = await revision(host.driver)
        await host.driver.ensure_bridge_absent(BRIDGE.name)
        await host.driver.ensure_bridge(BRIDGE)
        with pytest.raises(Busy):
            await host.driver.ensure_bridge_absent(BRIDGE.name, revision=before)


class TestRegionNetwork:
    async def test_is_empty_at_first(self, network: NetworkDriver) -> None:
        served = await network.get_region_network()
        assert served.generation == 0
        assert served.sha256 == region_network_digest(RegionNetwork(generation=0, dns_zones=()))

    async def test_is_served_as_told(self, network: NetworkDriver) -> None:
        served = await network.ensure_region_network(NETWORK)
        assert served.generation == NETWORK.generation
        assert served.sha256 == region_network_digest(NETWORK)
        assert await network.get_region_network() == served
        assert await network.ensure_region_network(NETWORK) == served

    async def test_is_replaced_as_a_whole(self, network: NetworkDriver) -> None:
        await network.ensure_region_network(NETWORK)
        smaller = RegionNetwork(generation=8, dns_zones=NETWORK.dns_zones[1:])
        served = await network.ensure_region_network(smaller)
        assert served.generation == 8
        assert served.sha256 == region_network_digest(smaller)

    @pytest.mark.parametrize(
        "zones",
        [
            (*NETWORK.dns_zones, NETWORK.dns_zones[0]),
            (DnsZone(name="one.example", records=(WEB, MAIL, WEB)),),
        ],
        ids=["zone twice", "record twice"],
    )
    async def test_is_refused_when_a_name_is_there_twice(
        self, network: NetworkDriver, zones: tuple[DnsZone, ...]
    ) -> None:
        served = await network.ensure_region_network(NETWORK)
        with pytest.raises(Invalid):
            await network.ensure_region_network(RegionNetwork(generation=8, dns_zones=zones))
        assert await network.get_region_network() == served

    def test_digest_ignores_order_and_generation_alone(self) -> None:
        shuffled = RegionNetwork(
            generation=1,
            dns_zones=(
                NETWORK.dns_zones[1],
                DnsZone(
                    name="one.example",
                    records=(MAIL, DnsRecord(name="web", addresses=("10.0.0.1", "10.0.0.2"))),
                ),
            ),
        )
        assert region_network_digest(shuffled) == region_network_digest(NETWORK)
        other = msgspec.structs.replace(NETWORK, dns_zones=NETWORK.dns_zones[:1])
        assert region_network_digest(other) != region_network_digest(NETWORK)
