"""A transport in memory: carries simulated agents, and tests of everything above a socket."""

import asyncio
from collections import deque
from typing import Final

from appliance.rpc.messages import MAX_MESSAGE_BYTES
from appliance.rpc.transport import CloseCode, TransportClosed


class MemoryTransport:
    """One end of a pair; frames sent before a close still arrive."""

    def __init__(self, address: str, certificate_sha256: bytes, capacity: int) -> None:
        self.address: Final = address
        self.certificate_sha256: Final = certificate_sha256
        self._capacity = capacity
        self._arrived: deque[bytes] = deque()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed: TransportClosed | None = None
        self._other: MemoryTransport = self

    async def send(self, frame: bytes) -> None:
        while self._closed is None:
            if len(frame) > MAX_MESSAGE_BYTES:
                await self.close(CloseCode.MESSAGE_TOO_BIG, "message too big")
                break
            if self._other.put(frame):
                return
            await self._writable.wait()
        raise self._closed or TransportClosed(CloseCode.ABNORMAL, "")

    async def receive(self) -> bytes:
        while not self._arrived:
            if self._closed is not None:
                raise self._closed
            self._readable.clear()
            await self._readable.wait()
        self._other.allow_sending()
        return self._arrived.popleft()

    async def close(self, code: int, reason: str) -> None:
        self._end(TransportClosed(code, reason))
        self._other._end(TransportClosed(code, reason))  # noqa: SLF001 - the other half of us

    def put(self, frame: bytes) -> bool:
        """Take a frame from the other end, unless as many wait as fit."""
        if len(self._arrived) >= self._capacity:
            self._other._writable.clear()  # noqa: SLF001 - the other half of us
            return False
        self._arrived.append(frame)
        self._readable.set()
        return True

    def allow_sending(self) -> None:
        self._writable.set()

    def _end(self, why: TransportClosed) -> None:
        if self._closed is None:
            self._closed = why
            self._readable.set()
            self._writable.set()

    @classmethod
    def pair(
        cls, *, certificate_sha256: bytes = b"", capacity: int = 16
    ) -> "tuple[MemoryTransport, MemoryTransport]":
        """Return two connected ends, each holding up to `capacity` unread frames."""
        one = cls("memory:1", certificate_sha256, capacity)
        two = cls("memory:2", certificate_sha256, capacity)
        one._other, two._other = two, one
        return one, two
