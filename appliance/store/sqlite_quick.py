"""Reads on the event loop, of what is over sooner than the way to a thread and back takes.

SQLite's steps are counted, not trusted: a statement that takes too many is stopped, left to a
thread, and never tried here again. So nothing can hold the loop up for more than a moment, and
nobody has to say which statements are quick.
"""

import sqlite3
from pathlib import Path
from typing import Final

from appliance.store import sqlite_file
from appliance.store.base import Row, Statement

_STEPS: Final = 10_000  # of SQLite's virtual machine: about 0.1 ms, or a thousand rows
_MOST_KNOWN: Final = 1_000  # statements; the program has fewer


class QuickReader:
    """Owns a connection for reading that is used on the event loop alone."""

    def __init__(self, path: Path) -> None:
        self._looks = 0
        self._connection = sqlite_file.connect_quick_reader(path, self._has_had_enough, _STEPS)
        self._too_long: set[str] = set()

    def read(self, statement: Statement) -> list[Row] | None:
        """Return the rows; None: a thread is to do it, because it takes long or failed here."""
        if statement.sql in self._too_long:
            return None
        self._looks = 0
        try:
            return sqlite_file.read(self._connection, statement)
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                if len(self._too_long) >= _MOST_KNOWN:
                    self._too_long.clear()
                self._too_long.add(statement.sql)
            return None

    def close(self) -> None:
        self._connection.close()

    def _has_had_enough(self) -> bool:
        # SQLite goes on counting where the last use of a statement ended: the first look may come
        # after its first step.
        self._looks += 1
        return self._looks > 1
