# The part of pyroute2 0.9 that appliance/drivers/netlink uses: its own code has few types.
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Literal, Self, overload

from pyroute2.netlink import nlmsg

class NetlinkError(Exception):
    code: int

class AsyncIPRoute:
    def __init__(self, *, ext_ack: bool = ..., strict_check: bool = ...) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None: ...
    @overload
    async def link(self, command: Literal["dump"]) -> AsyncIterator[nlmsg]: ...
    @overload
    async def link(
        self, command: Literal["add", "set", "del"], **attributes: object
    ) -> list[nlmsg]: ...
    async def addr(self, command: Literal["dump"], *, index: int) -> AsyncIterator[nlmsg]: ...
