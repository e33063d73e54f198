"""`kowabunga settings`: what concerns the whole cluster."""

from pathlib import Path

import click

from appliance.cli.client import ApiClient, Json, segment
from appliance.cli.options import FILE, output, remote
from appliance.cli.output import Format, field, moment, show_list, show_one
from appliance.core.errors import Invalid
from appliance.core.files import read_private

_COLUMNS = (
    field("NAME", "name"),
    field("VALUE", "value"),
    field("SET", "is_set"),
    field("ABOUT", "about"),
    field("RULE", "rule", wide=True),
    field("DEFAULT", "default", wide=True),
    moment("CHANGED", "updated_at_ms", wide=True),
    field("BY", "updated_by", wide=True),
)


@click.group()
def settings() -> None:
    """Settings of the whole cluster; what concerns one node is in its node file."""


@settings.command("list", epilog="Example: kowabunga settings list -o wide")
@output
@remote
def list_settings(client: ApiClient, form: Format) -> None:
    """List all settings, set or not."""
    show_list(client.call("GET", "/settings"), _COLUMNS, form, "name")


@settings.command(epilog="Example: kowabunga settings get smtp.host")
@click.argument("name")
@output
@remote
def get(client: ApiClient, name: str, form: Format) -> None:
    """Show one setting."""
    show_one(client.call("GET", f"/settings/{segment(name)}"), _COLUMNS, form, "name")


@settings.command("set", epilog="Example: kowabunga settings set smtp.host smtp.example.org")
@click.argument("name")
@click.argument("value", required=False)
@click.option("--from-file", type=FILE, help="File that holds the value.")
@output
@remote
def set_setting(
    client: ApiClient, name: str, value: str | None, from_file: Path | None, form: Format
) -> None:
    """Set a setting. A secret one comes from a file (0600), or is asked for: never as VALUE."""
    path = f"/settings/{segment(name)}"
    secret: bool = client.call("GET", path)["secret"]
    body = {"value": _value(name, value, from_file, secret=secret)}
    show_one(client.call("PUT", path, body=body), _COLUMNS, form, "name")


@settings.command(epilog="Example: kowabunga settings unset smtp.host")
@click.argument("name")
@output
@remote
def unset(client: ApiClient, name: str, form: Format) -> None:
    """Return a setting to its default."""
    show_one(client.call("DELETE", f"/settings/{segment(name)}"), _COLUMNS, form, "name")


def _value(name: str, value: str | None, from_file: Path | None, *, secret: bool) -> Json:
    if value is not None and from_file is not None:
        raise Invalid("give VALUE or --from-file, not both", field="value")
    if not secret:
        if from_file is not None:
            return from_file.read_text(encoding="utf-8")
        if value is None:
            raise Invalid(f"{name} needs a value", field="value")
        return value
    if value is not None:
        raise Invalid(
            f"{name} is secret: other users of this machine can read a command line",
            hint="leave the value out to be asked for it, or use --from-file",
            field="value",
        )
    if from_file is not None:
        return read_private(from_file).decode("utf-8").rstrip("\n")
    return click.prompt(name, hide_input=True, confirmation_prompt=True, err=True)
