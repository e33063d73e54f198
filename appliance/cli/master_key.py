"""`kowabunga master-key`: the bootstrap key with all rights."""

from pathlib import Path

import click

from appliance.cli.client import ApiClient
from appliance.cli.options import FILE, output, remote
from appliance.cli.output import Format, field, show_one
from appliance.cli.secret_files import require_absent, write_new


@click.group("master-key")
def master_key() -> None:
    """The bootstrap key with all rights. The local socket works without it."""


@master_key.command(epilog="Example: kowabunga master-key show")
@output
@remote
def show(client: ApiClient, form: Format) -> None:
    """Tell whether the master key is in force; nobody can show the key itself."""
    show_one(client.call("GET", "/master-key"), (field("STATE", "state"),), form, "state")


@master_key.command(epilog="Example: kowabunga master-key rotate --output /root/master.key")
@click.option("--output", "file", type=FILE, required=True, help="New file (0600) for the key.")
@remote
def rotate(client: ApiClient, file: Path) -> None:
    """Replace the master key; the old one ends at once."""
    require_absent(file)
    answer = client.call("POST", "/master-key/rotate")
    write_new(file, answer["key"].encode() + b"\n")
    click.echo(f"The new master key is in {file}; the old one has ended.", err=True)


@master_key.command(epilog="Example: kowabunga master-key disable --yes")
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def disable(client: ApiClient, yes: bool) -> None:  # noqa: FBT001
    """Refuse the master key from now on; `rotate` over the local socket brings one back."""
    if not yes:
        click.confirm("Refuse the master key from now on?", abort=True, err=True)
    client.call("POST", "/master-key/disable")
    click.echo("The master key is disabled.", err=True)
