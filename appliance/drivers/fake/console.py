"""Simulated consoles: they say that they are, and nobody is behind them.

A console is a transport in memory that answers by itself; it needs no task and no socket, and holds
its writer up while what it answered is not read.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from appliance.model.compute import ConsoleKind

_RFB_VERSION: Final = b"RFB 003.008\n"
_RFB_OLD: Final = b"RFB 003.003\n"
_NO_SCREEN: Final = b"simulated: nothing runs, so there is no screen"

_Answer = Callable[[bytes], tuple[bytes, bool]]
"""Return what the console sends upon these bytes, and whether it hangs up then."""


class FakeConsole(asyncio.Transport):
    """The other end of one opened console."""

    def __init__(self, domain_id: str, kind: ConsoleKind) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.reader: Final = asyncio.StreamReader(loop=loop)
        self._protocol = asyncio.StreamReaderProtocol(self.reader, loop=loop)
        self._protocol.connection_made(self)
        self.writer: Final = asyncio.StreamWriter(self, self._protocol, self.reader, loop)
        self._closing = False
        self._loop = loop
        match kind:
            case ConsoleKind.SERIAL:
                self._answer: _Answer = _echo
                self._say(
                    f"Simulated console of domain {domain_id}: nothing runs,"
                    " what you type comes back.\r\n".encode()
                )
            case ConsoleKind.VNC:
                self._answer = _VncHandshake().answer
                self._say(_RFB_VERSION)

    # What asyncio asks of a transport.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        answered, hangs_up = self._answer(bytes(data))
        self._say(answered)
        if hangs_up:
            self.close()

    def pause_reading(self) -> None:
        self._protocol.pause_writing()

    def resume_reading(self) -> None:
        self._protocol.resume_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low  # nothing is buffered: what is written is answered at once

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def _say(self, data: bytes) -> None:
        self._protocol.data_received(data)


def _echo(data: bytes) -> tuple[bytes, bool]:
    return data, False


class _VncHandshake:
    """The server's part of a handshake that ends in a refusal: RFC 6143, 7.1.1 and 7.1.2."""

    def __init__(self) -> None:
        self._received = b""

    def answer(self, data: bytes) -> tuple[bytes, bool]:
        self._received += data
        if len(self._received) < len(_RFB_VERSION):
            return b"", False
        # No security type is offered, which means: read the reason. The first version counts wider.
        none = bytes(4) if self._received.startswith(_RFB_OLD) else bytes(1)
        return none + len(_NO_SCREEN).to_bytes(4, "big") + _NO_SCREEN, True
