"""The part of pyinotify that `core/watch.py` uses; the package has no types."""

IN_CREATE: int
IN_MOVED_TO: int
IN_MOVED_FROM: int
IN_CLOSE_WRITE: int
IN_ATTRIB: int
IN_DELETE: int
IN_DELETE_SELF: int
IN_MOVE_SELF: int
IN_ONLYDIR: int

class WatchManagerError(Exception): ...

class WatchManager:
    def get_fd(self) -> int: ...
    def close(self) -> None: ...
    def add_watch(self, path: str, mask: int, *, quiet: bool = True) -> dict[str, int]: ...
    def rm_watch(self, wd: int, *, quiet: bool = True) -> dict[int, bool]: ...
