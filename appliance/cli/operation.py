"""`kowabunga operation`: durable work under way, and an operator's say in it."""

import json

import click
import msgspec

from appliance.cli.client import ApiClient, segment
from appliance.cli.exit_code import ExitCode, of_error
from appliance.cli.failure import Failed
from appliance.cli.options import output, remote, wait
from appliance.cli.output import Column, Format, Item, field, moment, show_list, show_one
from appliance.core.text import escape_controls
from appliance.operations.operation import Operation, State


def _problem(item: Item) -> object:
    problem: Item | None = item.get("problem")
    return problem["detail"] if problem else None


_COLUMNS = (
    field("ID", "id", whole=True),
    field("KIND", "kind"),
    field("STATE", "state"),
    field("TARGETS", "targets"),
    Column("PROBLEM", _problem),
    moment("STARTED", "created_at_ms", wide=True),
    moment("FINISHED", "finished_at_ms", wide=True),
    field("BY", "principal", wide=True),
    field("STEPS DONE", "steps", wide=True),
    field("FAILURES", "attempts", wide=True),
    field("NEEDS AGENT", "needs_agent", wide=True),
)


@click.group()
def operation() -> None:
    """Durable work: every change of several steps is an operation."""


@operation.command("list", epilog="Example: kowabunga operation list --unfinished")
@click.option("--unfinished", is_flag=True, help="Only those under way.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@output
@remote
def list_operations(client: ApiClient, form: Format, limit: int, unfinished: bool) -> None:  # noqa: FBT001
    """List operations, the newest first."""
    query = {"limit": limit, "unfinished": "true" if unfinished else "false"}
    show_list(client.call("GET", "/operations", query=query), _COLUMNS, form, "id")


@operation.command(epilog="Example: kowabunga operation show 0198f2c41a3be0d5c4a1b2c3 -o yaml")
@click.argument("operation_id", metavar="ID")
@output
@remote
def show(client: ApiClient, operation_id: str, form: Format) -> None:
    """Show one operation."""
    show_one(client.call("GET", f"/operations/{segment(operation_id)}"), _COLUMNS, form, "id")


@operation.command(epilog="Example: kowabunga operation watch 0198f2c41a3be0d5c4a1b2c3")
@click.argument("operation_id", metavar="ID")
@output
@remote
def watch(client: ApiClient, operation_id: str, form: Format) -> None:
    """Follow an operation to its end; the exit code tells how it ended."""
    follow(client, operation_id, form)


@operation.command(epilog="Example: kowabunga operation retry 0198f2c41a3be0d5c4a1b2c3 --wait")
@click.argument("operation_id", metavar="ID")
@wait
@output
@remote
def retry(client: ApiClient, operation_id: str, form: Format, wait: bool) -> None:  # noqa: FBT001
    """Try again now: an operation that waits, or a new one in place of one that failed."""
    answer = client.call("POST", f"/operations/{segment(operation_id)}/retry")
    if wait:
        follow(client, answer["operation"], form)
    else:
        show_one(answer, (field("OPERATION", "operation"),), form, "operation")


@operation.command(epilog="Example: kowabunga operation abandon 0198f2c41a3be0d5c4a1b2c3 --yes")
@click.argument("operation_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output
@remote
def abandon(client: ApiClient, operation_id: str, form: Format, yes: bool) -> None:  # noqa: FBT001
    """Let go of an unfinished operation; what it has made so far stays and is listed."""
    if not yes:
        click.confirm(f"Leave whatever operation {operation_id} has made?", abort=True, err=True)
    left = client.call("POST", f"/operations/{segment(operation_id)}/abandon")
    if form in (Format.TABLE, Format.WIDE):
        click.echo(escape_controls(f"warning: {left['warning']}"), err=True)
        show_list(left["left"], (field("STEP", "name"), field("OUTPUT", "output")), form, "name")
    else:
        show_one(left, (), form, "warning")


def follow(client: ApiClient, operation_id: str, form: Format) -> None:
    """Print each state of an operation until its end.

    Raises:
        Failed: it did not end well.
    """
    last: Operation | None = None
    for line in client.lines(f"/operations/{segment(operation_id)}/watch"):
        last = msgspec.json.decode(line, type=Operation)
        if form in (Format.TABLE, Format.WIDE):
            click.echo(escape_controls(_progress(last)))
        elif form is Format.JSON:
            click.echo(json.dumps(msgspec.json.decode(line)))
    if last is None or not last.finished:
        raise Failed(f"lost sight of operation {operation_id}; it goes on", ExitCode.TIMED_OUT)
    if form in (Format.YAML, Format.NAME):
        show_one(msgspec.to_builtins(last), _COLUMNS, form, "id")
    if last.state is not State.DONE:
        code = of_error(last.problem.code) if last.problem else ExitCode.CONFLICT
        reason = last.problem.detail if last.problem else "no reason given"
        raise Failed(f"operation {operation_id} ended as {last.state}: {reason}", code)


def _progress(operation: Operation) -> str:
    line = f"{operation.id}  {operation.state:<12}  done: {', '.join(operation.steps) or '-'}"
    return f"{line}  problem: {operation.problem.detail}" if operation.problem else line
