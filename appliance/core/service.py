"""One long-lived process: its event loop, its signals, its parent, and what systemd hears of it."""

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Final, cast

import uvloop

from appliance.core.os_errors import trouble_with_disk

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def run_service(service: Coroutine[object, object, None]) -> None:
    """Run a service until it ends; SIGTERM and SIGINT cancel it, and that is a clean end.

    Raises what ended it: itself, where task groups were around it; and trouble with the disk as an
    error of ours, since the process is no worse for it.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_until_signalled(service))


async def _until_signalled(service: Coroutine[object, object, None]) -> None:
    task = asyncio.current_task()
    assert task is not None
    signalled = False

    def on_signal() -> None:
        nonlocal signalled
        # A second signal changes nothing: closing is bounded in time already.
        if not signalled:
            signalled = True
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    try:
        await service
    except asyncio.CancelledError:
        if not signalled:
            raise
    except Exception as ended:
        cause = _without_groups(ended)
        trouble = trouble_with_disk(cause) if isinstance(cause, OSError) else None
        if trouble is None and cause is ended:
            raise
        raise trouble or cause from ended


def _without_groups(error: Exception) -> Exception:
    is_group = isinstance(error, ExceptionGroup)
    inside = cast("ExceptionGroup[Exception]", error).exceptions if is_group else ()
    return _without_groups(inside[0]) if len(inside) == 1 else error


def die_with_parent(parent: int) -> None:
    """Have the kernel send us SIGTERM when `parent`, which started us, dies. prctl(2)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before
        os.kill(os.getpid(), signal.SIGTERM)


def notify_systemd(state: str) -> None:
    """Tell the service manager, where one asked for it: sd_notify(3). Never fails."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), address)
