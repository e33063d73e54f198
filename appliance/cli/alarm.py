"""`kowabunga alarm`: what the owner of the cluster should look at."""

import click

from appliance.cli.client import ApiClient
from appliance.cli.options import output, remote
from appliance.cli.output import Format, field, moment, show_list

_COLUMNS = (
    field("KIND", "kind"),
    field("TARGET", "target"),
    field("COUNT", "count"),
    moment("LAST", "last_at_ms"),
    field("DETAIL", "detail"),
    moment("FIRST", "first_at_ms", wide=True),
)


@click.group()
def alarm() -> None:
    """What the cluster wants its owner to look at."""


@alarm.command("list", epilog="Example: kowabunga alarm list")
@output
@remote
def list_alarms(client: ApiClient, form: Format) -> None:
    """List the standing alarms, the latest first."""
    show_list(client.call("GET", "/alarms"), _COLUMNS, form, "kind")


@alarm.command(epilog="Example: kowabunga alarm clear agent_cloned agent/0198f2c41a3be0d5c4a1b2c3")
@click.argument("kind")
@click.argument("target")
@remote
def clear(client: ApiClient, kind: str, target: str) -> None:
    """Take an alarm away; it comes back if its cause is still there."""
    client.call("DELETE", "/alarms", query={"kind": kind, "target": target})
