"""The supervisor of a node: runs the roles of the node file, each in a process of its own.

It knows no role's work and loads no role's libraries. What it decides from is the node file; what
it knows it tells in `node.json` in the run directory, for `kowabunga role`.
"""

import asyncio
import os
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import structlog

from appliance.core import command
from appliance.core.aio import Backoff
from appliance.core.clock import Clock
from appliance.core.errors import DriverError, Invalid, Problem
from appliance.core.files import write_atomic
from appliance.core.service import notify_systemd
from appliance.core.version import version_line
from appliance.core.watch import Watch, watch
from appliance.model.node import NodeConfig, Role
from appliance.model.node_status import NodeStatus, RoleState, RoleStatus
from appliance.roles.node import Assignment, Report, assignments
from appliance.roles.node_file import UNREADABLE, NodeFiles, digest_of, hold, read_node_file

_GRACE_S: Final = 15.0  # a role has 10 s to close
_SETTLED_AFTER_S: Final = 60.0
_ALIVE_EVERY_S: Final = 10.0  # a third of WatchdogSec in the unit, at most
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a role's process: the assignment follows on its standard input."""

    argv: Sequence[str | Path]
    environment: Mapping[str, str]


class Supervisor:
    def __init__(
        self,
        files: NodeFiles,
        launch: Launch,
        *,
        clock: Clock,
        backoff: Backoff | None = None,
        watch: Callable[[Path], AbstractContextManager[Watch]] = watch,
        look_every_s: float = 5.0,
    ) -> None:
        self._files = files
        self._launch = launch
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._watch = watch
        self._look_every_s = look_every_s
        self._unwatched = ""
        self._digest = ""
        self._error: Problem | None = None
        self._status: dict[Role, RoleStatus] = {}
        self._running: dict[Role, tuple[Assignment, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Apply the node file now and after each change, until cancelled.

        Raises:
            Conflict: another supervisor runs with the same run directory.
        """
        self._files.runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
        with hold(self._files.lock, "the node's supervisor"):
            try:
                async with asyncio.TaskGroup() as group:
                    await self._look(group)
                    notify_systemd("READY=1")
                    group.create_task(self._tell_alive())
                    await self._follow(group)
            finally:
                notify_systemd("STOPPING=1")
                with suppress(FileNotFoundError):
                    self._files.status.unlink()

    async def _follow(self, group: asyncio.TaskGroup) -> NoReturn:
        """Look at the node file after each change; every few seconds while it cannot be watched.

        Other programs can use up what the kernel grants of watches: no reason to end the roles.
        """
        while True:
            try:
                with self._watch(self._files.config) as watching:
                    self._tell_unwatched("")
                    while True:
                        await self._look(group)
                        await watching.changed()
            except DriverError as failed:
                self._tell_unwatched(str(failed))
            await self._clock.sleep(self._look_every_s)
            await self._look(group)

    def _tell_unwatched(self, why: str) -> None:
        if why == self._unwatched:
            return
        if why:
            _log.warning("node_file_not_watched", why=why, look_every_s=self._look_every_s)
        else:
            _log.info("node_file_watched_again")
        self._unwatched = why
        self._publish()

    async def _look(self, group: asyncio.TaskGroup) -> None:
        """Apply the node file if it is another one than last time, or refuse it."""
        first = self._digest == ""
        digest = UNREADABLE
        try:
            content = read_node_file(self._files.config)
            digest = digest_of(content)
            if digest == self._digest:
                return
            node = self._parse(content, first=first)
        except Invalid as refused:
            _log.error("node_file_refused", error=str(refused), **refused.context)
            self._error = refused.to_problem()
            if first:
                await self._apply(self._last_applied(), group)
        else:
            self._error = None
            await self._apply(node, group)
            self._keep(content)
            _log.info("node_file_applied", roles=[str(role) for role in node.roles])
        self._digest = digest
        self._publish()

    def _parse(self, content: bytes | None, *, first: bool) -> NodeConfig:
        if content is not None:
            return self._files.parse(content)
        if first and read_node_file(self._files.applied) is None:
            return NodeConfig()
        raise Invalid(
            f"{self._files.config}: is missing",
            hint="run: kowabunga role set ROLES",
            file=str(self._files.config),
        )

    def _last_applied(self) -> NodeConfig:
        """Return what was in force before this start: a broken file must not cut a node off."""
        try:
            content = read_node_file(self._files.applied)
            return self._files.parse(content) if content is not None else NodeConfig()
        except Invalid as refused:  # written by another release, or damaged
            _log.error("last_node_file_refused", error=str(refused))
            return NodeConfig()

    def _keep(self, content: bytes | None) -> None:
        try:
            if content is not None and content != read_node_file(self._files.applied):
                write_atomic(self._files.applied, content)
        except (OSError, Invalid) as failed:
            _log.warning("node_file_not_kept", file=str(self._files.applied), error=str(failed))

    async def _apply(self, node: NodeConfig, group: asyncio.TaskGroup) -> None:
        wanted = assignments(node)
        for role, (assignment, task) in list(reversed(self._running.items())):
            if wanted.get(role) != assignment:
                task.cancel()
                await asyncio.wait({task})
                del self._running[role]
        self._status = {role: self._status[role] for role in self._running}
        for role in node.roles:
            if role not in wanted:
                self._tell(role, RoleState.DEGRADED, "not built yet")
            elif role not in self._running:
                self._tell(role, RoleState.STARTING)
                task = group.create_task(self._keep_running(wanted[role]), name=str(role))
                self._running[role] = wanted[role], task

    async def _keep_running(self, assignment: Assignment) -> None:
        """Run a role's process, and again whenever it ends, until cancelled."""
        role = assignment.role
        failures = 0
        while True:
            started = self._clock.monotonic()
            try:
                detail = await self._run_once(assignment, failures)
            except Exception as failed:
                _log.exception("role_not_started", role=role)
                detail = str(failed)
            lasted = self._clock.monotonic() - started
            failures = 1 if lasted >= _SETTLED_AFTER_S else failures + 1
            pause_s = self._backoff.delay_s(failures)
            _log.error("role_ended", role=role, detail=detail, again_in_s=round(pause_s, 1))
            self._tell(role, RoleState.FAILED, detail, failures=failures)
            await self._clock.sleep(pause_s)

    async def _run_once(self, assignment: Assignment, failures: int) -> str:
        """Return why the process ended."""
        role = assignment.role
        process = await command.start(
            [*self._launch.argv, role], environment=self._launch.environment
        )
        try:
            self._tell(role, RoleState.STARTING, pid=process.pid, failures=failures)
            _log.info("role_started", role=role, pid=process.pid)
            return await self._converse(process, assignment, failures)
        finally:
            if process.returncode is None:
                self._tell(role, RoleState.STOPPING, pid=process.pid)
            await command.terminate(process, grace_s=_GRACE_S)
            _log.info("role_stopped", role=role, pid=process.pid)

    async def _converse(self, process: Process, assignment: Assignment, failures: int) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        last = ""
        with suppress(BrokenPipeError, ConnectionResetError):
            sent = msgspec.structs.replace(assignment, supervisor=os.getpid())
            process.stdin.write(msgspec.json.encode(sent) + b"\n")
            await process.stdin.drain()
        while line := await process.stdout.readline():
            report = msgspec.json.decode(line, type=Report)
            last = report.detail if report.state is RoleState.FAILED else ""
            self._tell(
                assignment.role, report.state, report.detail, pid=process.pid, failures=failures
            )
        return last or command.explain(await process.wait())

    def _tell(
        self,
        role: Role,
        state: RoleState,
        detail: str = "",
        *,
        pid: int | None = None,
        failures: int = 0,
    ) -> None:
        self._status[role] = RoleStatus(
            state=state, detail=detail, pid=pid, since_ms=self._clock.now_ms(), failures=failures
        )
        self._publish()

    def _publish(self) -> None:
        status = NodeStatus(
            pid=os.getpid(),
            version=version_line(),
            digest=self._digest,
            error=self._error,
            unwatched=self._unwatched,
            roles=self._status,
        )
        try:
            write_atomic(self._files.status, msgspec.json.encode(status))
        except OSError as failed:  # a full or missing run directory must not end the roles
            _log.error("status_not_told", file=str(self._files.status), error=str(failed))
        named = ", ".join(f"{role} {told.state}" for role, told in self._status.items())
        notify_systemd(f"STATUS={named or 'no roles'}")

    async def _tell_alive(self) -> None:
        """Let systemd restart us when this loop hangs."""
        while True:
            notify_systemd("WATCHDOG=1")
            await self._clock.sleep(_ALIVE_EVERY_S)
