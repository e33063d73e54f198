"""Cards of virtual machines without the machines. For guests too: the standard library only."""

import fcntl
import os
import select
import struct
import subprocess
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

_TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
_IFF_TAP_NO_PI: Final = 0x1002
_PATIENCE_S: Final = 60.0


def ip(command: str) -> str:
    """Run ip(8) with these words."""
    done = subprocess.run(["ip", *command.split()], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {command}: {done.stderr}"
    return done.stdout


class Tap:
    """A network card whose owner, like a hypervisor, sends and receives raw frames."""

    def __init__(self, name: str, *, bridge: str | None = None) -> None:
        self.name = name
        self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP_NO_PI))
        if bridge:
            ip(f"link set {name} master {bridge}")
        ip(f"link set {name} up")

    def __enter__(self) -> "Tap":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def send(self, frame: bytes) -> None:
        os.write(self._fd, frame)

    def receive_until(self, last: bytes) -> list[bytes]:
        """Return the frames that came before `last`."""
        return self._receive_until(lambda frame: frame == last)

    def receive_until_content(self, content: bytes) -> list[bytes]:
        """Return the frames that came before one with this in it."""
        return self._receive_until(lambda frame: content in frame)

    def _receive_until(self, is_last: Callable[[bytes], bool]) -> list[bytes]:
        frames: list[bytes] = []
        end = time.monotonic() + _PATIENCE_S
        while True:
            select.select([self._fd], [], [], max(0.0, end - time.monotonic()))
            try:
                frame = os.read(self._fd, 65536)
            except BlockingIOError:
                raise AssertionError(f"{self.name}: the frame did not come") from None
            if is_last(frame):
                return frames
            frames.append(frame)
