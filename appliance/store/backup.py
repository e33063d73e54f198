"""The database as one file that can be carried away, and such a file put in its place.

Knows files and SQLite; what must change in what is restored is its caller's to say. Whatever dies
on whichever line: a backup is there whole or not at all, and a database is the old one, or the new
one, or refuses to open until the restore was run again.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from appliance.core.errors import Conflict, Corrupt, NotFound
from appliance.core.files import ensure_private_directory, exclusive, sync_directory
from appliance.store import sqlite_file
from appliance.store.sqlite_log import Log

RESTORING: Final = "restoring"  # the directory in which a database is made ready


def back_up(database: Path, file: Path) -> None:
    """Write all that is committed now into a new file (0600), while a Kahuna runs or not.

    Raises:
        NotFound: there is no such database, or no directory for the file.
        Conflict: the file exists.
        Corrupt: the database is damaged, or its log has lost changes.
        Unavailable: the disk is full, or a file cannot be used.
    """
    if not database.exists():
        raise NotFound(f"there is no database {database}", field="state")
    folder = file.absolute().parent
    if not folder.is_dir():
        raise NotFound(f"there is no directory {folder}", field="file")
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=folder)
    os.close(handle)
    made = Path(name)
    try:
        if _is_in_use(database):
            _copy(database, made)
        else:
            with Log(database).watched():
                _copy(database, made)
        try:
            os.link(made, file)
        except FileExistsError:
            raise Conflict(
                f"{file} exists already", hint="choose another file, or remove it", field="file"
            ) from None
    finally:
        made.unlink()
    sync_directory(folder)


@contextmanager
def restoring(file: Path, database: Path) -> Generator[Path]:
    """Give a copy of a backup to make ready; after the block it takes the place of the database.

    What it replaces is kept in a directory beside it. If the block fails, nothing has changed.

    Raises:
        NotFound: there is no such backup.
        Conflict: a Kahuna is running on the database.
        Corrupt: the backup is no database of ours, or damaged.
        Unavailable: the disk is full, or a file cannot be used.
    """
    if not file.is_file():
        raise NotFound(f"there is no backup {file}", field="file")
    state = database.parent
    ensure_private_directory(state)
    with exclusive(_lock_of(database), "the state"):
        place = state / RESTORING
        new = place / database.name
        was_interrupted = place.exists()
        _clear(place)
        place.mkdir(mode=0o700)
        sync_directory(state)
        try:
            _copy(file, new)
            yield new
        except BaseException:
            _clear(place)
            if was_interrupted:  # what it had begun is still half done
                place.mkdir(mode=0o700)
            raise
        _put_in_place(new, database)
        _clear(place)


def refuse_half_restored(database: Path) -> None:
    """Refuse a database whose log may be gone while it was not replaced yet.

    Raises:
        Corrupt: a restore was interrupted.
    """
    if (place := database.with_name(RESTORING)).exists():
        raise Corrupt(
            f"a restore of {database} was interrupted ({place} is there)",
            hint="run it again: kowabunga state restore",
        )


def _copy(source: Path, target: Path) -> None:
    """Write what `source` and its log hold as one file without a log, checked and on the disk."""
    try:
        sqlite_file.refuse_unless_sound(source)
        with closing(sqlite_file.connect_to_copy(source)) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
        sqlite_file.refuse_unless_sound(target)
    except sqlite3.Error as error:
        raise sqlite_file.translate(error, source) from error
    target.chmod(0o600)
    with target.open("rb") as copy:
        os.fsync(copy.fileno())
    sync_directory(target.parent)


def _put_in_place(new: Path, database: Path) -> None:
    """Keep the old files aside; the old log must be gone before the new database has its name."""
    log = Log(database)
    old = [path for path in (database, *log.files) if path.exists()]
    if old:
        aside = Path(tempfile.mkdtemp(prefix="replaced-", dir=database.parent))
        for path in old:
            os.link(path, aside / path.name)
        sync_directory(aside)
        for path in log.files:
            path.unlink(missing_ok=True)
    sync_directory(database.parent)
    new.replace(database)
    sync_directory(database.parent)


def _is_in_use(database: Path) -> bool:
    """Tell whether a process has the database: then what is in its log is being written."""
    try:
        with exclusive(_lock_of(database), "the state"):
            return False
    except Conflict:
        return True


def _lock_of(database: Path) -> Path:
    return database.with_name(f"{database.name}.lock")


def _clear(place: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(place)
    sync_directory(place.parent)
