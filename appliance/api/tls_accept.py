"""Accept TLS connections, with a bounded number of handshakes under way.

An event loop's own server grants every stranger the memory of a handshake. It decides nothing
about connections whose handshake is done.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

_BACKLOG: Final = 128
_NO_FILES_S: Final = 1.0  # for others to close some
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsAcceptor:
    """Accepts on one bound socket.

    Attributes:
        handshakes: how many may be under way; one more ends the oldest, which is hardly honest.
    """

    sock: socket.socket
    tls: ssl.SSLContext
    protocol: Callable[[], asyncio.Protocol]
    handshake_s: float
    handshakes: int
    _under_way: dict[asyncio.Task[None], None] = field(default_factory=dict, init=False)

    def listen(self) -> None:
        self.sock.settimeout(0)
        self.sock.listen(_BACKLOG)

    async def run(self) -> None:
        """Accept until cancelled; then nobody can connect any more."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    try:
                        connection, _ = await loop.sock_accept(self.sock)
                    except ConnectionError:  # it left before we came: accept(2)
                        continue
                    except OSError as failed:
                        _log.warning("not_accepted", error=str(failed))
                        await asyncio.sleep(_NO_FILES_S)
                        continue
                    if len(self._under_way) >= self.handshakes:
                        oldest = next(iter(self._under_way))
                        del self._under_way[oldest]
                        oldest.cancel()
                    task = tasks.create_task(self._shake_hands(connection))
                    self._under_way[task] = None
                    task.add_done_callback(lambda done: self._under_way.pop(done, None))
        finally:
            self.sock.close()

    async def _shake_hands(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self.protocol, connection, ssl=self.tls, ssl_handshake_timeout=self.handshake_s
            )
        except OSError as failed:
            _log.debug("no_tls", error=str(failed))
        except Exception:  # supervisor: a bug in one connection must not end the others
            _log.exception("tls_failed")
