"""One role of a node in a process of its own, as the node's supervisor runs it."""

import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from appliance.model.node import NodeConfig, Role
from appliance.model.node_status import RoleState
from appliance.roles.node import Report, assignments
from tests.support.wait import until_now

_LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class RoleRun:
    process: subprocess.Popen[bytes]
    log: Path
    reports_file: Path

    def told(self) -> list[Report]:
        """Return what it has reported so far."""
        whole = self.reports_file.read_bytes().rpartition(b"\n")[0]
        return [msgspec.json.decode(line, type=Report) for line in whole.splitlines()]

    @property
    def is_running(self) -> bool:
        return any(report.state is RoleState.RUNNING for report in self.told())

    def until_running(self) -> None:
        def runs() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.is_running

        until_now(runs, "the role runs", timeout_s=_LIMIT_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(_LIMIT_S)


@contextmanager
def run_role(
    role: Role, node: NodeConfig, directory: Path, *, under: Sequence[str] = ()
) -> Generator[RoleRun]:
    """Play a role of the node for the life of the block, below the command `under`."""
    assignment = msgspec.structs.replace(assignments(node)[role], supervisor=os.getpid())
    command = [*under, sys.executable, "-m", "appliance", "role", "run", str(role)]
    log, reports = directory / f"{role}.log", directory / f"{role}.reports"
    with (
        log.open("wb") as err,
        reports.open("wb") as out,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(assignment) + b"\n")
        process.stdin.flush()
        run = RoleRun(process, log, reports)
        try:
            yield run
        finally:
            run.kill()
