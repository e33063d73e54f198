"""Bring a node to what its file says, from outside: start its supervisor if need be, and wait.

The supervisor does the work. This only looks at what it tells, so that it may be interrupted and
run again at any time.
"""

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from appliance.core.clock import Clock
from appliance.core.command import start_detached
from appliance.core.errors import DeadlineExceeded, Unavailable
from appliance.model.node_status import NodeStatus, RoleState
from appliance.roles import systemd
from appliance.roles.node_file import (
    NodeFiles,
    digest_of,
    read_node_file,
    read_status,
    supervisor_pid,
)

_LOOK_EVERY_S = 0.05
_START_S = 30.0


@dataclass(frozen=True, slots=True)
class Program:
    """How to start ourselves anew."""

    executable: Path
    environment: Mapping[str, str]


def check_program(files: NodeFiles, program: Program) -> None:
    """Refuse before anything is changed.

    Raises:
        Invalid: systemd could not start the program.
    """
    if files.is_default and systemd.is_running():
        systemd.unit_file(program.executable)


async def ensure_supervisor(files: NodeFiles, program: Program, *, clock: Clock) -> bool:
    """Have a supervisor running for these files; whether one had to be started.

    Raises:
        Unavailable: it ended at once.
        Invalid: systemd could not start the program.
        DriverError: it, or systemd, refused.
    """
    if files.is_default and systemd.is_running():
        return await systemd.ensure_service(program.executable)
    if supervisor_pid(files) is not None:
        return False
    files.runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
    pid = start_detached(
        [program.executable, "serve", "--config", files.config, "--runtime", files.runtime],
        log=files.log,
        environment=program.environment,
    )
    end = clock.monotonic() + _START_S
    # Not before ours is the one, or has ended because another command was quicker: else it might
    # still become the one after that has been told to stop.
    while supervisor_pid(files) != pid:
        if _has_ended(pid):
            if supervisor_pid(files) is not None:
                return False
            raise Unavailable("the supervisor did not start", hint=f"see {files.log}")
        if clock.monotonic() > end:
            raise Unavailable("the supervisor does not start", hint=f"see {files.log}")
        await clock.sleep(_LOOK_EVERY_S)
    return True


async def until_settled(
    files: NodeFiles, *, timeout_s: float, clock: Clock, say: Callable[[str], None]
) -> NodeStatus:
    """Wait until the supervisor has dealt with the node file as it is now, and every role is up.

    `say` is told each change of a role's state.

    Raises:
        DeadlineExceeded: some role is still not up; the supervisor goes on trying.
    """
    end = clock.monotonic() + timeout_s
    told: dict[str, tuple[RoleState, str]] = {}
    while True:
        status = read_status(files)
        if status is not None and status.digest == digest_of(read_node_file(files.config)):
            for role, now in status.roles.items():
                if told.get(role) != (now.state, now.detail):
                    told[role] = now.state, now.detail
                    say(f"{role}: {now.state}" + (f": {now.detail}" if now.detail else ""))
            if status.settled:
                return status
        if clock.monotonic() > end:
            waiting = [role for role, (state, _) in told.items() if state is not RoleState.RUNNING]
            raise DeadlineExceeded(
                f"not up within {timeout_s:g} s: {', '.join(waiting) or 'the supervisor'}",
                hint="it goes on trying; look again with: kowabunga role show",
            )
        await clock.sleep(_LOOK_EVERY_S)


async def stop(files: NodeFiles, *, timeout_s: float, clock: Clock) -> bool:
    """Stop the supervisor and with it every role; whether there was one.

    Raises:
        DeadlineExceeded: it has not ended.
    """
    pid = supervisor_pid(files)
    if files.is_default and systemd.is_running():
        await systemd.stop_service()
    elif pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    end = clock.monotonic() + timeout_s
    while supervisor_pid(files) is not None:
        if clock.monotonic() > end:
            raise DeadlineExceeded(f"process {pid} has not ended within {timeout_s:g} s")
        await clock.sleep(_LOOK_EVERY_S)
    return pid is not None


def _has_ended(pid: int) -> bool:
    with suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return True
