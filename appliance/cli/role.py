"""`kowabunga role`: what this node is. It works on the node's own files, without an API."""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec

import click

from appliance.cli.exit_code import ExitCode
from appliance.cli.failure import Failed
from appliance.cli.options import FILE, output
from appliance.cli.output import Column, Format, field, moment, show_list
from appliance.cli.program import this_program
from appliance.core.clock import SystemClock
from appliance.core.errors import Invalid
from appliance.core.logs import LogLevel, configure_logs
from appliance.model.node import Role
from appliance.model.node_status import RoleStatus
from appliance.roles import converge
from appliance.roles.node import BUILT, serve_assignment
from appliance.roles.node_file import (
    CONFIG,
    RUNTIME,
    NodeFiles,
    digest_of,
    read_node_file,
    read_status,
    set_roles,
)

P = ParamSpec("P")
DIRECTORY: Final = click.Path(path_type=Path, file_okay=False)
_ABOUT: Final = {
    Role.KAHUNA: "orchestrator: REST API and hub of the agents",
    Role.KAKTUS: "computing and storage",
    Role.KIWI: "router, firewall, DHCP, DNS and VPN of a region",
    Role.KAWAII: "a project's Internet gateway, in a service VM",
    Role.KONVEY: "a project's load balancer, in a service VM",
}
_CLOCK: Final = SystemClock()


def node_files(command: Callable[Concatenate[NodeFiles, P], None]) -> Callable[..., None]:
    """Add the options that say where the node's files are; the command gets them first."""

    @click.option("--config", type=FILE, default=CONFIG, show_default=True, help="The node file.")
    @click.option(
        "--runtime", type=DIRECTORY, default=RUNTIME, show_default=True, help="Run directory."
    )
    @functools.wraps(command)
    def with_files(
        *args: Any,  # noqa: ANN401 - the command's own, as click found them
        config: Path,
        runtime: Path,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        command(NodeFiles(config.absolute(), runtime.absolute()), *args, **kwargs)

    return with_files


@click.group()
def role() -> None:
    """What this node is.

    Example: kowabunga role set kahuna,kaktus
    """
    configure_logs(LogLevel.WARNING)  # what we do is said in sentences


@role.command("list")
@output
@node_files
def list_roles(files: NodeFiles, form: Format) -> None:
    """List the roles that a node can have.

    Example: kowabunga role list -o json
    """
    content = read_node_file(files.config)
    chosen = files.parse(content).roles if content is not None else ()
    rows = [
        {"role": str(one), "chosen": one in chosen, "built": one in BUILT, "about": about}
        for one, about in _ABOUT.items()
    ]
    columns = [field("ROLE", "role"), field("CHOSEN", "chosen"), field("BUILT", "built")]
    show_list(rows, [*columns, field("ABOUT", "about")], form, "role")


@role.command("show")
@output
@node_files
def show(files: NodeFiles, form: Format) -> None:
    """Show what runs here, and what is wrong with it.

    Ends with 11 where something is wrong, or waits to be applied.

    Example: kowabunga role show
    """
    content = read_node_file(files.config)
    status = read_status(files)
    wanted = _wanted(files, content)
    running = status.roles if status else {}
    rows = [_row(one, running.get(one)) for one in dict.fromkeys([*wanted, *running])]
    columns = [
        field("ROLE", "role"),
        field("STATE", "state"),
        moment("SINCE", "since_ms"),
        Column("DETAIL", lambda row: row["detail"]),
        field("PID", "pid", wide=True),
        field("FAILURES", "failures", wide=True),
    ]
    show_list(rows, columns, form, "role")
    if status is None:
        if wanted:
            raise Failed("nothing supervises this node; run: kowabunga serve", ExitCode.DEGRADED)
        click.echo("no role; set some with: kowabunga role set ROLES", err=True)
        return
    if status.error is not None:
        problem = Invalid(status.error.detail, hint=status.error.hint)
        raise Failed(f"{problem}; what was applied before is in force", ExitCode.DEGRADED)
    if status.digest != digest_of(content):
        raise Failed("the node file is being applied", ExitCode.DEGRADED)
    if not status.healthy:
        raise Failed("not every role is running", ExitCode.DEGRADED)
    if status.unwatched:
        raise Failed(
            f"{status.unwatched}; the node file is looked at every few seconds", ExitCode.DEGRADED
        )


@role.command("set")
@click.argument("roles")
@click.option("--wait/--no-wait", default=True, help="Wait until every role is up (default).")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait.")
@node_files
def set_(files: NodeFiles, roles: str, *, wait: bool, timeout: float) -> None:
    """Make this node play ROLES (separated by commas, "" for none) and nothing else.

    Writes the node file, all other settings kept, and brings the node there. Doing it again
    changes nothing.

    Example: kowabunga role set kahuna,kaktus
    """
    chosen = _parse_roles(roles)
    converge.check_program(files, this_program())
    changed = set_roles(files, chosen)
    if changed:
        _say(f"{files.config}: roles are {', '.join(chosen) or 'none'}")
    asyncio.run(_converge(files, changed=changed, timeout_s=timeout if wait else None))


@role.command("stop")
@click.option("--timeout", default=40.0, show_default=True, help="Seconds to wait.")
@node_files
def stop(files: NodeFiles, timeout: float) -> None:
    """Stop every role of this node; the node file stays as it is.

    Example: kowabunga role stop
    """
    stopped = asyncio.run(converge.stop(files, timeout_s=timeout, clock=_CLOCK))
    _say("stopped" if stopped else "nothing to do: nothing runs")


@role.command("run", hidden=True)
@click.argument("role")
def run(role: str) -> None:
    """Play the role that the supervisor assigns on standard input.

    ROLE only shows in the process list.
    """
    del role
    serve_assignment()


async def _converge(files: NodeFiles, *, changed: bool, timeout_s: float | None) -> None:
    before = read_status(files)
    started = await converge.ensure_supervisor(files, this_program(), clock=_CLOCK)
    if started:
        _say("started the node's supervisor")
    if timeout_s is None:
        return
    busy = changed or started or before is None or not before.settled
    status = await converge.until_settled(
        files, timeout_s=timeout_s, clock=_CLOCK, say=_say if busy else lambda _: None
    )
    if status.error is not None:
        raise Invalid(status.error.detail, hint=status.error.hint)
    if not busy:
        _say("nothing to do")
    if not status.healthy:
        raise Failed("not every role is running as it should", ExitCode.DEGRADED)


def _wanted(files: NodeFiles, content: bytes | None) -> tuple[Role, ...]:
    try:
        return files.parse(content).roles if content is not None else ()
    except Invalid:
        return ()  # the supervisor tells what is wrong, and shows what is in force


def _row(one: Role, now: RoleStatus | None) -> dict[str, Any]:
    return {
        "role": str(one),
        "state": str(now.state) if now else "not running",
        "since_ms": now.since_ms if now else None,
        "detail": now.detail if now else "",
        "pid": now.pid if now else None,
        "failures": now.failures if now else 0,
    }


def _parse_roles(text: str) -> list[Role]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {str(one) for one in Role}
    for index, name in enumerate(names):
        if name not in known:
            raise Invalid(f"there is no role {name!r}", hint=f"one of: {', '.join(sorted(known))}")
        if name in names[:index]:
            raise Invalid(f"{name} is given twice")
    return [Role(name) for name in names]


def _say(line: str) -> None:
    click.echo(line, err=True)
