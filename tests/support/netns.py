"""A network of a test's own, gone with the last who uses it: it has no name to leave behind."""

import ctypes
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from tests.support.needs import need_root

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_libc: Final = ctypes.CDLL(None, use_errno=True)


@contextmanager
def private_network() -> Generator[None]:
    """Move this thread, and what it starts, into an empty network; and back."""
    need_root()
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_libc.setns(home, _CLONE_NEWNET))
    finally:
        os.close(home)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
