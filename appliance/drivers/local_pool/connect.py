"""Connect to the address that was checked, and to no other.

A name is resolved once, each address is judged, and the connection goes to one that passed: a name
server that answers differently the second time (DNS rebinding) gains nothing. TLS and the Host
header keep the name.
"""

import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, cast

import httpcore

from appliance.core.aio import BlockingPool
from appliance.core.errors import DeadlineExceeded, Invalid, Unavailable
from appliance.drivers.local_pool.source_policy import SourcePolicy

Resolve = Callable[[str], Awaitable[list[str]]]
"""Return the addresses of a host, at least one."""

_LATER: Final = (socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_MEMORY)
_RESOLVE_S: Final = 30.0


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """How a connection pool of httpcore reaches hosts; no proxy, no UNIX socket."""

    def __init__(self, policy: SourcePolicy, resolve: Resolve) -> None:
        self._policy = policy
        self._resolve = resolve
        # Its public name stands for a class that may be missing, which checkers cannot judge.
        self._tcp = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host)
        admitted = [address for address in addresses if self._policy.admits(host, address)]
        if not admitted:
            raise Invalid(
                f"{host} is {addresses[0]}, an internal address that templates may not come from",
                hint="if that is meant: kowabunga settings set templates.allowed_sources",
                field="url",
            )
        failed: Exception | None = None
        for address in admitted:
            try:
                return await self._tcp.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise Unavailable(f"{host} port {port} does not answer: {failed}") from failed


def resolver(pool: BlockingPool) -> Resolve:
    """Resolve as the system does, in a thread."""

    async def resolve(host: str) -> list[str]:
        try:
            found = await pool.run(
                _RESOLVE_S, socket.getaddrinfo, host, None, type=socket.SOCK_STREAM
            )
        except socket.gaierror as failed:
            if failed.errno in _LATER:
                raise Unavailable(f"{host} cannot be resolved now: {failed.strerror}") from failed
            raise Invalid(
                f"{host} is not known to the DNS", hint="check the URL", field="url"
            ) from failed
        except UnicodeError as bad:
            raise Invalid(f"{host!r} is no host name", field="url") from bad
        except DeadlineExceeded as late:
            raise Unavailable(f"{host} cannot be resolved now") from late
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    return resolve
