"""libvirt's event loop, in a thread of its own: it also keeps connections alive.

libvirt has one event loop per process and wants it before the first connection. Callbacks run in
that thread: they hand over to asyncio and do nothing else.
"""

import functools
import threading
from typing import Final

import libvirt

_TICK_MS: Final = 1000  # how often the loop looks whether it shall end, at least


class EventThread:
    """Runs libvirt's event loop from `start` to `stop`. Several may run it in turns."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="libvirt-events", daemon=True)

    def start(self) -> None:
        _register()
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it."""
        self._stopping.set()

    def _run(self) -> None:
        tick = libvirt.virEventAddTimeout(_TICK_MS, _nothing, None)
        while not self._stopping.is_set():
            libvirt.virEventRunDefaultImpl()
        libvirt.virEventRemoveTimeout(tick)


def _nothing(_timer: int, _opaque: object) -> None: ...


def _swallow(_context: object, _error: object) -> None:
    """Errors come as exceptions already; libvirt would also print them."""


@functools.cache
def _register() -> None:
    libvirt.virEventRegisterDefaultImpl()
    libvirt.registerErrorHandler(_swallow, None)
