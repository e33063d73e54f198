"""`user key`, `user password`: what a user proves themselves with, never in an argument."""

from pathlib import Path

import click

from appliance.cli.client import ApiClient, segment
from appliance.cli.lookup import Lookup
from appliance.cli.names import names_of
from appliance.cli.nouns import NOUNS
from appliance.cli.options import FILE, passphrase_file, remote
from appliance.cli.resource import noun_group
from appliance.cli.secret_files import passphrase, require_absent, write_new

user = noun_group(NOUNS["user"])


@user.command(epilog="Example: kowabunga user key robot --output /root/robot.key")
@click.argument("text", metavar="USER", shell_complete=names_of("user"))
@click.option("--output", "file", type=FILE, help="New file (0600) for the key.")
@click.option("--revoke", is_flag=True, help="End the key, and make none.")
@remote
def key(client: ApiClient, text: str, *, file: Path | None, revoke: bool) -> None:
    """Make a new API key for a user; the one before it ends at once."""
    if revoke == (file is not None):
        raise click.UsageError("say either --output FILE or --revoke")
    path = f"/users/{segment(Lookup(client).resolve(NOUNS['user'], text))}/key"
    if file is None:
        client.call("DELETE", path)
        click.echo(f"The key of {text} has ended.", err=True)
        return
    require_absent(file)
    write_new(file, client.call("POST", path)["key"].encode() + b"\n")
    click.echo(f"The new key of {text} is in {file}.", err=True)


@user.command(epilog="Example: kowabunga user password john")
@click.argument("text", metavar="USER", shell_complete=names_of("user"))
@passphrase_file
@remote
def password(client: ApiClient, text: str, *, passphrase_file: Path | None) -> None:
    """Set the password that a user logs in with; all their log-ins end."""
    user_id = Lookup(client).resolve(NOUNS["user"], text)
    body = {"value": passphrase(passphrase_file, confirm=True)}
    client.call("PUT", f"/api/v1/user/{segment(user_id)}/password", body=body)
    click.echo(f"{text} logs in with the new password from now on.", err=True)
