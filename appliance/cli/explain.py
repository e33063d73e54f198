"""`kowabunga explain`: what a kind is and what its fields mean, without a server."""

import click

from appliance.cli.noun import Noun
from appliance.cli.nouns import NOUNS
from appliance.cli.shape import Field, Kind, fields_of, load
from appliance.core.errors import NotFound


@click.command(epilog="Example: kowabunga explain kompute.disk")
@click.argument("what", metavar="NOUN[.FIELD]")
def explain(what: str) -> None:
    """Tell what a noun is and which fields it has, or what one field means."""
    name, _, path = what.partition(".")
    if name not in NOUNS:
        raise NotFound(f"there is no noun {name!r}", hint=f"there are: {', '.join(NOUNS)}")
    noun = NOUNS[name]
    struct = load(noun.struct)
    fields = fields_of(struct, noun.sizes)
    if path:
        fields = tuple(field for field in fields if f"{field.name}.".startswith(f"{path}."))
        if not fields:
            raise NotFound(f"{name} has no field {path!r}", hint=f"see: kowabunga explain {name}")
    else:
        click.echo(f"{name}: {struct.__doc__}")
        if noun.below:
            click.echo(f"Made below: {', '.join(noun.below)}.")
    for field in fields:
        click.echo(f"\n{field.name}  {_kind(field)}\n  {field.about}.\n  {_use(noun, field)}")


def _kind(field: Field) -> str:
    kind = "|".join(field.choices) if field.kind is Kind.CHOICE else str(field.kind)
    if field.pair:
        kind = field.between.join(field.pair).upper()
    return f"list of {kind}" if field.many else kind


def _use(noun: Noun, field: Field) -> str:
    if field.read_only:
        return "Made by the server."
    if field.name == "name":
        return "The argument of create, --name of set."
    option = f"--{field.words}-file" if field.name in noun.secrets else f"--{field.words}"
    if field.default_text:
        return f"{option}, else {field.default_text}"
    return f"{option}, needed" if field.needed and not field.many else option
