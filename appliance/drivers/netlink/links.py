"""Links of this machine, over netlink. The only importer of pyroute2; none of its objects leave.

pyroute2 opens its socket through the event loop, and uvloop takes sockets of the Internet only. So
`LinkWorker` gives it a plain loop in a thread of its own.
"""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeVar

import msgspec
from pyroute2 import AsyncIPRoute, NetlinkError
from pyroute2.netlink import nlmsg

from appliance.core.aio import BlockingPool
from appliance.core.errors import DeadlineExceeded, DriverError

T = TypeVar("T")

_TIMEOUT_S: Final = 20.0
_IFF_UP: Final = 1  # linux/if.h
_SCOPE_LINK: Final = 253  # linux/rtnetlink.h


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface as the kernel shows it.

    Attributes:
        kind: "bridge", "vlan", ...; None for hardware.
        master: index of the bridge or bond that it is a port of.
        lower: index of the link that a VLAN link lies over.
    """

    index: int
    name: str
    kind: str | None
    alias: str | None
    master: int | None
    lower: int | None
    vlan: int | None
    stp: bool
    group: int
    mtu: int
    up: bool


class Links:
    """Reads and changes links. Nothing here knows whose they are."""

    def __init__(self, route: AsyncIPRoute) -> None:
        self._route = route

    async def list(self) -> dict[str, Link]:
        """Return all links by name."""
        try:
            links = [_read(message) async for message in await self._route.link("dump")]
        except NetlinkError as refused:
            raise _error("links cannot be listed", refused) from refused
        return {link.name: link for link in links}

    async def has_address(self, link: Link) -> bool:
        """Tell whether the link has an address that reaches further than its own segment."""
        try:
            async for message in await self._route.addr("dump", index=link.index):
                if message.get("family") == socket.AF_INET or message.get("scope") != _SCOPE_LINK:
                    return True
        except NetlinkError as refused:
            raise _error(f"addresses of {link.name} cannot be listed", refused) from refused
        return False

    async def create(self, name: str, kind: str, **attributes: object) -> None:
        await self._call(
            "add", f"{kind} {name} cannot be made", ifname=name, kind=kind, **attributes
        )

    async def change(self, link: Link, **attributes: object) -> None:
        await self._call("set", f"{link.name} cannot be changed", index=link.index, **attributes)

    async def delete(self, link: Link) -> None:
        await self._call("del", f"{link.name} cannot be removed", index=link.index)

    async def _call(
        self, command: Literal["add", "set", "del"], failure: str, **attributes: object
    ) -> None:
        try:
            await self._route.link(command, **attributes)
        except NetlinkError as refused:
            raise _error(failure, refused) from refused


class LinkWorker:
    """One thread that works on links: one piece of work at a time, each to its end."""

    def __init__(self) -> None:
        self._pool = BlockingPool("netlink", 1)

    async def run(self, work: Callable[[Links], Awaitable[T]]) -> T:
        """Run `work` in the thread.

        Raises:
            DeadlineExceeded: the kernel did not answer in time.
            DriverError: the kernel refused.
        """
        return await self._pool.run(None, _run, work)

    def close(self) -> None:
        self._pool.close()


def _run(work: Callable[[Links], Awaitable[T]]) -> T:
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(_with_links(work))


async def _with_links(work: Callable[[Links], Awaitable[T]]) -> T:
    try:
        async with asyncio.timeout(_TIMEOUT_S), AsyncIPRoute(strict_check=True) as route:
            return await work(Links(route))
    except TimeoutError as late:
        raise DeadlineExceeded(f"netlink did not answer within {_TIMEOUT_S} s") from late


def _read(message: nlmsg) -> Link:
    flags = message.get("flags")
    return msgspec.convert(
        {
            "index": message.get("index"),
            "name": message.get("ifname"),
            "kind": message.get(("linkinfo", "kind")),
            "alias": message.get("ifalias"),
            "master": message.get("master"),
            "lower": message.get("link"),
            "vlan": message.get(("linkinfo", "data", "vlan_id")),
            "stp": bool(message.get(("linkinfo", "data", "br_stp_state"))),
            "group": message.get("group"),
            "mtu": message.get("mtu"),
            "up": isinstance(flags, int) and bool(flags & _IFF_UP),
        },
        Link,
    )


def _error(failure: str, refused: NetlinkError) -> DriverError:
    name = errno.errorcode.get(refused.code, str(refused.code))
    hint = "is the kernel's module for such links there?" if name == "EOPNOTSUPP" else None
    return DriverError(f"{failure}: {name}", hint=hint, native=f"netlink:{refused.code}")
