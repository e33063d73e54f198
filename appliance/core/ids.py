"""Object ids: 24 lowercase hex digits, ordered by the time of their making."""

import secrets
import threading
from typing import Final

from appliance.core.clock import Clock, SystemClock

ID_PATTERN: Final = r"^[0-9a-f]{24}$"
_RANDOM_BITS: Final = 48


class IdFactory:
    """Make ids of 48 bits of milliseconds and 48 random bits, strictly rising per process.

    A clock that jumps back does not break the order: the last millisecond seen is kept and the
    random part counts up from there.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last = 0

    def follow(self, newest: str) -> None:
        """Make only ids after this one, which a clock that was ahead of ours may have made.

        From a random point of the millisecond after it, since others may follow the same one.
        """
        next_ms = (int(newest, 16) >> _RANDOM_BITS) + 1
        with self._lock:
            self._last = max(self._last, next_ms << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS))

    def __call__(self) -> str:
        with self._lock:
            fresh = self._clock.now_ms() << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
            same_or_earlier_ms = fresh >> _RANDOM_BITS <= self._last >> _RANDOM_BITS
            # A step below 2**32 leaves room for some 65,000 ids in a millisecond before the time
            # part moves, and keeps ids unguessable from their neighbours.
            self._last = self._last + 1 + secrets.randbits(32) if same_or_earlier_ms else fresh
            return f"{self._last:024x}"


new_id: Final = IdFactory(SystemClock())
