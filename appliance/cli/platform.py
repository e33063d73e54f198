"""`zone cpu`, `template platform`: what machines are, where the contract does not say."""

import click

from appliance.cli.client import ApiClient, segment
from appliance.cli.exit_code import ExitCode
from appliance.cli.lookup import Lookup
from appliance.cli.names import names_of
from appliance.cli.nouns import NOUNS
from appliance.cli.options import choice, output, remote
from appliance.cli.output import Format, Item, field, show_one
from appliance.cli.resource import noun_group
from appliance.core.text import escape_controls
from appliance.model.compute import Firmware, Tpm

_HOST = "host"

zone = noun_group(NOUNS["zone"])
template = noun_group(NOUNS["template"])


@zone.command(epilog="Example: kowabunga zone cpu eu-west-a x86-64-v2")
@click.argument("text", metavar="ZONE", shell_complete=names_of("zone"))
@click.argument("model", metavar="[MODEL]", required=False)
@click.option("--plan", is_flag=True, help="Print what would change, and change nothing.")
@output
@remote
def cpu(client: ApiClient, text: str, model: str | None, *, plan: bool, form: Format) -> ExitCode:
    """Show or choose the processor that the machines of a zone see; "host": each host's own.

    Machines that run have it when they are stopped and started again.
    """
    zone_id = Lookup(client).resolve(NOUNS["zone"], text)
    path = f"/zones/{segment(zone_id)}/cpu"
    answer: Item = client.call("GET", path)
    wanted = {} if model is None else {"model": None if model == _HOST else model}
    if plan and _differs(answer, wanted):
        return _plan("zone", text, answer, wanted)
    if _differs(answer, wanted):
        answer = client.call("PUT", path, body=wanted)
    if form not in (Format.JSON, Format.YAML):
        answer |= {"model": answer["model"] or _HOST}
    show_one(answer, (field("MODEL", "model"), field("POSSIBLE", "possible")), form, "model")
    return ExitCode.DONE


@template.command(epilog="Example: kowabunga template platform windows-2019 --firmware bios")
@click.argument("text", metavar="TEMPLATE", shell_complete=names_of("template"))
@click.option("--firmware", type=choice(Firmware), help="What its machines boot by.")
@click.option("--tpm", type=choice(Tpm), help="Whether they have a TPM 2.0.")
@click.option("--plan", is_flag=True, help="Print what would change, and change nothing.")
@output
@remote
def platform(
    client: ApiClient,
    text: str,
    *,
    firmware: str | None,
    tpm: str | None,
    plan: bool,
    form: Format,
) -> ExitCode:
    """Show or decide what machines from a template are, while it has none."""
    template_id = Lookup(client).resolve(NOUNS["template"], text)
    path = f"/templates/{segment(template_id)}/platform"
    answer: Item = client.call("GET", path)
    given = {"firmware": firmware, "tpm": tpm}
    wanted = {name: value for name, value in given.items() if value is not None}
    if plan and _differs(answer, wanted):
        return _plan("template", text, answer, wanted)
    if _differs(answer, wanted):
        answer = client.call("PUT", path, body=answer | wanted)
    show_one(answer, (field("FIRMWARE", "firmware"), field("TPM", "tpm")), form, "firmware")
    return ExitCode.DONE


def _differs(answer: Item, wanted: Item) -> bool:
    return any(answer[name] != value for name, value in wanted.items())


def _plan(noun: str, text: str, answer: Item, wanted: Item) -> ExitCode:
    click.echo(f"{noun} {escape_controls(text)}")
    for name, value in wanted.items():
        if answer[name] != value:
            new = escape_controls(str(value or _HOST))
            click.echo(f"  ~ {name}: {answer[name] or _HOST} -> {new}")
    return ExitCode.PLAN_HAS_CHANGES
