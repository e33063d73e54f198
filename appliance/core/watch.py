"""`watch`: notice that a file may have changed. The only module that touches pyinotify.

Of pyinotify only the system calls are used: its event parser dies of file names that are not
UTF-8. That costs nothing, since *what* happened is never asked: every event, also a lost one (the
queue overflowed), means "read the file and compare".
"""

import asyncio
import logging
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from appliance.core.errors import DriverError

with warnings.catch_warnings():
    # It imports asyncore, deprecated since 3.6, and has invalid escapes in its strings.
    warnings.simplefilter("ignore")
    import pyinotify

logging.getLogger("pyinotify").handlers.clear()  # it sets up logging when imported

# The directory, not the file: an atomic write puts a new file in the place of the old one.
_EVENTS: Final[int] = (
    pyinotify.IN_CREATE | pyinotify.IN_MOVED_TO | pyinotify.IN_CLOSE_WRITE | pyinotify.IN_ATTRIB
    | pyinotify.IN_DELETE | pyinotify.IN_MOVED_FROM
    | pyinotify.IN_DELETE_SELF | pyinotify.IN_MOVE_SELF | pyinotify.IN_ONLYDIR
)  # fmt: skip
_SETTLE_S: Final = 0.05  # an editor makes several events of one save


class Watch:
    """See `watch`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._event = asyncio.Event()
        self._manager = pyinotify.WatchManager()
        self._descriptor = -1
        self._watched: tuple[int, int] | None = None
        self._follow()
        asyncio.get_running_loop().add_reader(self._manager.get_fd(), self._on_readable)

    async def changed(self) -> None:
        """Wait until the file may have changed since the last return; a burst counts once."""
        await self._event.wait()
        await asyncio.sleep(_SETTLE_S)
        self._event.clear()
        self._follow()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._manager.get_fd())
        self._manager.close()

    def _on_readable(self) -> None:
        os.read(self._manager.get_fd(), 65536)
        self._event.set()

    def _follow(self) -> None:
        """Watch the directory of that name, even if it was replaced, or else what it will be in."""
        while (current := _nearest_directory(self._path)) is not None:
            directory, identity = current
            if identity == self._watched:
                return
            if self._descriptor >= 0:
                self._manager.rm_watch(self._descriptor, quiet=True)
            try:
                added = self._manager.add_watch(str(directory), _EVENTS, quiet=False)
            except pyinotify.WatchManagerError as failed:
                if not directory.exists():
                    continue
                raise DriverError(
                    f"cannot watch {directory}: {failed}",
                    hint="raise the limit fs.inotify.max_user_watches",
                ) from failed
            self._descriptor = added[str(directory)]
            # Looked at again: it may have been replaced before the watch stood.
            self._watched = identity


def _nearest_directory(path: Path) -> tuple[Path, tuple[int, int]] | None:
    for directory in path.parents:
        try:
            found = directory.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return directory, (found.st_dev, found.st_ino)
    return None


@contextmanager
def watch(path: Path) -> Generator[Watch]:
    """Watch for changes of a file that need not exist yet, nor its directory.

    No change after entry is missed. Changes through a symbolic link's target, and by other
    machines on a network file system, are not seen: inotify(7).

    Raises:
        DriverError: the kernel has no watch left.
    """
    try:
        watching = Watch(path.absolute())
    except OSError as failed:
        raise DriverError(
            f"cannot watch {path}: {failed}", hint="raise fs.inotify.max_user_instances"
        ) from failed
    try:
        yield watching
    finally:
        watching.close()
