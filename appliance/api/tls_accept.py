"""Accept TLS connections, with a bounded number of handshakes under way.

An event loop's own server grants every stranger the memory of a handshake. It decides nothing
about connections whose handshake is done.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Final

import structlog

from appliance.core.room import Room, host_of

_BACKLOG: Final = 1024
_IN_A_ROW: Final = 4  # before others have their turn: accepting alone never waits under a flood
_NO_FILES_S: Final = 1.0  # for others to close some
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsAcceptor:
    """Accepts on one bound socket.

    Attributes:
        handshakes: how many may be under way; one more ends the oldest of the host with most of
            them, which is hardly honest.
    """

    sock: socket.socket
    tls: ssl.SSLContext
    protocol: Callable[[], asyncio.Protocol]
    handshake_s: float
    handshakes: int
    _under_way: Room[asyncio.Task[None]] = field(default_factory=Room, init=False)

    def listen(self) -> None:
        self.sock.settimeout(0)
        self.sock.listen(_BACKLOG)

    async def run(self) -> None:
        """Accept until cancelled; then nobody can connect any more."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in count():
                    if not number % _IN_A_ROW:
                        await asyncio.sleep(0)
                    try:
                        connection, (address, *_) = await loop.sock_accept(self.sock)
                    except ConnectionError:  # it left before we came: accept(2)
                        continue
                    except OSError as failed:
                        _log.warning("not_accepted", error=str(failed))
                        await asyncio.sleep(_NO_FILES_S)
                        continue
                    host = host_of(f"{address}:0")
                    self._make_room()
                    task = tasks.create_task(self._shake_hands(connection))
                    self._under_way.enter(host, task)
                    task.add_done_callback(partial(self._end, host, connection))
        finally:
            self.sock.close()

    def _end(self, host: str, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._under_way.leave(host, task)
        if task.cancelled():  # perhaps before it began
            connection.close()

    def _make_room(self) -> None:
        host = self._under_way.greediest()
        oldest = None if host is None else self._under_way.oldest(host)
        if host is not None and oldest is not None and len(self._under_way) >= self.handshakes:
            self._under_way.leave(host, oldest)
            oldest.cancel()

    async def _shake_hands(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self.protocol, connection, ssl=self.tls, ssl_handshake_timeout=self.handshake_s
            )
        except OSError as failed:
            _log.debug("no_tls", error=str(failed))
        except Exception:  # supervisor: a bug in one connection must not end the others
            _log.exception("tls_failed")
