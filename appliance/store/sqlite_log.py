"""Has the write-ahead log lost what was acknowledged? SQLite takes a cut log for a shorter one.

What a process that was killed leaves beside the log is the index to it (`state.db-shm`), which
tells how far the log went: it is shared memory, whole whenever a process dies. Over a power cut it
is not, but then the log is what was synced, and that is all that was acknowledged. So a mark in a
file of ours names the boot in which the database was opened; a close that ends well removes it.
"""

import struct
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from appliance.core.boot import read_boot_id
from appliance.core.errors import Corrupt
from appliance.core.files import remove_durably, write_atomic

# Source: SQLite, "WAL-mode File Format", 2.1: two equal headers, then how many frames are in the
# database already. In the byte order of the machine, but for the salts, which are as in the log.
_HEADER: Final = struct.Struct("=II I BBH II 2I 8s 2I")
_BACKFILLED: Final = struct.Struct("=I")


class _Reach(NamedTuple):
    """How far the index knows a log to go."""

    salts: bytes
    frames: int
    backfilled: int

    def is_lost_in(self, now: "_Reach | None") -> bool:
        if now is not None and now.salts == self.salts:
            return now.frames < self.frames
        return self.frames > self.backfilled  # another log, or none: were these frames copied?


class Log:
    """The log of the database `path`, and what is known of it; owns the mark."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.file: Final = path.with_name(f"{path.name}-wal")
        self._index = path.with_name(f"{path.name}-shm")
        self._mark = path.with_name(f"{path.name}.open")

    @property
    def files(self) -> tuple[Path, ...]:
        """The log and what belongs to it, whether it is there or not."""
        return self.file, self._index, self._mark

    @contextmanager
    def watched(self) -> Generator[None]:
        """Have the database read in the block for the first time, read-only; check what it found.

        Raises:
            Corrupt: commits that were acknowledged are gone from the log. Nothing was changed.
        """
        before = self._read_index() if self._was_left_open() else None
        if before is not None and not self.file.exists():
            raise self._lost("is missing")
        yield
        reach = None if before is None else _read_reach(before)
        if before is not None and reach is not None and reach.is_lost_in(self._reach()):
            self._index.write_bytes(before)  # so that the next look finds the same
            raise self._lost("was cut or damaged, or belongs to another database")

    def mark(self) -> None:
        """Note that what is acknowledged from now on may be in the log alone."""
        with suppress(OSError):  # on a disk that is full, or may not be written, we do without
            if self.file.exists():
                write_atomic(self._mark, read_boot_id().encode(), mode=0o600)

    def unmark(self) -> None:
        """Note that nothing more will be written, while the log is still there."""
        with suppress(OSError):  # what keeps the mark keeps the log too
            remove_durably(self._mark)

    def _was_left_open(self) -> bool:
        with suppress(FileNotFoundError):
            return self._mark.read_text("ascii", "replace").strip() == read_boot_id()
        return False

    def _read_index(self) -> bytes:
        with suppress(FileNotFoundError):
            return self._index.read_bytes()
        return b""

    def _reach(self) -> _Reach | None:
        return _read_reach(self._read_index())

    def _lost(self, what: str) -> Corrupt:
        return Corrupt(
            f"{self.file} {what}, and the newest changes with it",
            hint="put the log back, or restore the newest backup, or go on without these changes:"
            f" kowabunga state restore {self._path} --state {self._path.parent}",
        )


def _read_reach(index: bytes) -> _Reach | None:
    """Return None for an index that says nothing: not there, or left in the middle of a change."""
    size = _HEADER.size
    if len(index) < 2 * size + _BACKFILLED.size or index[:size] != index[size : 2 * size]:
        return None
    fields = _HEADER.unpack_from(index)
    is_initialised, frames, salts = fields[3], fields[6], fields[10]
    if not is_initialised:
        return None
    (backfilled,) = _BACKFILLED.unpack_from(index, 2 * size)
    return _Reach(salts, frames, backfilled)
