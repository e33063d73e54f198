"""The bounded queue before one socket: what a slow reader may make us remember, and no more."""

import asyncio
from collections import deque
from typing import Final


class Outgoing:
    """A queued frame: not sent, being sent (it may arrive), or withdrawn before it was."""

    __slots__ = ("frame", "sent", "withdrawn")

    def __init__(self, frame: bytes) -> None:
        self.frame: Final = frame
        self.sent = False
        self.withdrawn = False


class Outbox:
    """Frames in order, bounded in number and bytes. One task takes, any may offer."""

    def __init__(self, max_frames: int, max_bytes: int) -> None:
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._bytes = 0
        self._queue: deque[Outgoing] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, frame: bytes) -> Outgoing | None:
        """Queue the frame, or return None at once if there is no room."""
        full = len(self._queue) >= self._max_frames or self._bytes + len(frame) > self._max_bytes
        if full and self._queue:
            return None
        outgoing = Outgoing(frame)
        self._queue.append(outgoing)
        self._bytes += len(frame)
        self._filled.set()
        return outgoing

    async def put(self, frame: bytes) -> None:
        """Queue the frame as soon as there is room."""
        while self.offer(frame) is None:
            self._emptied.clear()
            await self._emptied.wait()

    async def take(self) -> bytes:
        """Wait for the next frame that was not withdrawn; from here on it counts as sent."""
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            outgoing = self._queue.popleft()
            self._bytes -= len(outgoing.frame)
            self._emptied.set()
            if not outgoing.withdrawn:
                outgoing.sent = True
                return outgoing.frame
