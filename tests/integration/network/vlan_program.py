"""Runs in a guest, as its only process: our driver and Debian's kernel, which knows VLANs.

It reports what it sees; `test_vlan.py` is the switch at the other end of the uplink, and judges.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

from appliance.core.clock import SystemClock
from appliance.core.errors import KowabungaError
from appliance.drivers.netlink.bridges import LinuxBridges
from appliance.drivers.nftables import NftPortFilter
from appliance.model.network import BridgeSpec, PortSpec, port_name
from tests.support.frames import tagged, udp
from tests.support.tap import Tap, ip

UPLINK: Final = "eth0"
FIRST: Final = "52:54:00:00:00:01"
SECOND: Final = "52:54:00:00:00:02"
OUTSIDE: Final = "02:00:00:00:00:04"
OF_FIRST: Final = udp(FIRST, "10.1.0.1", "10.1.0.9", payload=b"the first vnet's frame is untagged")
OF_SECOND: Final = udp(SECOND, "10.2.0.1", "10.2.0.9", payload=b"the second vnet's, too, here")
SPOOFED: Final = udp(FIRST, "10.1.0.7", "10.1.0.9")
FORGED: Final = tagged(OF_FIRST, 202)  # tries to get into the second vnet
INTO: Final = {
    vlan: udp(OUTSIDE, f"10.{vlan % 200}.0.9", "255.255.255.255", payload=b"%d" % vlan * 20)
    for vlan in (201, 202, 203)
}
UNTAGGED: Final = udp(OUTSIDE, "10.0.0.9", "255.255.255.255", payload=b"of no vnet" * 4)


def main() -> None:
    asyncio.run(_main())


def report(**facts: object) -> None:
    sys.stdout.write(f"report {json.dumps(facts)}\n")
    sys.stdout.flush()


def links() -> dict[str, dict[str, object]]:
    shown = json.loads(ip("-j -d link show"))
    return {
        link["ifname"]: {
            "master": link.get("master"),
            "over": link.get("link"),
            "vlan": link.get("linkinfo", {}).get("info_data", {}).get("id"),
            "mtu": link["mtu"],
        }
        for link in shown
        if link["ifname"] != "lo"
    }


async def attempt(bridges: LinuxBridges, name: str, vlan: int) -> str:
    try:
        await bridges.ensure_bridge(BridgeSpec(name=name, vlan=vlan))
    except KowabungaError as error:
        return error.code
    return "done"


async def _main() -> None:
    bridges = LinuxBridges(UPLINK)
    down = await attempt(bridges, "br201", 201)
    ip(f"link set {UPLINK} up")
    await bridges.ensure_bridge(BridgeSpec(name="br201", vlan=201))
    await bridges.ensure_bridge(BridgeSpec(name="br202", vlan=202))
    await bridges.ensure_bridge(BridgeSpec(name="br202", vlan=202))
    ports = NftPortFilter(clock=SystemClock())
    await ports.replace_all(
        {
            "first": (PortSpec(name=port_name(FIRST), mac=FIRST, addresses=("10.1.0.1",)),),
            "second": (PortSpec(name=port_name(SECOND), mac=SECOND, addresses=("10.2.0.1",)),),
        }
    )
    with (
        Tap(port_name(FIRST), bridge="br201") as first,
        Tap(port_name(SECOND), bridge="br202") as second,
    ):
        report(down=down, links=links())
        for card, frame in (
            (first, FORGED), (first, SPOOFED), (first, OF_FIRST), (second, OF_SECOND)
        ):  # fmt: skip
            card.send(frame)
        # The switch now sends to all three VLANs and to none, and last to the second.
        to_second = second.receive_until(INTO[202])
        first.send(OF_FIRST)
        to_first = first.receive_until(INTO[201])
        heard = [*INTO.values(), UNTAGGED]
        report(
            to_first=[heard.index(frame) for frame in to_first if frame in heard],
            to_second=[heard.index(frame) for frame in to_second if frame in heard],
        )
        await bridges.ensure_bridge(BridgeSpec(name="br201", vlan=301))
        first.send(OF_FIRST)
        report(
            links=links(),
            others_vlan=await attempt(bridges, "br203", 202),
            own_again=await attempt(bridges, "br201", 301),
        )
        await _repair(bridges)
    for name in ("br201", "br202"):
        await bridges.ensure_bridge_absent(name)
    report(links=links())
    bridges.close()


async def _repair(bridges: LinuxBridges) -> None:
    """Disturb what there is, as crashes and people do, and show what becomes of it."""
    ip("link set kowa.202 nomaster")
    ip(f"link set {UPLINK} mtu 1400")
    ip(f"link set {UPLINK} mtu 1500")
    ip("link delete kowa.301")
    ip(f"link add link {UPLINK} name kowa.301 type vlan id 999")
    foreign = await attempt(bridges, "br201", 301)
    ip("link delete kowa.301")
    for name, vlan in (("br201", 301), ("br202", 202)):
        await bridges.ensure_bridge(BridgeSpec(name=name, vlan=vlan))
    report(
        foreign=foreign,
        links=links(),
        sysctl=Path("/proc/sys/net/ipv6/conf/br201/disable_ipv6").read_text(),
    )
