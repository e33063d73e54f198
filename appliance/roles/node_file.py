"""The node file on disk, and the files that stand beside it. No process is started here."""

import fcntl
import hashlib
import os
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from appliance.core.config import parse, read, with_list
from appliance.core.errors import Conflict, Forbidden, Invalid, Unavailable
from appliance.core.files import exclusive, write_atomic
from appliance.model.node import NodeConfig, Role
from appliance.model.node_status import NodeStatus

CONFIG: Final = Path("/etc/kowabunga/node.yaml")
RUNTIME: Final = Path("/run/kowabunga")
MISSING: Final = "missing"
UNREADABLE: Final = "unreadable"
_LOCK_WAIT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """Where a node's files are.

    Attributes:
        config: the node file.
        runtime: run directory of the supervisor.
    """

    config: Path = CONFIG
    runtime: Path = RUNTIME

    @property
    def applied(self) -> Path:
        """A copy of the node file that was applied last; in force while the file is broken."""
        return self.config.with_name(f"{self.config.stem}.applied{self.config.suffix}")

    @property
    def lock(self) -> Path:
        """Held by the supervisor for its life; names its process."""
        return self.runtime / "node.lock"

    @property
    def status(self) -> Path:
        """A `NodeStatus` as JSON."""
        return self.runtime / "node.json"

    @property
    def log(self) -> Path:
        """What a supervisor says that `kowabunga role set` started."""
        return self.runtime / "node.log"

    @property
    def is_default(self) -> bool:
        return self == NodeFiles()

    def parse(self, content: bytes) -> NodeConfig:
        return parse(content, NodeConfig, source=str(self.config))


def read_node_file(path: Path) -> bytes | None:
    """Return the content, at most a little more than is allowed; None if there is no file.

    Raises:
        Invalid: it cannot be read.
    """
    try:
        return read(path)
    except FileNotFoundError:
        return None


def digest_of(content: bytes | None) -> str:
    return MISSING if content is None else hashlib.sha256(content).hexdigest()


def read_status(files: NodeFiles) -> NodeStatus | None:
    """Return what the running supervisor tells; None while none runs.

    Raises:
        Unavailable: what it tells is not what one of this release would.
    """
    pid = supervisor_pid(files)
    if pid is None:
        return None
    try:
        return msgspec.json.decode(files.status.read_bytes(), type=NodeStatus)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as foreign:
        raise Unavailable(
            f"the state of this node is unknown: {files.status}, which process {pid} writes, is "
            f"of another release: {foreign}",
            hint="start this one: kowabunga role stop, then kowabunga role set ROLES",
        ) from foreign


def supervisor_pid(files: NodeFiles) -> int | None:
    """Return the process that holds the supervisor's lock; None if nobody does.

    Raises:
        Forbidden: the lock belongs to another user.
    """
    try:
        handle = os.open(files.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except PermissionError as refused:
        raise Forbidden(f"{files.lock} cannot be read", hint="run it as root") from refused
    try:
        # Shared, so that two who look never take each other for the supervisor.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdecimal() else None
    else:
        return None
    finally:
        os.close(handle)


@contextmanager
def hold(lock: Path, holder: str, *, wait_s: float = 0.25) -> Generator[None]:
    """Hold a lock file; somebody who only looks, or is about to be done, is waited for.

    Raises:
        Conflict: another process still holds it after `wait_s`.
    """
    end = time.monotonic() + wait_s
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(exclusive(lock, holder))
                break
            except Conflict:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        yield


def set_roles(files: NodeFiles, roles: Sequence[Role]) -> bool:
    """Write the roles into the node file, keeping everything else; whether that changed it.

    Raises:
        Invalid: the file, or what it would become, is not right; it stays as it is.
        Conflict: another process has been changing it for 30 s.
    """
    files.config.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = files.config.with_name(f".{files.config.name}.lock")
    with hold(lock, "changing the node file", wait_s=_LOCK_WAIT_S):
        before = read_node_file(files.config)
        old = NodeConfig() if before is None else files.parse(before)
        if before is not None and old.roles == tuple(roles):
            return False
        after = with_list(before or b"", "roles", [str(role) for role in roles])
        if files.parse(after) != msgspec.structs.replace(old, roles=tuple(roles)):
            raise Invalid(f"{files.config}: cannot be edited as it is", hint="edit roles by hand")
        write_atomic(files.config, after)
        return True
