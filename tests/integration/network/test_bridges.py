"""Bridges over an uplink, in a network of the test's own. For VLANs see `test_vlan.py`."""

import asyncio
import json
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from appliance.core.errors import Conflict, Invalid, Unavailable
from appliance.drivers.netlink.bridges import LinuxBridges
from appliance.model.network import BRIDGE_GROUP, BridgeSpec, port_name
from tests.support.frames import udp
from tests.support.netns import private_network
from tests.support.tap import Tap, ip

UNTAGGED: Final = BridgeSpec(name="br0", vlan=0)
ALONE: Final = BridgeSpec(name="br1", vlan=101)
GUEST: Final = "52:54:00:00:00:01"
OUTSIDE: Final = "02:00:00:00:00:04"

Driver = Callable[[str | None], LinuxBridges]


@pytest.fixture
def network() -> Generator[ExitStack]:
    with private_network(), ExitStack() as stack:
        yield stack


@pytest.fixture
def driver(network: ExitStack) -> Driver:
    """Make the driver of a node with this uplink."""

    def make(uplink: str | None) -> LinuxBridges:
        made = LinuxBridges(uplink)
        network.callback(made.close)
        return made

    return make


@pytest.fixture
def uplink(network: ExitStack) -> Tap:
    return network.enter_context(Tap("lan0"))


def links() -> dict[str, dict[str, Any]]:
    return {link["ifname"]: link for link in json.loads(ip("-j -d link show"))}


def master(name: str) -> str | None:
    return links()[name].get("master")


class TestUplink:
    async def test_carries_the_untagged_vnet(
        self, driver: Driver, uplink: Tap, network: ExitStack
    ) -> None:
        await driver(uplink.name).ensure_bridge(UNTAGGED)
        guest = network.enter_context(Tap(port_name(GUEST), bridge=UNTAGGED.name))
        out = udp(GUEST, "10.0.0.1", "10.0.0.9")
        guest.send(out)
        uplink.receive_until(out)
        into = udp(OUTSIDE, "10.0.0.9", "10.0.0.1", destination=GUEST)
        uplink.send(into)
        guest.receive_until(into)

    async def test_is_given_back(self, driver: Driver, uplink: Tap) -> None:
        bridges = driver(uplink.name)
        await bridges.ensure_bridge(UNTAGGED)
        await bridges.ensure_bridge_absent(UNTAGGED.name)
        assert master(uplink.name) is None
        assert set(links()) == {"lo", uplink.name}

    async def test_is_left_for_another(
        self, driver: Driver, uplink: Tap, network: ExitStack
    ) -> None:
        other = network.enter_context(Tap("lan1"))
        await driver(uplink.name).ensure_bridge(UNTAGGED)
        await driver(other.name).ensure_bridge(UNTAGGED)
        assert (master(uplink.name), master(other.name)) == (None, UNTAGGED.name)
        await driver(None).ensure_bridge(UNTAGGED)
        assert (master(uplink.name), master(other.name)) == (None, None)

    async def test_stays_with_the_node_that_has_addresses_on_it(
        self, driver: Driver, uplink: Tap
    ) -> None:
        ip(f"address add 192.0.2.1/24 dev {uplink.name}")
        with pytest.raises(Conflict, match="used by the node itself"):
            await driver(uplink.name).ensure_bridge(UNTAGGED)
        assert set(links()) == {"lo", uplink.name}
        ip(f"address flush dev {uplink.name}")
        ip(f"address add 2001:db8::1/64 dev {uplink.name}")
        with pytest.raises(Conflict, match="used by the node itself"):
            await driver(uplink.name).ensure_bridge(UNTAGGED)

    async def test_may_have_the_address_that_every_link_has(
        self, driver: Driver, uplink: Tap
    ) -> None:
        ip(f"address add fe80::1/64 dev {uplink.name}")
        await driver(uplink.name).ensure_bridge(UNTAGGED)
        assert master(uplink.name) == UNTAGGED.name

    async def test_is_not_taken_from_a_bridge_of_others(self, driver: Driver, uplink: Tap) -> None:
        ip("link add theirs type bridge")
        ip(f"link set {uplink.name} master theirs")
        with pytest.raises(Conflict, match="joined to theirs"):
            await driver(uplink.name).ensure_bridge(UNTAGGED)
        assert master(uplink.name) == "theirs"

    async def test_may_not_be_a_bridge_without_vlan(self, driver: Driver) -> None:
        ip("link add theirs type bridge")
        ip("link set theirs up")
        with pytest.raises(Conflict, match="used by the node itself"):
            await driver("theirs").ensure_bridge(UNTAGGED)

    async def test_carries_one_untagged_vnet_only(self, driver: Driver, uplink: Tap) -> None:
        bridges = driver(uplink.name)
        await bridges.ensure_bridge(UNTAGGED)
        with pytest.raises(Conflict, match="joined to br0"):
            await bridges.ensure_bridge(BridgeSpec(name="br1", vlan=0))
        assert master(uplink.name) == UNTAGGED.name
        assert "br1" not in links()

    async def test_must_be_there_and_up(self, driver: Driver, uplink: Tap) -> None:
        ip(f"link set {uplink.name} down")
        for name in (uplink.name, "lan9"):
            with pytest.raises(Unavailable):
                await driver(name).ensure_bridge(UNTAGGED)
        assert set(links()) == {"lo", uplink.name}

    def test_may_not_look_like_a_card_of_a_guest(self) -> None:
        with pytest.raises(Invalid):
            LinuxBridges("kwan0")


class TestBridge:
    async def test_is_up_and_deaf_and_speaks_no_spanning_tree(self, driver: Driver) -> None:
        await driver(None).ensure_bridge(ALONE)
        bridge = links()[ALONE.name]
        assert "UP" in bridge["flags"]
        assert bridge["linkinfo"]["info_data"]["stp_state"] == 0
        assert bridge["group"] == str(BRIDGE_GROUP)
        assert json.loads(ip(f"-j address show {ALONE.name}"))[0]["addr_info"] == []
        assert settings(ALONE.name) == {"disable_ipv6": "1", "arp_ignore": "8"}

    async def test_is_repaired(self, driver: Driver) -> None:
        await driver(None).ensure_bridge(ALONE)
        before = settings(ALONE.name)
        ip(f"link set {ALONE.name} type bridge stp_state 1")
        ip(f"link set {ALONE.name} down group default")
        for path in _settings(ALONE.name).values():
            path.write_text("0")
        await driver(None).ensure_bridge(ALONE)
        bridge = links()[ALONE.name]
        assert settings(ALONE.name) == before
        assert "UP" in bridge["flags"]
        assert bridge["linkinfo"]["info_data"]["stp_state"] == 0
        assert bridge["group"] == str(BRIDGE_GROUP)

    async def test_keeps_its_guests_while_it_is_ensured(
        self, driver: Driver, uplink: Tap, network: ExitStack
    ) -> None:
        await driver(None).ensure_bridge(UNTAGGED)
        guest = network.enter_context(Tap(port_name(GUEST), bridge=UNTAGGED.name))
        await driver(uplink.name).ensure_bridge(UNTAGGED)
        assert master(guest.name) == UNTAGGED.name

    @pytest.mark.parametrize("alias", ["", "kowabunga", "kowabunga:", "kowabunga:{}", "mine"])
    async def test_of_others_is_told_from_ours(self, driver: Driver, alias: str) -> None:
        ip(f"link add {ALONE.name} type bridge")
        if alias:
            ip(f"link set {ALONE.name} alias {alias}")
        before = links()
        with pytest.raises(Conflict):
            await driver(None).ensure_bridge(ALONE)
        with pytest.raises(Conflict):
            await driver(None).ensure_bridge_absent(ALONE.name)
        assert links() == before
        assert (await driver(None).list_bridges()).bridges == ()

    async def test_left_unfinished_by_a_crash_is_cleared_away(self, driver: Driver) -> None:
        ip("link add kowa.new type bridge")
        assert (await driver(None).list_bridges()).bridges == ()
        await driver(None).ensure_bridge(ALONE)
        assert set(links()) == {"lo", ALONE.name}

    async def test_is_made_once_by_many_at_once(self, driver: Driver, uplink: Tap) -> None:
        bridges = driver(uplink.name)
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(bridges.ensure_bridge(UNTAGGED))
        assert len((await bridges.list_bridges()).bridges) == 1
        assert master(uplink.name) == UNTAGGED.name


def _settings(bridge: str) -> dict[str, Path]:
    root = Path("/proc/sys/net")
    return {
        "disable_ipv6": root / "ipv6/conf" / bridge / "disable_ipv6",
        "arp_ignore": root / "ipv4/conf" / bridge / "arp_ignore",
    }


def settings(bridge: str) -> dict[str, str]:
    return {name: path.read_text().strip() for name, path in _settings(bridge).items()}
