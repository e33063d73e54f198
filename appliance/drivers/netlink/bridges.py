r"""The bridges of vnets on a Kaktus, each joined to its VLAN over the node's uplink.

    kw525400...  kw525400...      a guest's card each, plugged in by the hypervisor
              \  /
              br201               the bridge of a vnet: no address, deaf to what guests send it
                |
            kowa.201              VLAN link, where the vnet has a VLAN
                |
              eth1                the uplink named in node.yaml

A vnet without VLAN has the uplink itself as a port; without an uplink a bridge stays on its node.

Every interface that we make bears a mark in its alias; one without it is refused and never changed.
It is made under a name that is free for this only and takes its own name in the same kernel call
as its mark, so a crash leaves nothing of ours unmarked.
"""

from functools import partial
from pathlib import Path
from typing import Final

import structlog

from appliance.core.errors import Busy, Conflict, Invalid, Unavailable
from appliance.drivers.netlink.links import Link, Links, LinkWorker
from appliance.drivers.netlink.mark import Mark, new_mark, read_mark, write_mark
from appliance.model.network import (
    BRIDGE_GROUP,
    PORT_PREFIX,
    BridgeList,
    BridgeSpec,
    ObservedBridge,
)

_UNFINISHED: Final = "kowa.new"
_SYSCTL: Final = Path("/proc/sys/net")
# A bridge has no address, but Linux would answer on it for every address of the machine. With the
# group, by which the filter drops what is sent to the node, this keeps it out of guests' reach.
_DEAF: Final = {
    "ipv6/conf/{}/disable_ipv6": "1",
    "ipv4/conf/{}/arp_ignore": "8",
}
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


def vlan_link_name(vlan: int) -> str:
    return f"kowa.{vlan}"


class LinuxBridges:
    """Implements `HostNetworkDriver` with the bridges of the kernel."""

    def __init__(self, uplink: str | None) -> None:
        """`uplink`: the link that carries the VLANs; None: every bridge stays on this node.

        Raises:
            Invalid: the filter would take the uplink for the card of a guest.
        """
        if uplink and uplink.startswith(PORT_PREFIX):
            raise Invalid(
                f"uplink {uplink} cannot begin with {PORT_PREFIX!r}",
                field="uplink",
                hint="so begin the cards of guests",
            )
        self._uplink = uplink
        self._worker = LinkWorker()

    async def ensure_bridge(self, spec: BridgeSpec) -> None:
        await self._worker.run(partial(_ensure, spec=spec, uplink=self._uplink))

    async def ensure_bridge_absent(self, name: str, *, revision: str | None = None) -> None:
        await self._worker.run(partial(_ensure_absent, name=name, revision=revision))

    async def list_bridges(self) -> BridgeList:
        return await self._worker.run(_list)

    def close(self) -> None:
        self._worker.close()


async def _list(links: Links) -> BridgeList:
    bridges = [
        ObservedBridge(name=link.name, vlan=mark.vlan, revision=mark.revision)
        for link in (await links.list()).values()
        if link.kind == "bridge" and (mark := read_mark(link))
    ]
    return BridgeList(tuple(sorted(bridges)))


async def _ensure(links: Links, *, spec: BridgeSpec, uplink: str | None) -> None:
    found = await links.list()
    bridge = _find_ours(found, spec.name, "bridge")
    port = None if uplink is None else await _check_port(links, found, spec, uplink)
    await _clear(links, found)
    mark = write_mark(new_mark(spec.vlan, uplink))
    if bridge is None:
        bridge = await _make_bridge(links, spec.name, mark)
        _log.info("bridge_made", bridge=spec.name, vlan=spec.vlan, uplink=uplink)
    else:
        await _unplug_old(links, found, bridge, keep=port)
        await links.change(bridge, ifalias=mark, group=BRIDGE_GROUP)
        if bridge.stp:
            await links.change(bridge, kind="bridge", br_stp_state=0)
    for path, value in _DEAF.items():
        _write_sysctl(path.format(spec.name), value)
    if uplink is not None:
        await _plug(links, spec, found[uplink], bridge)
    if not bridge.up:
        await links.change(bridge, state="up")


async def _make_bridge(links: Links, name: str, mark: str) -> Link:
    await links.create(_UNFINISHED, "bridge", br_stp_state=0, group=BRIDGE_GROUP)
    bridge = (await links.list())[_UNFINISHED]
    await links.change(bridge, ifname=name, ifalias=mark)
    return bridge


async def _clear(links: Links, found: dict[str, Link]) -> None:
    """Remove what a crash has left: nobody else makes links while we look."""
    for link in found.values():
        lost = link.kind == "vlan" and link.master is None and read_mark(link)
        if link.name == _UNFINISHED or lost:
            await links.delete(link)


async def _check_port(
    links: Links, found: dict[str, Link], spec: BridgeSpec, uplink_name: str
) -> str:
    """Check all that may be refused before anything is changed; return the name of the port."""
    uplink = found.get(uplink_name)
    if uplink is None or not uplink.up:
        raise Unavailable(
            f"uplink {uplink_name} is {'down' if uplink else 'not there'}",
            hint="bring it up, or name another one in node.yaml",
        )
    bridge = found.get(spec.name)
    port = uplink if spec.vlan == 0 else _find_ours(found, vlan_link_name(spec.vlan), "vlan")
    if port and port.master and (bridge is None or port.master != bridge.index):
        master = next(link.name for link in found.values() if link.index == port.master)
        raise Conflict(
            f"VLAN {spec.vlan} of {uplink_name} is joined to {master} already"
            if spec.vlan
            else f"uplink {uplink_name} is joined to {master} already",
            hint="a VLAN of a node belongs to one vnet",
            interface=master,
        )
    if spec.vlan:
        return vlan_link_name(spec.vlan)
    if uplink.kind == "bridge" or await links.has_address(uplink):
        # As a port of the bridge it would no longer hear what is sent to these addresses.
        raise Conflict(
            f"uplink {uplink_name} is used by the node itself: it is a bridge or has addresses",
            hint="give the vnet a VLAN, or name an uplink in node.yaml that carries nothing else",
            interface=uplink_name,
        )
    return uplink_name


async def _unplug_old(
    links: Links, found: dict[str, Link], bridge: Link, *, keep: str | None
) -> None:
    """Take the bridge out of each VLAN but the one it shall join."""
    mark = read_mark(bridge)
    for link in found.values():
        if link.master != bridge.index or link.name == keep:
            continue
        if link.kind == "vlan" and read_mark(link):
            await links.delete(link)
        elif mark and mark.vlan == 0 and link.name == mark.uplink:
            await links.change(link, master=0)


async def _plug(links: Links, spec: BridgeSpec, uplink: Link, bridge: Link) -> None:
    port = uplink if spec.vlan == 0 else await _ensure_vlan_link(links, spec.vlan, uplink)
    if port.master != bridge.index:
        await links.change(port, master=bridge.index)
    if not port.up:
        await links.change(port, state="up")


async def _ensure_vlan_link(links: Links, vlan: int, uplink: Link) -> Link:
    name = vlan_link_name(vlan)
    link = (await links.list()).get(name)
    if link and (link.lower, link.vlan) != (uplink.index, vlan):
        await links.delete(link)
        link = None
    if link is None:
        await links.create(_UNFINISHED, "vlan", link=uplink.index, vlan_id=vlan)
        unfinished = (await links.list())[_UNFINISHED]
        mark = write_mark(Mark(vlan=vlan, uplink=uplink.name))
        await links.change(unfinished, ifname=name, ifalias=mark)
        link = (await links.list())[name]
    if link.mtu != uplink.mtu:
        # The bridge follows its ports by itself.
        await links.change(link, mtu=uplink.mtu)
    return link


async def _ensure_absent(links: Links, *, name: str, revision: str | None) -> None:
    found = await links.list()
    bridge = _find_ours(found, name, "bridge")
    await _clear(links, found)
    if bridge is None:
        return
    mark = read_mark(bridge)
    assert mark is not None
    if revision is not None and revision != mark.revision:
        raise Busy(f"bridge {name} has been asked for meanwhile", interface=name)
    ports = [link for link in found.values() if link.master == bridge.index]
    own = [link for link in ports if link.kind == "vlan" and read_mark(link)]
    if any(link not in own and link.name != mark.uplink for link in ports):
        raise Busy(f"a running domain is plugged into bridge {name}", interface=name)
    # The bridge last: it is what we know the rest by.
    for link in [*own, bridge]:
        await links.delete(link)
    _log.info("bridge_removed", bridge=name)


def _find_ours(found: dict[str, Link], name: str, kind: str) -> Link | None:
    link = found.get(name)
    if link and (link.kind != kind or read_mark(link) is None):
        raise Conflict(
            f"interface {name} exists and was not made by Kowabunga",
            hint="choose another interface name for the vnet",
            interface=name,
        )
    return link


def _write_sysctl(path: str, value: str) -> None:
    """Set what the kernel has; one without IPv6 has no setting to turn it off."""
    file = _SYSCTL / path
    if file.exists():
        file.write_text(value)
