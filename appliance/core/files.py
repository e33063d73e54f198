"""Files that survive a power cut, and secrets that only their owner reads."""

import fcntl
import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from appliance.core.errors import Conflict, Forbidden

_STATE: Final = "state.db"  # where it is, everything is ours
_OTHERS: Final = 0o077  # the permissions of group and others
_LISTING: Final = 0o066  # ... without the one to go through to what they know by name


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` so that a reader, or the next boot, sees the old or the new content whole.

    Source: rename(2), fsync(2): the directory is synced too, else the name may be lost.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with _named(path), os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    sync_directory(path.parent)


def keep_written(path: Path, content: bytes) -> None:
    """Do the same, but leave a file that holds the content alone: also on a full disk."""
    with suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return
    write_atomic(path, content)


def create_private(path: Path, content: bytes) -> bool:
    """Create a 0600 file whole and durable; False when the name is taken, which changes nothing.

    Of two that race for the name, one wins and the other learns it.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with _named(path), os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        Path(temporary).unlink()
    sync_directory(path.parent)
    return True


@contextmanager
def _named(path: Path) -> Generator[None]:
    """Have a write that fails tell the file: a handle knows no name."""
    try:
        yield
    except OSError as failed:
        failed.filename = str(path)
        raise


def remove_durably(path: Path) -> None:
    """Remove the file so that a power cut does not bring it back; fine when it is gone."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_left(path: Path) -> None:
    """Bring to the disk what is in a file, if it is there: who wrote it may have died before that.

    Until then a power cut would take away what its reader has relied on.
    """
    with suppress(FileNotFoundError), path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def ensure_private_directory(path: Path) -> None:
    """Create the directory (and its parents) for its owner alone.

    What is in it is there for good when this returns: who made it may have died before syncing it.
    That others may go through it (`let_pass`) is no harm: what is private in it stays so. One that
    exists is tightened if that takes nothing from anybody: it is ours (a restored state may be
    readable by all), or empty, or what is in it is its owner's alone already.

    Raises:
        Forbidden: it is made for all users to share, as /tmp is, or holds what others may use, as
            /var/lib does; they would be locked out.
    """
    if not path.is_dir():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(path.parent)
    sync_directory(path)
    mode = path.stat().st_mode
    if mode & stat.S_ISVTX:
        raise Forbidden(f"{path} is shared by all users", hint="name a directory below it")
    if not mode & _LISTING:
        return
    for entry in () if (path / _STATE).exists() else path.iterdir():
        # One that is gone again was a temporary file of ours, or is no obstacle.
        with suppress(FileNotFoundError):
            if entry.lstat().st_mode & _OTHERS:
                raise Forbidden(
                    f"{path} would be closed to others, who may use {entry.name} in it",
                    hint=f"name a new directory, or if it is for this alone: chmod 700 {path}",
                )
    path.chmod(0o700)


def let_pass(path: Path) -> None:
    """Let others go through a directory of ours, to what in it is theirs; they cannot list it."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o011)


def read_private(path: Path) -> bytes:
    """Read a secret file.

    Raises:
        Forbidden: group or others may read it.
        FileNotFoundError: it is not there.
    """
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & _OTHERS:
            raise Forbidden(
                f"{path} is readable by others (mode {mode:04o})", hint=f"run: chmod 600 {path}"
            )
        return file.read()


@contextmanager
def exclusive(path: Path, holder: str) -> Generator[None]:
    """Hold a lock file for the life of the block; the kernel lets go of it when we die.

    Raises:
        Conflict: another process holds it; its pid is named.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            pid = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise Conflict(
                f"{holder}: {path} is held by process {pid}", hint="stop that process first"
            ) from taken
        with suppress(OSError):  # a full disk: the lock holds all the same, only unsigned
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
