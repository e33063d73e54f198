"""One SQLite database file: made, opened, distrusted, and its errors put into our words.

The only place with PRAGMAs. Knows nothing of batches or of our tables.
"""

import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from appliance.core.clock import Clock
from appliance.core.errors import Corrupt, DeadlineExceeded, KowabungaError, Unavailable
from appliance.core.files import write_atomic
from appliance.store.base import Row, Statement
from appliance.store.constraints import constraint_error

_APPLICATION_ID: Final = 0x4B4F5741  # "KOWA", shown by file(1)
_BUSY_MS: Final = 5_000
_WAL_KEPT_BYTES: Final = 64 * 1024 * 1024  # a WAL that grew beyond is cut after its checkpoint
_STEPS_PER_LOOK: Final = 100_000  # of SQLite's virtual machine: about a millisecond
_RESTORE: Final = "stop, keep the damaged files aside, and restore the newest backup in their place"


class TimeLimit:
    """Interrupts a statement of one connection that runs away.

    A cancelled await does not stop the thread below it, and one endless statement must not hold
    the writer or a reader for good. Until the first `restart` there is no limit: what is done to
    open a large file on a slow disk takes its time.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._end = math.inf

    def restart(self) -> None:
        self._end = self._clock.monotonic() + self._seconds

    def passed(self) -> bool:
        return self._clock.monotonic() > self._end


def create(path: Path) -> None:
    """Write an empty database in one step, readable by its owner alone.

    So a file of no length is never the start of one: it is the ruin of one.
    """
    with closing(sqlite3.connect(":memory:")) as memory:
        memory.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        write_atomic(path, memory.serialize(), mode=0o600)


def connect_writer(path: Path, limit: TimeLimit) -> sqlite3.Connection:
    """Open for writing: each COMMIT is on disk when it returns.

    Source: SQLite manual, "PRAGMA synchronous": in WAL mode only FULL syncs at each commit.
    """
    connection = _connect(
        path,
        limit.passed,
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"journal_size_limit = {_WAL_KEPT_BYTES}",
    )
    connection.execute("SELECT 1 FROM sqlite_schema").fetchall()  # the first read makes the log
    return connection


def connect_reader(path: Path, limit: TimeLimit) -> sqlite3.Connection:
    return _connect(path, limit.passed, "query_only = ON")


def connect_quick_reader(
    path: Path, has_had_enough: Callable[[], bool], steps: int
) -> sqlite3.Connection:
    """Open for reading without ever waiting for a lock.

    After each so many steps of SQLite's virtual machine `has_had_enough` tells whether to stop.
    """
    return _connect(path, has_had_enough, "busy_timeout = 0", "query_only = ON", steps=steps)


def read(connection: sqlite3.Connection, statement: Statement) -> list[Row]:
    """Run a query; return its rows, keyed by column name."""
    cursor = connection.execute(statement.sql, statement.parameters)
    names = [column[0] for column in cursor.description]
    if len(set(names)) < len(names):
        raise KowabungaError(f"two columns have one name: {statement.sql}")
    if len(names) == 1:  # lists of ids are long, and this takes a quarter of the time
        (name,) = names
        return [{name: value} for (value,) in cursor]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def refuse_unless_sound(path: Path) -> None:
    """Read the whole database once, with its log, and change nothing.

    Raises:
        Corrupt: it is not ours, its structure is damaged, or an index does not fit its table. A
            flipped bit inside a value goes unnoticed: SQLite keeps no checksum of rows.
    """
    with closing(_connect_as_it_is(path)) as connection:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        if application_id != _APPLICATION_ID:
            raise Corrupt(
                f"{path} is the database of another program (application id"
                f" {application_id:#010x})",
                hint="move it away, and restore the newest backup in its place",
            )
        findings = [finding for (finding,) in connection.execute("PRAGMA integrity_check(1)")]
        if findings != ["ok"]:
            raise Corrupt(f"{path} is damaged: {findings[0]}", hint=_RESTORE)
        with closing(_connect_as_it_is(path, "&immutable=1")) as without_log:
            alone = _founded(without_log)
        if alone is not None and alone != _founded(connection):
            raise Corrupt(
                f"{path}-wal is the log of another database",
                hint="put its own log back, or restore the newest backup",
            )


def connect_to_copy(path: Path) -> sqlite3.Connection:
    """Open for one long read; a file that is written to beside it is no program that runs away."""
    return _connect_as_it_is(path)


def _connect_as_it_is(path: Path, options: str = "") -> sqlite3.Connection:
    """Open for a look that leaves both files as they are, also when it ends.

    With `immutable=1`, what is in the log is not seen.
    """
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro{options}", uri=True)


def _founded(connection: sqlite3.Connection) -> int | None:
    """Return when the schema was made, which is another moment for each database."""
    try:
        rows = connection.execute("SELECT min(applied_at_ms) FROM schema_migration").fetchall()
    except sqlite3.Error:  # it is in the log still
        return None
    return None if rows[0][0] is None else int(rows[0][0])


def refuse_remains(path: Path) -> None:
    """Refuse a database cut to nothing, or lost beside its write-ahead log.

    SQLite would make a new one in its place, and drop the log with the newest changes.

    Raises:
        Corrupt: that is the case.
    """
    if path.exists():
        if path.stat().st_size == 0:
            raise Corrupt(f"{path} is empty", hint=_RESTORE)
    elif (log := path.with_name(f"{path.name}-wal")).exists():
        raise Corrupt(f"{path} is missing, but its log {log.name} is there", hint=_RESTORE)


def translate(error: sqlite3.Error, path: Path) -> KowabungaError:
    """Return what an error of SQLite means to us.

    Source: SQLite manual, "Result and Error Codes"; the low byte is the primary code.
    """
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    match code & 0xFF:
        case sqlite3.SQLITE_IOERR if code == sqlite3.SQLITE_IOERR_FSYNC:
            # The commit may stand in the log already, and would come back after a crash.
            meaning: KowabungaError = DeadlineExceeded(
                f"{path} could not be synced to disk: the outcome is unknown",
                hint="check the disk, then read back what was written",
            )
        case sqlite3.SQLITE_CONSTRAINT:
            meaning = constraint_error(str(error)) or KowabungaError(f"{path}: {error}")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            meaning = Unavailable(
                f"{path} is locked by another program", hint="end the program that has it open"
            )
        case sqlite3.SQLITE_FULL:
            meaning = Unavailable(f"no space left for {path}", hint="free some space")
        case sqlite3.SQLITE_INTERRUPT:
            meaning = Unavailable(f"a statement on {path} took too long and was stopped")
        case (
            sqlite3.SQLITE_IOERR
            | sqlite3.SQLITE_CANTOPEN
            | sqlite3.SQLITE_READONLY
            | sqlite3.SQLITE_PERM
            | sqlite3.SQLITE_NOMEM
        ):
            meaning = Unavailable(
                f"{path} cannot be used: {error}", hint="check the disk and its mount"
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            meaning = Corrupt(f"{path} is damaged: {error}", hint=_RESTORE)
        case _:
            meaning = KowabungaError(f"SQLite refused a statement: {error}")
    return meaning


def _connect(
    path: Path, has_had_enough: Callable[[], bool], *pragmas: str, steps: int = _STEPS_PER_LOOK
) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=rw",  # never creates: `create` does
        uri=True,
        isolation_level=None,  # we say BEGIN and COMMIT
        check_same_thread=False,  # one thread at a time, but not the one that opened it
        cached_statements=512,
    )
    connection.set_progress_handler(has_had_enough, steps)
    try:
        always = (
            f"busy_timeout = {_BUSY_MS}",
            "cell_size_check = ON",
            "temp_store = MEMORY",  # no change of the state shall fail because /tmp is full
        )
        for pragma in (*always, *pragmas):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection
