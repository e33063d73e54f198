"""A file that is being downloaded, and the note beside it of how much of it may be trusted.

The note tells how many bytes were safely on the disk when it was written, and of which version of
the source (ETag or Last-Modified). What lies behind them in the file counts for nothing.
"""

import hashlib
import os
from pathlib import Path
from threading import Event
from typing import Final

import msgspec

from appliance.core.files import write_atomic
from appliance.drivers.local_pool.sparse import SparseWriter

_CHUNK_BYTES: Final = 2**20


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What of a source is on the disk.

    Attributes:
        validator: what `If-Range` proves that the source is the same.
        sha256: of the whole, once it is there.
    """

    url: str
    validator: str | None = None
    done_bytes: int = 0
    sha256: str | None = None


class KeptFile:
    """Blocking: to be called in a thread, one call at a time."""

    def __init__(self, path: Path, url: str) -> None:
        self._path = path
        self._note_path = path.with_name(note_name(path.name))
        self._digest = hashlib.sha256()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(path, flags, 0o600)
        self.note = self._read_note(url)
        self._writer = SparseWriter(self._handle, self.note.done_bytes)

    @property
    def done_bytes(self) -> int:
        return self._writer.offset

    def close(self) -> None:
        os.close(self._handle)

    def rehash(self, stop: Event) -> None:
        """Read what is there, so that the digest will be that of the whole."""
        for offset in range(0, self.note.done_bytes, _CHUNK_BYTES):
            if stop.is_set():
                return
            length = min(_CHUNK_BYTES, self.note.done_bytes - offset)
            self._digest.update(os.pread(self._handle, length, offset))

    def begin(self, offset: int, validator: str | None) -> None:
        """Go on at `offset`, which is 0 or where the note ends."""
        if offset != self.note.done_bytes:
            self._digest = hashlib.sha256()
        os.ftruncate(self._handle, offset)
        self._writer = SparseWriter(self._handle, offset)
        self.note = Note(url=self.note.url, validator=validator, done_bytes=offset)

    def take(self, chunk: bytes) -> None:
        self._writer.write(chunk)
        self._digest.update(chunk)

    def keep(self) -> None:
        """Make sure that a repeat can go on from here."""
        os.ftruncate(self._handle, self.done_bytes)  # a hole at the end is part of it, too
        os.fdatasync(self._handle)
        self._write_note(msgspec.structs.replace(self.note, done_bytes=self.done_bytes))

    def finish(self) -> str:
        """The file is whole: bring it to the disk and return its SHA-256."""
        self._writer.finish()
        sha256 = self._digest.hexdigest()
        self._write_note(
            msgspec.structs.replace(self.note, done_bytes=self.done_bytes, sha256=sha256)
        )
        return sha256

    def _read_note(self, url: str) -> Note:
        nothing = Note(url=url)
        try:
            note = msgspec.json.decode(self._note_path.read_bytes(), type=Note)
        except (FileNotFoundError, msgspec.DecodeError):
            return nothing
        can_go_on = note.sha256 is not None or note.validator is not None
        is_there = os.fstat(self._handle).st_size >= note.done_bytes
        return note if note.url == url and can_go_on and is_there else nothing

    def _write_note(self, note: Note) -> None:
        self.note = note
        write_atomic(self._note_path, msgspec.json.encode(note), mode=0o600)


def note_name(name: str) -> str:
    """Return the name of the note about a file."""
    return f"{name}.json"
