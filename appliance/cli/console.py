"""`console` of komputes and instances: their serial line here, or the URL of their screen."""

import asyncio

import click

from appliance.cli.client import ApiClient, segment
from appliance.cli.exit_code import ExitCode
from appliance.cli.kit import Kit, named
from appliance.cli.lookup import Lookup
from appliance.cli.options import remote
from appliance.core.text import escape_controls


def console_command(kit: Kit) -> click.Command:
    noun = kit.noun

    @click.option("--vnc", is_flag=True, help="Print the URL of its screen, good once, instead.")
    @click.option(
        "--linger",
        default=2.0,
        show_default=True,
        metavar="SECONDS",
        help="At the end of an input that is no terminal, go on until nothing came for so long.",
    )
    @remote
    def call(client: ApiClient, text: str, *, vnc: bool, linger: float) -> ExitCode:
        lookup = Lookup(client)
        object_id = lookup.resolve(noun, text)
        path = f"/{noun.plural_name}/{segment(object_id)}/console"
        url: str = client.call("POST", path, query={"kind": "vnc" if vnc else "serial"})["url"]
        if vnc:
            click.echo(escape_controls(url))
            click.echo("It opens the screen once, within a minute.", err=True)
        else:
            from appliance.cli.terminal import sit  # noqa: PLC0415 - only this pays for it

            try:
                asyncio.run(sit(client.connection, url, f"{noun.name} {text}", linger))
            except asyncio.CancelledError as ended:
                raise click.Abort from ended
        return ExitCode.DONE

    about = "Sit before the serial line of the machine; leave with Ctrl-]."
    return kit.command("console", about, noun.example_name, call, [named(noun)])
