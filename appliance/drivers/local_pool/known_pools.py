"""Which pools were here, so that a disk that is not mounted is not taken for an empty pool.

A pool bears a mark, an empty file; the node remembers where it has seen one. A node that has lost
its memory takes every directory as it is.
"""

from pathlib import Path
from threading import Lock
from typing import Final

import msgspec
import structlog

from appliance.core.errors import Unavailable
from appliance.core.files import sync_directory, write_atomic

MARK: Final = ".kowabunga-pool"
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


class KnownPools:
    """Blocking: to be called in a thread."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: set[str] | None = None  # not read yet
        self._lock = Lock()

    def check(self, directory: Path) -> None:
        """Accept a pool that was here, and is, and one that is new.

        Raises:
            Unavailable: it was here, and what is in its place now is another directory, or none.
        """
        with self._lock:
            if str(directory) in self._read() and not (directory / MARK).exists():
                raise Unavailable(
                    f"{directory} is not the pool that was there: it lacks {MARK}",
                    hint="mount its disk; or, if it shall be a new and empty pool:"
                    f" mkdir -p {directory} && touch {directory / MARK}",
                )

    def remember(self, directory: Path) -> None:
        """Mark a pool, and keep in mind that it is here."""
        with self._lock:
            known = self._read()
            if str(directory) in known:
                return
            mark = directory / MARK
            if not mark.exists():
                mark.touch(mode=0o600)
                sync_directory(directory)
            known.add(str(directory))
            try:
                write_atomic(self._memory, msgspec.json.encode(sorted(known)), mode=0o600)
            except OSError as failed:  # a full disk: the next start tries again
                _log.warning("pools_not_remembered", error=str(failed))

    def _read(self) -> set[str]:
        if self._known is None:
            try:
                self._known = msgspec.json.decode(self._memory.read_bytes(), type=set[str])
            except FileNotFoundError:
                self._known = set()
            except msgspec.DecodeError as damaged:
                _log.warning("pools_forgotten", file=str(self._memory), error=str(damaged))
                self._known = set()
        return self._known
