"""Wakes those in this process who wait for an operation to finish."""

import asyncio
from collections.abc import Collection, Generator
from contextlib import contextmanager


class Notices:
    """A notice means "look again": it may be early, and polling makes up for a lost one."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def about(self, operation_id: str) -> Generator[asyncio.Event]:
        """Give an event that is set by each notice about the operation; clear it before reading."""
        event = asyncio.Event()
        waiting = self._waiting.setdefault(operation_id, set())
        waiting.add(event)
        try:
            yield event
        finally:
            waiting.discard(event)
            if not waiting:
                del self._waiting[operation_id]

    def announce(self, operation_id: str) -> None:
        for event in self._waiting.get(operation_id, ()):
            event.set()

    def announce_all_but(self, unfinished: Collection[str]) -> None:
        for operation_id in self._waiting:
            if operation_id not in unfinished:
                self.announce(operation_id)
