"""What the owner of the cluster should look at; an alarm stays until somebody clears it."""

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import NotFound
from appliance.store.base import Statement, Store, fetch


class Alarm(msgspec.Struct, frozen=True):
    """One standing alarm; `count` tells how often it was raised, `detail` is the latest."""

    kind: str
    target: str
    detail: str
    count: int
    first_at_ms: int
    last_at_ms: int


class Alarms:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def raise_alarm(self, kind: str, target: str, detail: str) -> None:
        """Raise an alarm about a target, or count one more of a standing one."""
        now_ms = self._clock.now_ms()
        await self._store.batch(
            [
                Statement(
                    "INSERT INTO alarm (kind, target, detail, count, first_at_ms, last_at_ms)"
                    " VALUES (?, ?, ?, 1, ?, ?) ON CONFLICT (kind, target) DO UPDATE SET"
                    " detail = excluded.detail, count = count + 1,"
                    " last_at_ms = max(last_at_ms, excluded.last_at_ms)",
                    (kind, target, detail, now_ms, now_ms),
                )
            ]
        )

    async def list(self) -> list[Alarm]:
        """Return the standing alarms, the latest first."""
        return await fetch(
            self._store,
            Alarm,
            Statement(
                "SELECT kind, target, detail, count, first_at_ms, last_at_ms FROM alarm"
                " ORDER BY last_at_ms DESC, kind, target"
            ),
        )

    async def clear(self, kind: str, target: str) -> None:
        """Take an alarm away; it comes back if its cause is still there.

        Raises:
            NotFound: no such alarm.
        """
        [cleared] = await self._store.batch(
            [Statement("DELETE FROM alarm WHERE kind = ? AND target = ?", (kind, target))]
        )
        if not cleared:
            raise NotFound(f"there is no alarm {kind!r} about {target}")
