"""One role of a node in a process of its own, beside a private libvirtd: to be killed by tests."""

import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from appliance.model.node_status import RoleState
from appliance.roles.node import Assignment, Report
from tests.support.death import arm
from tests.support.libvirtd import Libvirtd
from tests.support.wait import until_now
from tests.support.wrong_clock import clock_of, set_clock

LIMIT_S: Final = 100.0
_TOP: Final = Path(__file__).parents[2]
# It opens its input first, so that whoever started it has gone when the role looks at its parent.
_START: Final = """
cd "$1"
exec "$2" -m tests.support.mortal_role "$3" <"$4" >"$5" 2>>"$6"
"""
_IN_BACKGROUND: Final = 'sh -c "$0" sh "$@" >/dev/null 2>&1 & echo $!'


class RoleProcess:
    """One role of the node, as its supervisor runs it, in a process that a test may kill."""

    def __init__(self, libvirtd: Libvirtd, directory: Path, assignment: Assignment) -> None:
        self.log = directory / f"{assignment.role}.log"
        self._libvirtd = libvirtd
        # Its parent, once started, is the process that all others there end with.
        self._assignment = msgspec.structs.replace(assignment, supervisor=1)
        self._input = directory / f"{assignment.role}.in"
        self._reports = directory / f"{assignment.role}.out"
        self._death = directory / f"{assignment.role}.death"
        self.pid = 0  # as the tests' own processes see it
        self._is_armed = False
        os.mkfifo(self._input)

    def start(self, *, die_at: str | None = None, wait: bool = True) -> None:
        """Start it, and wait until it works, or until it has died where it was to die."""
        self.spare()
        if die_at is not None:
            self.die_at(die_at)
        files = (self._death, self._input, self._reports, self.log)
        script = ("sh", "-c", _IN_BACKGROUND, _START, _TOP, sys.executable, *files)
        self._reports.unlink(missing_ok=True)
        self.pid = _seen_from_here(self._libvirtd, self._libvirtd.run(*script).strip())
        self._input.write_bytes(msgspec.json.encode(self._assignment) + b"\n")
        if not wait:
            return
        until_now(
            lambda: self.state is RoleState.RUNNING or not self.alive or self.has_died,
            f"{self._assignment.role} runs",
            timeout_s=LIMIT_S,
        )
        assert self.state is RoleState.RUNNING or die_at is not None, self.told()

    def set_clock(self, ahead_s: float) -> None:
        """Have its wall clock be wrong: from its next start on, or at once if it was before."""
        set_clock(clock_of(self._death), ahead_s)

    @property
    def state(self) -> RoleState | None:
        """What it has told last."""
        written = self._reports.read_bytes() if self._reports.exists() else b""
        lines = written.rpartition(b"\n")[0].splitlines()
        return msgspec.json.decode(lines[-1], type=Report).state if lines else None

    @property
    def alive(self) -> bool:
        return self.pid > 0 and Path(f"/proc/{self.pid}").exists()

    @property
    def has_died(self) -> bool:
        """Whether it was told to die at a point, and has come there."""
        return self._is_armed and not self._death.exists()

    def die_at(self, point: str) -> None:
        """Have it die at a point (`mortal_role`) when it comes there."""
        arm(self._death, point)
        self._is_armed = True

    def spare(self) -> bool:
        """Take that back; return whether it was too late."""
        has_died = self.has_died
        self._is_armed = False
        self._death.unlink(missing_ok=True)
        return has_died

    def until_dead(self) -> None:
        """Wait until it has died where it was told to."""
        until_now(lambda: self.has_died, "the process dies", timeout_s=LIMIT_S)
        self._await_end()

    def kill(self) -> None:
        """Kill it as a crash does, and return once it is gone."""
        self.signal(signal.SIGKILL)
        self._await_end()

    def stop(self) -> None:
        """Let it close, and return once it is gone."""
        self.signal(signal.SIGTERM)
        self._await_end()

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def told(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def _await_end(self) -> None:
        until_now(lambda: not self.alive, "the process ends", timeout_s=LIMIT_S)
        self.pid = 0


def _seen_from_here(libvirtd: Libvirtd, pid: str) -> int:
    """Return the number of a process outside of its namespace of process ids."""
    namespace = libvirtd.run("readlink", "/proc/self/ns/pid").strip()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            if str((process / "ns/pid").readlink()) == namespace:
                numbers = re.search(r"^NSpid:.*\t(\d+)$", (process / "status").read_text(), re.M)
                if numbers is not None and numbers[1] == pid:
                    return int(process.name)
    raise AssertionError(f"process {pid} has ended")
