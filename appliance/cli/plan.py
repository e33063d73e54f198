"""What a command would change, told instead of done: `--plan`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from appliance.cli.exit_code import ExitCode
from appliance.cli.noun import Noun
from appliance.cli.output import Format, Item, show_data
from appliance.cli.shape import HIDDEN, Field
from appliance.core.text import escape_controls


@dataclass(frozen=True, slots=True)
class Change:
    field: Field
    before: Any  # JSON; None if there is none
    after: Any
    text: str  # as people read it


@dataclass(frozen=True, slots=True)
class Step:
    """One request that would be sent; `changes` are its fields, if it has a body."""

    verb: str
    noun: str
    name: str
    object_id: str | None = None
    changes: tuple[Change, ...] = ()


def compare(noun: Noun, fields: Sequence[Field], before: Item, after: Item) -> tuple[Change, ...]:
    """Return the fields in which `after` differs from `before`; {} is an object to be made."""
    return tuple(
        Change(field, old, new, _text(field, before, after, secret=field.name in noun.secrets))
        for field in fields
        for old, new in ((field.of(before), field.of(after)),)
        if new is not None and old != new
    )


def body_of(fields: Sequence[Field], wanted: Item, changes: Sequence[Change]) -> Item:
    """Return what a PUT sends: what changes, and what the API insists on.

    All else others may change meanwhile, and nobody here has a say in it.
    """
    sent = {change.field.path[0] for change in changes}
    sent |= {field.path[0] for field in fields if field.needed}
    return {key: value for key, value in wanted.items() if key in sent}


def show_plan(noun: Noun, steps: Sequence[Step], form: Format, *, quiet: bool = False) -> ExitCode:
    """Print the steps; the code tells whether there are any."""
    if quiet or form is Format.NAME:
        for step in steps:
            click.echo(escape_controls((step.object_id or "") if quiet else step.name))
    elif form in (Format.TABLE, Format.WIDE):
        for line in _lines(steps):
            click.echo(escape_controls(line))
    else:
        show_data([_item(noun, step) for step in steps], form)
    return ExitCode.PLAN_HAS_CHANGES if steps else ExitCode.DONE


def _lines(steps: Sequence[Step]) -> list[str]:
    if not steps:
        return ["Nothing would change."]
    lines: list[str] = []
    for step in steps:
        id_ = f" ({step.object_id})" if step.object_id else ""
        lines.append(f"{step.verb} {step.noun} {step.name}{id_}")
        lines += [change.text for change in step.changes]
    return lines


def _text(field: Field, before: Item, after: Item, *, secret: bool) -> str:
    new = HIDDEN if secret else _shown(field.show(after))
    if not before:
        return f"  + {field.name}: {new}"
    old = HIDDEN if secret else _shown(field.show(before))
    return f"  ~ {field.name}: {old} -> {new}"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, bool):
        return "yes" if value else "no"
    return '""' if value in ("", None) else str(value)


def _item(noun: Noun, step: Step) -> Item:
    def value(change: Change, json: Any) -> Any:  # noqa: ANN401 - JSON
        return HIDDEN if json and change.field.name in noun.secrets else json

    return {
        "verb": step.verb,
        "noun": step.noun,
        "name": step.name,
        "id": step.object_id,
        "changes": [
            {
                "field": change.field.name,
                "before": value(change, change.before),
                "after": value(change, change.after),
            }
            for change in step.changes
        ],
    }
