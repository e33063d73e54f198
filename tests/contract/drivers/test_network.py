"""What every HostNetworkDriver and every NetworkDriver does."""

import msgspec
import pytest

from appliance.core.errors import Busy, Conflict, Invalid
from appliance.model.domain_state import Power
from appliance.model.network import (
    BridgeSpec,
    DnsRecord,
    DnsZone,
    NetworkDriver,
    RegionNetwork,
    region_network_digest,
)
from tests.contract.drivers.rig import BRIDGE, Rig

WEB = DnsRecord(name="web", addresses=("10.0.0.2", "10.0.0.1"))
MAIL = DnsRecord(name="mail", addresses=("10.0.0.3",))
NETWORK = RegionNetwork(
    generation=7,
    dns_zones=(
        DnsZone(name="one.example", records=(WEB, MAIL)),
        DnsZone(name="two.example", records=()),
    ),
)


class TestBridge:
    async def test_ensured_twice_is_there_once(self, rig: Rig) -> None:
        await rig.host_network.ensure_bridge(BRIDGE)
        await rig.host_network.ensure_bridge(BRIDGE)
        assert (await rig.host_network.list_bridges()).bridges == (BRIDGE,)

    async def test_moves_to_another_vlan(self, rig: Rig) -> None:
        await rig.host_network.ensure_bridge(BRIDGE)
        moved = BridgeSpec(name=BRIDGE.name, vlan=101)
        await rig.host_network.ensure_bridge(moved)
        assert (await rig.host_network.list_bridges()).bridges == (moved,)

    async def test_absent_twice_is_fine(self, rig: Rig) -> None:
        await rig.host_network.ensure_bridge(BRIDGE)
        await rig.host_network.ensure_bridge_absent(BRIDGE.name)
        await rig.host_network.ensure_bridge_absent(BRIDGE.name)
        assert (await rig.host_network.list_bridges()).bridges == ()

    async def test_never_touches_an_interface_that_is_not_ours(self, rig: Rig) -> None:
        with pytest.raises(Conflict):
            await rig.host_network.ensure_bridge(BridgeSpec(name=rig.foreign_interface, vlan=0))
        with pytest.raises(Conflict):
            await rig.host_network.ensure_bridge_absent(rig.foreign_interface)
        assert (await rig.host_network.list_bridges()).bridges == ()

    async def test_stays_while_a_running_domain_is_plugged_in(self, rig: Rig) -> None:
        spec = await rig.spec()
        await rig.compute.ensure_domain(spec)
        await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
        with pytest.raises(Busy):
            await rig.host_network.ensure_bridge_absent(BRIDGE.name)
        await rig.compute.ensure_domain_absent(spec.domain_id)
        await rig.host_network.ensure_bridge_absent(BRIDGE.name)


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
