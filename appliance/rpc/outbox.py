"""The bounded queue before one socket: what a slow reader may make us remember, and no more.

Whoever queues a frame may send it on the spot if nobody else is sending: that saves the switch to
the writer task, which is half the time of a call.
"""

import asyncio
from collections import deque
from typing import Final

from appliance.core.clock import Clock
from appliance.rpc.transport import Transport


class Outgoing:
    """A queued frame: not sent, being sent (it may arrive), or withdrawn before it was."""

    __slots__ = ("frame", "sent", "withdrawn")

    def __init__(self, frame: bytes) -> None:
        self.frame: Final = frame
        self.sent = False
        self.withdrawn = False


class Outbox:
    """Frames leave in the order in which they were queued, one at a time."""

    def __init__(
        self, transport: Transport, *, clock: Clock, max_frames: int, max_bytes: int
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._bytes = 0
        self._queue: deque[Outgoing] = deque()
        self._sending = asyncio.Lock()
        self._sending_since = 0.0
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    @property
    def idle(self) -> bool:
        return not self._queue and not self._sending.locked()

    @property
    def stuck_s(self) -> float:
        """Seconds for which the frame being sent has waited for the other side to read."""
        if not self._sending.locked():
            return 0.0
        return self._clock.monotonic() - self._sending_since

    def offer(self, frame: bytes) -> Outgoing | None:
        """Queue the frame for the writer, or return None at once if there is no room."""
        outgoing = self.append(frame)
        self._filled.set()
        return outgoing

    def append(self, frame: bytes) -> Outgoing | None:
        """Queue the frame for a `send` that follows at once; None if there is no room."""
        full = len(self._queue) >= self._max_frames or self._bytes + len(frame) > self._max_bytes
        if full and self._queue:
            return None
        outgoing = Outgoing(frame)
        self._queue.append(outgoing)
        self._bytes += len(frame)
        return outgoing

    async def send(self, outgoing: Outgoing) -> None:
        """Send this frame here and now if it is the first; else the writer will.

        Cancelling it can lose this frame, never one of somebody else.

        Raises:
            TransportClosed
        """
        if self._sending.locked() or self._queue[0] is not outgoing:
            self._filled.set()
            return
        try:
            await self._send_next()
        finally:
            if self._queue:
                self._filled.set()

    async def put(self, frame: bytes) -> None:
        """Queue the frame as soon as there is room, and send it if nobody else is.

        Raises:
            TransportClosed
        """
        while (outgoing := self.append(frame)) is None:
            self._emptied.clear()
            await self._emptied.wait()
        await self.send(outgoing)

    async def run(self) -> None:
        """Send whatever others leave behind, until the transport is closed.

        Raises:
            TransportClosed
        """
        while True:
            while self._queue:
                await self._send_next()
            self._filled.clear()
            await self._filled.wait()

    async def _send_next(self) -> None:
        async with self._sending:
            if not self._queue:
                return
            outgoing = self._queue.popleft()
            self._bytes -= len(outgoing.frame)
            self._emptied.set()
            if outgoing.withdrawn:
                return
            outgoing.sent = True  # from here on it may arrive
            self._sending_since = self._clock.monotonic()
            await self._transport.send(outgoing.frame)
