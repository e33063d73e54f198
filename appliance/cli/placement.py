"""`kompute explain`, `project spread`, `kaktus schedulable`: what does not derive from nouns."""

from collections.abc import Callable
from typing import Any

import click

from appliance.cli.arguments import SIZE, query_of, query_options
from appliance.cli.client import ApiClient, segment
from appliance.cli.exit_code import ExitCode
from appliance.cli.lookup import Lookup
from appliance.cli.names import names_of
from appliance.cli.nouns import NOUNS
from appliance.cli.options import choice, output, remote
from appliance.cli.output import Format, Item, field, show_data, show_list, show_one
from appliance.cli.resource import noun_group
from appliance.core.text import escape_controls
from appliance.resources.placement import Spread

_QUERIES = tuple(query for query in NOUNS["kompute"].queries if query.noun)
_VERDICTS = (
    field("ID", "host_id", whole=True),
    field("HOST", "host_name"),
    field("VERDICT", "reason"),
)

kompute = noun_group(NOUNS["kompute"])
project = noun_group(NOUNS["project"])
kaktus = noun_group(NOUNS["kaktus"])


def _sources(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what the disk is made from."""
    for option in reversed(query_options(_QUERIES)):
        command = option(command)
    return command


@kompute.command(
    epilog="Example: kowabunga kompute explain --project shop --zone eu-west-a --vcpus 2"
    " --memory 4GiB"
)
@click.option("--project", metavar="PROJECT", required=True, help="Whose machine.")
@click.option("--zone", metavar="ZONE", required=True, help="Where it is made.")
@click.option("--vcpus", type=int, required=True, help="Number of vCPUs.")
@click.option("--memory", type=SIZE, required=True, help="Memory.")
@_sources
@output
@remote
def explain(client: ApiClient, /, form: Format, **given: Any) -> ExitCode:  # noqa: ANN401
    """Tell where a machine would go, and why not to the other hosts; exit 7 if nowhere."""
    lookup = Lookup(client)
    project_id = lookup.resolve(NOUNS["project"], given["project"])
    zone_id = lookup.resolve(NOUNS["zone"], given["zone"])
    size = {"vcpus": given["vcpus"], "memory": given["memory"]}
    answer: Item = client.call(
        "GET",
        f"/projects/{segment(project_id)}/zones/{segment(zone_id)}/placement",
        query={**size, **query_of(lookup, _QUERIES, given)},
    )
    if form in (Format.JSON, Format.YAML):
        show_data(answer, form)
    else:
        chosen = [answer | {"reason": "it would go here"}] if answer["host_id"] else []
        refused: list[Item] = [] if form is Format.NAME else answer["refused"]
        show_list([*chosen, *refused], _VERDICTS, form, "host_name")
    return ExitCode.DONE if answer["host_id"] else ExitCode.PRECONDITION


@project.command(epilog="Example: kowabunga project spread shop hard")
@click.argument("text", metavar="PROJECT", shell_complete=names_of("project"))
@click.argument("how", type=choice(Spread), required=False)
@click.option("--plan", is_flag=True, help="Print what would change, and change nothing.")
@output
@remote
def spread(client: ApiClient, text: str, how: str | None, *, plan: bool, form: Format) -> ExitCode:
    """Show or decide how the machines of a project keep apart: none, soft or hard.

    It holds for the machines that are made from now on.
    """
    project_id = Lookup(client).resolve(NOUNS["project"], text)
    path = f"/projects/{segment(project_id)}/placement"
    answer: Item = client.call("GET", path)
    changes = how is not None and how != answer["spread"]
    if plan and changes:
        click.echo(
            f"spread project {escape_controls(text)}\n"
            f"  ~ spread: {escape_controls(str(answer['spread']))} -> {how}"
        )
        return ExitCode.PLAN_HAS_CHANGES
    if changes:
        answer = client.call("PUT", path, body={"spread": how})
    show_one(answer, (field("SPREAD", "spread"),), form, "spread")
    return ExitCode.DONE


@kaktus.command(epilog="Example: kowabunga kaktus schedulable kaktus-1 no")
@click.argument("text", metavar="KAKTUS", shell_complete=names_of("kaktus"))
@click.argument("wanted", metavar="[yes|no]", type=click.BOOL, required=False)
@click.option("--plan", is_flag=True, help="Print what would change, and change nothing.")
@output
@remote
def schedulable(
    client: ApiClient, text: str, *, wanted: bool | None, plan: bool, form: Format
) -> ExitCode:
    """Show or decide whether a Kaktus takes new machines; those that it has stay."""
    kaktus_id = Lookup(client).resolve(NOUNS["kaktus"], text)
    path = f"/kaktuses/{segment(kaktus_id)}/placement"
    answer: Item = client.call("GET", path)
    changes = wanted is not None and wanted != answer["schedulable"]
    if plan and changes:
        click.echo(
            f"kaktus {escape_controls(text)}\n"
            f"  ~ schedulable: {_yes_no(answer['schedulable'])} -> {_yes_no(wanted)}"
        )
        return ExitCode.PLAN_HAS_CHANGES
    if changes:
        answer = client.call("PUT", path, body={"schedulable": wanted})
    show_one(answer, (field("SCHEDULABLE", "schedulable"),), form, "schedulable")
    return ExitCode.DONE


def _yes_no(flag: object) -> str:
    return "yes" if flag else "no"
