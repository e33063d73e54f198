"""The highest fence seen per target, on disk before any effect: what stops a stale worker.

Nothing is ever pruned: forgetting a fence would admit its stale commands again. A row is about 100
bytes, one per object that ever lived on this node; a million of them are 100 MB.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

from appliance.core.aio import BlockingPool
from appliance.core.errors import Corrupt, KowabungaError, Stale, Unavailable
from appliance.core.files import sync_left, write_atomic
from appliance.model.target import Fence

_TIMEOUT_S: Final = 10.0
_FORMAT: Final = 1
# 4 bytes that file(1) and a careful operator can tell: "Kfen".
_APPLICATION_ID: Final = 0x4B66656E

_REMOVE: Final = "remove it only after every operation on this node has ended"
_RAISE: Final = """
    INSERT INTO fence (target, epoch, fence) VALUES (?, ?, ?)
    ON CONFLICT (target) DO UPDATE SET epoch = excluded.epoch, fence = excluded.fence
    WHERE (excluded.epoch, excluded.fence) > (epoch, fence)
"""


class FenceBook:
    """Owns the file: one thread accesses it, and concurrent admissions share a commit."""

    def __init__(self, pool: BlockingPool, connection: sqlite3.Connection, path: Path) -> None:
        self._pool = pool
        self._path = path
        self._connection = connection
        self._writing = asyncio.Lock()
        self._waiting: list[tuple[str, Fence, asyncio.Future[Fence]]] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncGenerator["FenceBook"]:
        """Open or make the file for the life of the block.

        Raises:
            Corrupt: the file is damaged or is not ours; starting without it would admit stale
                commands, so the agent must not start.
            Unavailable: the disk is full, or cannot be written.
        """
        pool = BlockingPool("fences", 1)
        try:
            connection = await pool.run(_TIMEOUT_S, _open, path)
            try:
                yield cls(pool, connection, path)
            finally:
                await pool.run(_TIMEOUT_S, connection.close)
        finally:
            pool.close()

    async def admit(self, target: str, fence: Fence) -> None:
        """Return once no lower fence can be admitted for the target any more, even after a crash.

        The same fence is admitted again: an operation sends several commands under one.

        Raises:
            Stale: a higher fence is known.
            Unavailable: the disk refused; nothing may be done under this fence.
        """
        known = await self._raise_with_others(target, fence)
        if known > fence:
            raise Stale(
                f"the command for {target} carries fence {fence.epoch}.{fence.fence}, "
                f"but {known.epoch}.{known.fence} is known here",
                hint="another worker has taken this object over, or an older state was put back by"
                " hand: then stop Kahuna and use kowabunga state restore",
                target=target,
            )

    async def highest(self, target: str) -> Fence | None:
        return await self._pool.run(_TIMEOUT_S, self._find, target)

    async def _raise_with_others(self, target: str, fence: Fence) -> Fence:
        """Share one commit with everybody who came while the last one was being written."""
        answer: asyncio.Future[Fence] = asyncio.get_running_loop().create_future()
        self._waiting.append((target, fence, answer))
        async with self._writing:
            if not answer.done():
                batch, self._waiting = self._waiting, []
                await self._commit(batch)
        return await answer

    async def _commit(self, batch: list[tuple[str, Fence, asyncio.Future[Fence]]]) -> None:
        fences = [(target, fence) for target, fence, _ in batch]
        try:
            known = await self._pool.run(_TIMEOUT_S, self._raise, fences)
        except KowabungaError as refused:
            for _, _, answer in batch:
                if not answer.done():
                    answer.set_exception(refused)
        except asyncio.CancelledError:  # the agent ends
            for _, _, answer in batch:
                answer.cancel()
            raise
        else:
            for (_, _, answer), highest in zip(batch, known, strict=True):
                if not answer.done():
                    answer.set_result(highest)

    def _raise(self, fences: list[tuple[str, Fence]]) -> list[Fence]:
        try:
            with self._connection:
                self._connection.executemany(
                    _RAISE, [(target, fence.epoch, fence.fence) for target, fence in fences]
                )
            return [self._find(target) or fence for target, fence in fences]
        except sqlite3.Error as refused:
            raise _trouble(self._path, refused) from refused

    def _find(self, target: str) -> Fence | None:
        rows = self._connection.execute(
            "SELECT epoch, fence FROM fence WHERE target = ?", (target,)
        ).fetchall()
        return Fence(epoch=rows[0][0], fence=rows[0][1]) if rows else None


def _open(path: Path) -> sqlite3.Connection:
    if not path.exists():
        _create(path)
    elif path.stat().st_size == 0:
        raise Corrupt(f"{path} is empty", hint=_REMOVE)  # never the start of one, but a ruin
    path.open("r+b").close()  # what may not be written says so better than SQLite does
    # A fence that is known already is admitted without another commit.
    sync_left(path.with_name(f"{path.name}-wal"))
    connection = sqlite3.connect(path)
    try:
        _check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        connection.execute("SELECT 1 FROM fence LIMIT 1").fetchall()  # makes the log, while it can
    except sqlite3.DatabaseError as damaged:
        connection.close()
        raise _trouble(path, damaged) from damaged
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: Path) -> None:
    """Write an empty book in one step."""
    with closing(sqlite3.connect(":memory:")) as memory:
        memory.execute(
            "CREATE TABLE fence (target TEXT PRIMARY KEY, epoch INTEGER NOT NULL, "
            "fence INTEGER NOT NULL) STRICT, WITHOUT ROWID"
        )
        memory.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        memory.execute(f"PRAGMA user_version = {_FORMAT}")
        write_atomic(path, memory.serialize(), mode=0o600)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if (application, version) != (_APPLICATION_ID, _FORMAT):
        raise Corrupt(
            f"{path} is not a fence file of format {_FORMAT} (found {application:#x}/{version})",
            hint="it was written by another program or a newer version: upgrade the agent",
        )
    findings = [finding for (finding,) in connection.execute("PRAGMA quick_check(1)")]
    if findings != ["ok"]:
        raise Corrupt(f"{path} is damaged: {findings[0]}", hint=_REMOVE)


def _trouble(path: Path, error: sqlite3.Error) -> KowabungaError:
    """Tell damage, after which the file is lost, from a disk that may be mended."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt(
            f"{path} is damaged: {error}",
            hint=_REMOVE,
        )
    return Unavailable(
        f"fences cannot be kept in {path}: {error}",
        hint="free some space there, or check the disk and its mount; nothing was done",
    )
