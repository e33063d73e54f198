"""What all commands of resources have in common: options, paths, and how answers are shown."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from appliance.cli.arguments import Decorator, Given
from appliance.cli.client import V1, Answer, segment
from appliance.cli.lookup import Lookup
from appliance.cli.names import names_of
from appliance.cli.noun import Noun
from appliance.cli.options import output
from appliance.cli.output import Column, Format, Item, field, show_one
from appliance.cli.shape import Field, columns_of
from appliance.core.text import escape_controls

R = TypeVar("R")

_OPERATION: Final = (field("OPERATION", "operation"), field("STATE", "state"))


@dataclass(frozen=True, slots=True)
class Show:
    """How the user wants answers."""

    form: Format
    quiet: bool


@dataclass(frozen=True, slots=True)
class Manner:
    """How the user wants changes made."""

    plan: bool
    wait: bool

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.wait else {"prefer": "respond-async"}


@dataclass(frozen=True, slots=True)
class Kit:
    """A noun and what is known about its Struct."""

    noun: Noun
    fields: tuple[Field, ...]

    @property
    def columns(self) -> list[Column]:
        return columns_of(self.fields, self.noun.columns, self.noun.secrets)

    def show(self, item: Item, show: Show) -> None:
        show_item(item, self.columns, show, "name")

    def label(self, item: Item) -> str:
        return escape_controls(f"{self.noun.name} {item['name']} ({item['id']})")

    def command(
        self,
        verb: str,
        about: str,
        example: str,
        callback: Callable[..., Any],
        options: Sequence[Decorator],
    ) -> click.Command:
        for option in reversed(options):
            callback = option(callback)
        text = f"Example: kowabunga {self.noun.name} {verb} {example}".rstrip()
        return click.command(verb, help=about, epilog=text, short_help=about)(callback)


def told(kit: Kit, answer: Answer, show: Show) -> None:
    if not told_operation(answer, show):
        kit.show(answer.body, show)


def told_operation(answer: Answer, show: Show) -> bool:
    """Print the operation if the server answered with one because the work goes on."""
    if answer.status != 202:
        return False
    if show.quiet:
        click.echo(escape_controls(answer.body["operation"]))
    else:
        show_one(answer.body, _OPERATION, show.form, "operation")
    return True


def show_item(item: Item, columns: Sequence[Column], show: Show, name: str) -> None:
    if show.quiet:
        click.echo(escape_controls(str(item["id"])))
    else:
        show_one(item, columns, show.form, name)


def path_below(lookup: Lookup, nouns: Sequence[str], given: Given) -> str:
    """Return the path below the given parents, with a slash at its end."""
    path = V1
    for noun in nouns:
        (parent_id,) = lookup.resolve_all(noun, [given[f"parent_{noun}"]])
        path += f"/{noun}/{segment(parent_id)}"
    return path + "/"


def scope(noun: Noun) -> list[Decorator]:
    """Return the options that say which one of the same name is meant."""
    if not noun.scoped:
        return []
    return [
        parent_option(parent, required=False, about="Where it is, if others have its name.")
        for parent in noun.below
    ]


def resolve(lookup: Lookup, noun: Noun, text: str, given: Given) -> str:
    scoped = noun.scoped and all(given[f"parent_{parent}"] for parent in noun.below)
    below = path_below(lookup, noun.below, given) + noun.plural_name if scoped else ""
    return lookup.resolve(noun, text, below=below)


def named(noun: Noun) -> Decorator:
    return click.argument("text", metavar=noun.name.upper(), shell_complete=names_of(noun.name))


def parent_option(noun: str, *, required: bool, about: str) -> Decorator:
    return click.option(
        f"--{noun}",
        f"parent_{noun}",
        metavar=noun.upper(),
        required=required,
        help=about,
        shell_complete=names_of(noun),
    )


def shown(command: Callable[..., R]) -> Callable[..., R]:
    """Add `-o` and `-q`; the command gets `show`."""

    @click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
    @functools.wraps(command)
    def with_show(*args: Any, form: Format, quiet: bool, **kwargs: Any) -> R:  # noqa: ANN401
        return command(*args, show=Show(form, quiet), **kwargs)

    return output(with_show)


def changing(command: Callable[..., R]) -> Callable[..., R]:
    """Add `--plan` and `--no-wait`; the command gets `manner`."""

    @click.option(
        "--wait/--no-wait",
        "wait",
        default=True,
        help="Wait until it is done (default), or print the operation that does it.",
    )
    @click.option("--plan", is_flag=True, help="Print what would change, and change nothing.")
    @functools.wraps(command)
    def with_manner(*args: Any, plan: bool, wait: bool, **kwargs: Any) -> R:  # noqa: ANN401
        return command(*args, manner=Manner(plan, wait), **kwargs)

    return with_manner
