"""`kowabunga agent`: agents, their credentials, their logs."""

import json
import sys
from pathlib import Path

import click

from appliance.cli.client import ApiClient, segment
from appliance.cli.kit import Show, show_item, shown
from appliance.cli.lookup import Lookup
from appliance.cli.names import names_of
from appliance.cli.nouns import NOUNS
from appliance.cli.options import FILE, choice, output, remote
from appliance.cli.output import Column, Format, field, moment, show_list, show_one
from appliance.cli.resource import noun_group
from appliance.cli.secret_files import require_absent, write_new
from appliance.core.errors import Invalid, NotFound
from appliance.core.text import escape_controls
from appliance.model.agent import AgentType

_COLUMNS = (
    field("ID", "id", whole=True),
    field("NAME", "name"),
    field("TYPE", "type"),
    field("CREDENTIAL", "credential"),
    Column("CONNECTED", lambda item: bool(item["sessions"])),
    Column("ADDRESS", lambda item: [session["address"] for session in item["sessions"]], wide=True),
    Column("VERSION", lambda item: [session["version"] for session in item["sessions"]], wide=True),
    field("KEY WAITS", "key_waits", wide=True),
    moment("EXPIRES", "expires_at_ms", wide=True),
    moment("CREATED", "created_at_ms", wide=True),
    field("DESCRIPTION", "description", wide=True),
)


_NOUN = NOUNS["agent"]

agent = noun_group(_NOUN)  # `list` and `show` are replaced: sessions are more than the contract has


def _path(client: ApiClient, text: str) -> str:
    """Return the path of the agent that has this id or name."""
    return f"/agents/{segment(Lookup(client).resolve(_NOUN, text))}"


@agent.command("list", epilog="Example: kowabunga agent list -o wide")
@shown
@remote
def list_agents(client: ApiClient, /, show: Show) -> None:
    """List agents, and whether they are connected to this Kahuna."""
    form = Format.NAME if show.quiet else show.form
    show_list(client.call("GET", "/agents"), _COLUMNS, form, "id")


@agent.command("show", epilog="Example: kowabunga agent show kaktus-1")
@click.argument("text", metavar="AGENT", shell_complete=names_of("agent"))
@shown
@remote
def show_agent(client: ApiClient, /, text: str, show: Show) -> None:
    """Show one agent."""
    show_item(client.call("GET", _path(client, text)), _COLUMNS, show, "id")


@agent.command(
    epilog="Example: kowabunga agent enrol kaktus-1 --type Kaktus --public-key-file node.pub"
)
@click.argument("name")
@click.option("--type", "kind", type=choice(AgentType), required=True)
@click.option("--description", default="")
@click.option(
    "--public-key-file", type=FILE, help="The node's Ed25519 key (raw, base64); born there."
)
@output
@remote
def enrol(
    client: ApiClient,
    name: str,
    *,
    kind: str,
    description: str,
    public_key_file: Path | None,
    form: Format,
) -> None:
    """Make an agent known: with the node's own public key, or with a key that we issue.

    Without --public-key-file a key is issued; fetch it with `agent credential`.
    """
    body = {"name": name, "type": kind, "description": description}
    if public_key_file is not None:
        try:
            body["public_key"] = public_key_file.read_text(encoding="ascii").strip()
        except FileNotFoundError as missing:
            raise NotFound(f"there is no file {public_key_file}") from missing
        except UnicodeDecodeError as odd:
            raise Invalid(f"{public_key_file} does not hold a key in base64") from odd
    made = client.call("POST", "/agents", body=body)
    if public_key_file is None:
        made = client.call("POST", f"/agents/{segment(made['id'])}/key")
    show_one(made, _COLUMNS, form, "id")


@agent.command(epilog="Example: kowabunga agent credential kaktus-1 --output k.json")
@click.argument("text", metavar="AGENT", shell_complete=names_of("agent"))
@click.option("--output", "file", type=FILE, required=True, help="New file (0600) for the key.")
@click.option("--new", is_flag=True, help="Issue a new key first, which ends the old one.")
@remote
def credential(client: ApiClient, text: str, file: Path, new: bool) -> None:  # noqa: FBT001
    """Fetch the key of an agent, once, into a file for its node."""
    require_absent(file)
    path = _path(client, text)
    if new:
        client.call("POST", f"{path}/key")
    answer = client.call("POST", f"{path}/credential")
    write_new(file, json.dumps(answer, indent=2).encode() + b"\n")
    click.echo(f"The credential of agent {text} is in {file}.", err=True)


@agent.command(epilog="Example: kowabunga agent revoke kaktus-1")
@click.argument("text", metavar="AGENT", shell_complete=names_of("agent"))
@remote
def revoke(client: ApiClient, text: str) -> None:
    """End an agent's credential and its sessions; it comes back only with a new one."""
    client.call("POST", f"{_path(client, text)}/revoke")


@agent.command(epilog="Example: kowabunga agent log kaktus-1 --follow")
@click.argument("text", metavar="AGENT", shell_complete=names_of("agent"))
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines.")
@remote
def log(client: ApiClient, text: str, follow: bool) -> None:  # noqa: FBT001
    """Print what an agent has logged lately."""
    query = {"follow": "true" if follow else "false"}
    for line in client.lines(f"{_path(client, text)}/log", query):
        click.echo(escape_controls(line.decode("utf-8", "replace"), keep="\t"))
        sys.stdout.flush()
