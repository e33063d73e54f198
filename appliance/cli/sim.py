"""`kowabunga sim`: trouble for the nodes of a simulated cloud."""

from collections.abc import Mapping
from typing import Any

import click

from appliance.cli.client import ApiClient, segment
from appliance.cli.options import choice, output, remote
from appliance.cli.output import Column, Format, field, show_list, show_one
from appliance.model.fault import FaultError

_COLUMNS = (
    Column("NODE", lambda item: item["node_name"] or item["agent_name"]),
    field("TYPE", "type"),
    field("AGENT", "agent_id"),
    field("CUT", "cut"),
    Column("SLOW", lambda item: f"{item['slowness']:g}x"),
    Column("FAILS", lambda item: [_told(failure) for failure in item["failures"]]),
    field("NODE ID", "node_id", wide=True),
    field("AGENT NAME", "agent_name", wide=True),
)


def _told(failure: dict[str, Any]) -> str:  # Any: an object of the API
    method = failure["method"] or "any"
    left = "always" if failure["left"] is None else f"{failure['left']}x"
    when = " after" if failure["after_effect"] else ""
    return f"{method} {left}{when}"


@click.group()
def sim() -> None:
    """Trouble for simulated nodes; only under `kowabunga serve --simulate`.

    NODE is the id or the name of a Kaktus, of a Kiwi, or of its agent. Faults end with the
    process, or by `sim mend`.
    """


@sim.command("list", epilog="Example: kowabunga sim list")
@output
@remote
def list_nodes(client: ApiClient, form: Format) -> None:
    """List the simulated nodes and what troubles them."""
    show_list(client.call("GET", "/sim/nodes"), _COLUMNS, form, "agent_id")


@sim.command(epilog="Example: kowabunga sim fail kaktus-1 --method compute.ensure_domain --times 2")
@click.argument("node")
@click.option("--method", help="Only calls of this method of the agent protocol.")
@click.option("--times", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--always", is_flag=True, help="All calls until `sim mend`, instead of --times.")
@click.option(
    "--after-effect", is_flag=True, help="Do the work, then fail: the caller cannot know."
)
@click.option(
    "--error",
    type=choice(FaultError),
    default=str(FaultError.DRIVER_FAILED),
    show_default=True,
    help="What is told.",
)
@output
@remote
def fail(
    client: ApiClient,
    node: str,
    *,
    method: str | None,
    times: int,
    always: bool,
    after_effect: bool,
    error: str,
    form: Format,
) -> None:
    """Let the next calls to a node fail."""
    body = {
        "method": method,
        "times": None if always else times,
        "after_effect": after_effect,
        "error": error,
    }
    _trouble(client, node, "fail", body, form)


@sim.command(epilog="Example: kowabunga sim slow kaktus-1 100")
@click.argument("node")
@click.argument("factor", type=float)
@output
@remote
def slow(client: ApiClient, node: str, factor: float, form: Format) -> None:
    """Let everything on a node take FACTOR times as long."""
    _trouble(client, node, "slow", {"factor": factor}, form)


@sim.command(epilog="Example: kowabunga sim cut kaktus-1")
@click.argument("node")
@output
@remote
def cut(client: ApiClient, node: str, form: Format) -> None:
    """Cut a node off the network; what runs on it goes on."""
    _trouble(client, node, "cut", None, form)


@sim.command(epilog="Example: kowabunga sim mend kaktus-1")
@click.argument("node")
@output
@remote
def mend(client: ApiClient, node: str, form: Format) -> None:
    """End every fault of a node."""
    _trouble(client, node, "mend", None, form)


def _trouble(
    client: ApiClient, node: str, what: str, body: Mapping[str, object] | None, form: Format
) -> None:
    answer = client.call("POST", f"/sim/nodes/{segment(node)}/{what}", body=body)
    show_one(answer, _COLUMNS, form, "agent_id")
