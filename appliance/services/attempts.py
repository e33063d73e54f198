"""How often somebody may fail: brakes guessing, per account and per address.

Kept in memory: it protects one Kahuna, and a restart forgives.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from appliance.core.clock import Clock
from appliance.core.errors import Forbidden

_MAX_KEYS: Final = 10_000  # the oldest is forgotten: to push one out takes as many others


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since: float


class Attempts:
    """Token buckets: `burst` failures at once, then one more each `refill_s`."""

    def __init__(self, clock: Clock, *, burst: int, refill_s: float) -> None:
        self._clock = clock
        self._burst = burst
        self._refill_s = refill_s
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def admit(self, key: str) -> None:
        """Take one attempt, or refuse it; one that succeeds is given back by `forgive`.

        Raises:
            Forbidden: too many failed; says when to try again.
        """
        now = self._clock.monotonic()
        bucket = self._buckets.pop(key, None) or _Bucket(self._burst, now)
        self._buckets[key] = bucket
        if len(self._buckets) > _MAX_KEYS:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.since) / self._refill_s)
        bucket.since = now
        if bucket.tokens < 1:
            wait_s = (1 - bucket.tokens) * self._refill_s
            raise Forbidden(
                "too many attempts failed", hint=f"try again in {max(1, round(wait_s))} s"
            )
        bucket.tokens -= 1

    def forgive(self, key: str) -> None:
        """Give back the attempt of somebody who was right."""
        bucket = self._buckets.get(key)
        if bucket is not None:
            bucket.tokens = min(self._burst, bucket.tokens + 1)
