"""Sockets without a good hello: so many, for so long, and no address keeps the others out."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from appliance.core.clock import Clock
from appliance.core.room import Room, host_of
from appliance.rpc.hello import HELLO_TIMEOUT_S, Refused
from appliance.rpc.transport import CloseCode


@dataclass(frozen=True, slots=True)
class StrangerLimits:
    """What sockets may cost before they have proven anything.

    Attributes:
        most: of them at once.
        per_address: the same, from one address.
        safe_s: for how long none has to give way to another: time enough to say hello, but over
            the slowest networks.
    """

    most: int = 256
    per_address: int = 32
    safe_s: float = 2.0


@dataclass(eq=False, slots=True)
class _Stranger:
    host: str
    since_s: float
    patience: asyncio.Timeout

    def give_way(self) -> None:
        self.patience.reschedule(asyncio.get_running_loop().time())


class Strangers:
    """Where they are full, whoever dawdles gives way: first those of the address with most."""

    def __init__(self, limits: StrangerLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._room: Room[_Stranger] = Room()

    def __len__(self) -> int:
        return len(self._room)

    def has_room_for(self, address: str) -> bool:
        """Tell whether one more socket may try to say hello."""
        host = host_of(address)
        return self._has_space(host) or self._who_gives_way(host) is not None

    @asynccontextmanager
    async def one_more(self, address: str) -> AsyncGenerator[None]:
        """Count a socket as unproven for the life of the block.

        Raises:
            Refused: there are too many of them, or the time is over.
        """
        host = host_of(address)
        if not self._has_space(host):
            other = self._who_gives_way(host)
            if other is None:
                raise Refused(CloseCode.TOO_MANY, "too many unproven sockets")
            self._room.leave(other.host, other)
            other.give_way()
        patience = asyncio.timeout(None)
        stranger = _Stranger(host, self._clock.monotonic(), patience)
        self._room.enter(host, stranger)
        try:
            async with self._clock.timeout(HELLO_TIMEOUT_S), patience:
                yield
        except TimeoutError as late:
            if patience.expired():
                raise Refused(CloseCode.TOO_MANY, "it gave way to another socket") from late
            raise Refused(CloseCode.HELLO_TIMEOUT, "no hello in time") from late
        finally:
            self._room.leave(host, stranger)

    def _has_space(self, host: str) -> bool:
        is_crowded = self._room.count(host) >= self._limits.per_address
        return len(self._room) < self._limits.most and not is_crowded

    def _who_gives_way(self, host: str) -> _Stranger | None:
        is_crowded = self._room.count(host) >= self._limits.per_address
        greediest = host if is_crowded else self._room.greediest()
        oldest = None if greediest is None else self._room.oldest(greediest)
        if oldest is None or self._clock.monotonic() - oldest.since_s < self._limits.safe_s:
            return None
        return oldest
