"""The Store in one SQLite file: nothing to install, one process, always linearizable.

One thread writes and a few read; what is read in a moment is read on the event loop, which never
waits for a lock or for a disk that is to write. No SQL of its own.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import LifoQueue
from typing import Final, NamedTuple, Self

from appliance.core.aio import BlockingPool
from appliance.core.clock import Clock
from appliance.core.errors import Unavailable
from appliance.core.files import ensure_private_directory, exclusive, sync_left
from appliance.store import sqlite_file
from appliance.store.backup import refuse_half_restored
from appliance.store.base import Consistency, Row, Statement
from appliance.store.migrate import Migration, migrate
from appliance.store.sqlite_file import TimeLimit
from appliance.store.sqlite_log import Log
from appliance.store.sqlite_quick import QuickReader
from appliance.store.sqlite_writer import Writer
from appliance.store.statements import check_change, check_query

_READERS: Final = 4


class _Reader(NamedTuple):
    connection: sqlite3.Connection
    limit: TimeLimit


class SqliteStore:
    """See `Store`. Made by `open`, which owns what it opened until `close`."""

    def __init__(
        self,
        path: Path,
        lock: ExitStack,
        pool: BlockingPool,
        writer: Writer,
        readers: Sequence[_Reader],
        *,
        quick: QuickReader,
        log: Log,
    ) -> None:
        self._path = path
        self._lock = lock
        self._pool = pool
        self._writer = writer
        self._quick = quick
        self._log = log
        self._idle: LifoQueue[_Reader] = LifoQueue()
        for reader in readers:
            self._idle.put(reader)
        self._closed = False
        self._released = False
        self._closing_readers = threading.Lock()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock,
        migrations: Sequence[Migration] | None = None,
        statement_limit_s: float = 30.0,
    ) -> Self:
        """Take the database for this process alone, check it, bring its schema up to date.

        Makes it, and its directory, if there is none. The schema is the cluster's unless other
        `migrations` are given. A statement that runs longer than `statement_limit_s` is stopped.
        Reads the whole file once: seconds for a gigabyte, or as long as the disk takes.

        Raises:
            Conflict: another process has it, or its schema is newer than this program.
            Corrupt: the file is damaged.
            Unavailable: it cannot be opened or locked.
        """
        pool = BlockingPool("sqlite-read", _READERS)
        lock = ExitStack()
        try:
            opened = await pool.run(None, _open_connections, path, lock, clock, statement_limit_s)
        except BaseException:
            lock.close()
            pool.close()
            raise
        (connection, limit), *readers = opened.connections
        writer = Writer(connection, limit, lambda error: sqlite_file.translate(error, path))
        store = cls(path, lock, pool, writer, readers, quick=opened.quick, log=opened.log)
        try:
            await migrate(store, clock=clock, migrations=migrations)
        except BaseException:
            await store.close()
            raise
        return store

    @property
    def commits(self) -> int:
        """How many transactions were committed since `open`."""
        return self._writer.commits

    async def query(
        self,
        statement: Statement,
        consistency: Consistency = Consistency.WEAK,
    ) -> list[Row]:
        check_query(statement)
        if self._closed:
            raise Unavailable("the store is closed")
        rows = self._quick.read(statement)
        if rows is None:
            return await self._pool.run(None, self._read, statement)
        await asyncio.sleep(0)  # others have their turn between any two reads
        return rows

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        for statement in statements:
            check_change(statement)
        if not statements:
            return []
        return await self._writer.submit(tuple(statements))

    async def close(self) -> None:
        """Finish what was begun, then let go of the file; safe to repeat, also if cancelled."""
        if self._released:
            return
        self._closed = True
        self._quick.close()
        await self._writer.close()
        # Before the log is: that goes with the last connection.
        await self._pool.run(None, self._log.unmark)
        await self._pool.run(None, self._close_readers)
        self._pool.close()
        self._lock.close()
        self._released = True

    def _read(self, statement: Statement) -> list[Row]:
        # As many threads as readers: one is always idle, or just about to be.
        reader = self._idle.get()
        reader.limit.restart()
        try:
            return sqlite_file.read(reader.connection, statement)
        except sqlite3.Error as error:
            raise sqlite_file.translate(error, self._path) from error
        finally:
            self._idle.put(reader)

    def _close_readers(self) -> None:
        with self._closing_readers:  # a cancelled `close` may have left one at this
            readers = [self._idle.get() for _ in range(_READERS)]
            for reader in readers:
                reader.connection.close()
                # A read that has yet to take one fails on it, instead of waiting for ever.
                self._idle.put(reader)


class _Opened(NamedTuple):
    connections: list[_Reader]  # the writer's first
    quick: QuickReader
    log: Log


def _open_connections(path: Path, lock: ExitStack, clock: Clock, limit_s: float) -> _Opened:
    """Lock, check and open the file."""
    ensure_private_directory(path.parent)
    lock.enter_context(exclusive(path.with_name(f"{path.name}.lock"), "the state"))
    refuse_half_restored(path)
    sqlite_file.refuse_remains(path)
    if not path.exists():
        sqlite_file.create(path)
    path.chmod(0o600)
    log = Log(path)
    sync_left(log.file)
    with ExitStack() as undo:
        try:
            with log.watched():
                sqlite_file.refuse_unless_sound(path)
            connections: list[_Reader] = []
            for connect in (sqlite_file.connect_writer, *[sqlite_file.connect_reader] * _READERS):
                limit = TimeLimit(clock, limit_s)
                connection = connect(path, limit)
                undo.callback(connection.close)
                connections.append(_Reader(connection, limit))
            quick = QuickReader(path)
        except sqlite3.Error as error:
            raise sqlite_file.translate(error, path) from error
        log.mark()
        undo.pop_all()
        return _Opened(connections, quick, log)
