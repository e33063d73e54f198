"""A place for so many, shared fairly by those who come: who has most of it gives way.

What a stranger may take of a machine is bounded. Without fairness that bound is itself a weapon:
whoever fills the place keeps everybody else out.
"""

import ipaddress
from typing import Generic, TypeVar

G = TypeVar("G")


class Room(Generic[G]):
    """Guests by the host they come from, in the order in which they came."""

    def __init__(self) -> None:
        self._guests: dict[str, dict[G, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def count(self, host: str) -> int:
        return len(self._guests.get(host, ()))

    def enter(self, host: str, guest: G) -> None:
        self._guests.setdefault(host, {})[guest] = None
        self._count += 1

    def leave(self, host: str, guest: G) -> None:
        """Do nothing if the guest has left."""
        guests = self._guests.get(host)
        if guests is None or guest not in guests:
            return
        del guests[guest]
        self._count -= 1
        if not guests:
            del self._guests[host]

    def oldest(self, host: str) -> G | None:
        return next(iter(self._guests.get(host, ())), None)

    def greediest(self) -> str | None:
        """Return the host with most guests; of several, the one that came first."""
        return max(self._guests, key=self.count, default=None)


def host_of(address: str) -> str:
    """Return whom "HOST:PORT" belongs to: of IPv6 it is a network, since who has one has it all."""
    host = address.rpartition(":")[0] or address
    try:
        parsed = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host
    if parsed.version == 4:
        return host
    return parsed.ipv4_mapped.compressed if parsed.ipv4_mapped else _network(parsed)


def _network(address: ipaddress.IPv6Address) -> str:
    return str(ipaddress.ip_network((address, 64), strict=False))
