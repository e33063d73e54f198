"""A store in which something happens just before a batch: a race, without luck."""

from collections.abc import Awaitable, Callable, Sequence

from appliance.store.base import Consistency, Row, Statement, Store


class Meanwhile:
    """Passes everything on; does `act` once, before the next batch."""

    def __init__(self, store: Store, act: Callable[[], Awaitable[object]]) -> None:
        self._store = store
        self._act: Callable[[], Awaitable[object]] | None = act

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        return await self._store.query(statement, consistency)

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        act, self._act = self._act, None
        if act is not None:
            await act()
        return await self._store.batch(statements)

    async def close(self) -> None:
        await self._store.close()
