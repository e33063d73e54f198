"""Where simulated things live: one SQLite table for all simulated nodes of a process.

A file makes the world outlast the process, so that `--simulate` finds its domains and images again.
Calls block, for some 20 µs each: there is no sync to disk, since a simulation may forget its last
moments in a power cut. Must not be used for anything that is real.
"""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS thing (
        place TEXT NOT NULL,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        body TEXT NOT NULL CHECK (json_valid(body)),
        PRIMARY KEY (place, kind, id)
    ) STRICT, WITHOUT ROWID
"""


class World:
    """Things by place (a node, a storage pool), kind and id.

    Each change is atomic and final; so are several `at_once`.
    """

    def __init__(self, path: Path | None = None, *, patience_s: float = 5.0) -> None:
        """Open the world kept in `path`; None: one that ends with the process.

        `patience_s`: how long to wait while another process changes something.
        """
        self._connection = sqlite3.connect(
            path or ":memory:", isolation_level=None, timeout=patience_s
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(_SCHEMA)

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def at_once(self) -> Generator[None]:
        """Make all changes of the block, or none: also if the process dies meanwhile."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def find(self, place: str, kind: str, thing_id: str, as_type: type[T]) -> T | None:
        rows = self._connection.execute(
            "SELECT body FROM thing WHERE place = ? AND kind = ? AND id = ?",
            (place, kind, thing_id),
        ).fetchall()
        return msgspec.json.decode(rows[0][0], type=as_type) if rows else None

    def list_things(
        self, place: str, kind: str, as_type: type[T], *, after: str = "", limit: int = -1
    ) -> list[T]:
        """Return the first `limit` things of a kind whose id is above `after`, by id.

        A negative limit: all of them, as SQLite has it.
        """
        rows = self._connection.execute(
            "SELECT body FROM thing WHERE place = ? AND kind = ? AND id > ? ORDER BY id LIMIT ?",
            (place, kind, after, limit),
        )
        return [msgspec.json.decode(body, type=as_type) for (body,) in rows]

    def put(self, place: str, kind: str, thing_id: str, body: msgspec.Struct) -> None:
        self._connection.execute(
            "INSERT INTO thing (place, kind, id, body) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (place, kind, id) DO UPDATE SET body = excluded.body",
            (place, kind, thing_id, msgspec.json.encode(body).decode()),
        )

    def remove(self, place: str, kind: str, thing_id: str) -> None:
        """Remove the thing; one that is not there is fine."""
        self._connection.execute(
            "DELETE FROM thing WHERE place = ? AND kind = ? AND id = ?", (place, kind, thing_id)
        )

    def close(self) -> None:
        self._connection.close()
