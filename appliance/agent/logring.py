"""The last lines of this process's log, in memory, for whoever follows them from Kahuna.

Bounded in lines and bytes. A follower that falls behind is told how many lines it missed; it can
never slow down the logging.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

_MAX_LINES: Final = 2000
_MAX_BYTES: Final = 1 << 20
_MAX_LINE_BYTES: Final = 8192


class LogRing(logging.Handler):
    """A logging handler: give it the formatter of the process's log, which masks secrets."""

    def __init__(self, *, max_lines: int = _MAX_LINES, max_bytes: int = _MAX_BYTES) -> None:
        super().__init__()
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._first = 0  # number of the oldest line kept, counted from the start
        self._guard = threading.Lock()
        self._followers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line; called from any thread."""
        try:
            line = self.format(record).encode(errors="replace")[:_MAX_LINE_BYTES] + b"\n"
        except Exception:  # logging must not break its caller: that is what handleError is for
            self.handleError(record)
            return
        with self._guard:
            self._lines.append(line)
            self._bytes += len(line)
            while len(self._lines) > self._max_lines or self._bytes > self._max_bytes:
                self._bytes -= len(self._lines.popleft())
                self._first += 1
            for loop, arrived in self._followers:
                loop.call_soon_threadsafe(arrived.set)

    async def follow(self) -> AsyncGenerator[bytes]:
        """Yield what is kept, then what comes, in pieces of whole lines."""
        arrived = asyncio.Event()
        follower = (asyncio.get_running_loop(), arrived)
        with self._guard:
            self._followers.add(follower)
        try:
            position = 0
            while True:
                arrived.clear()
                position, piece = self._since(position)
                if piece:
                    yield piece
                else:
                    await arrived.wait()
        finally:
            with self._guard:
                self._followers.discard(follower)

    def _since(self, position: int) -> tuple[int, bytes]:
        with self._guard:
            missed = self._first - position if position else 0
            lines = list(self._lines)[max(position - self._first, 0) :]
            end = self._first + len(self._lines)
        note = b"... %d lines were lost here: read faster\n" % missed if missed > 0 else b""
        return end, note + b"".join(lines)
