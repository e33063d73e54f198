"""How commands show things: tables for people, JSON, YAML or names for programs.

Data goes to standard output. Text from the server is made harmless before a terminal sees it.
"""

import json
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import click

from appliance.core.clock import rfc3339
from appliance.core.text import escape_controls

Item = dict[str, Any]  # an object of the API, unchanged

_NARROWEST: Final = 8
_GAP: Final = "  "


class Format(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    show: Callable[[Item], object]
    wide: bool = False  # only with -o wide
    whole: bool = False  # never cut: what one copies


def field(title: str, key: str, *, wide: bool = False, whole: bool = False) -> Column:
    return Column(title, lambda item: item.get(key), wide, whole)


def moment(title: str, key: str, *, wide: bool = False) -> Column:
    """A time in milliseconds, shown with its zone."""

    def show(item: Item) -> str:
        at_ms = item.get(key)
        return "" if at_ms is None else rfc3339(at_ms)

    return Column(title, show, wide)


def show_list(items: list[Item], columns: Sequence[Column], form: Format, name: str) -> None:
    """Print objects; `name` is the key that `-o name` prints."""
    if form is Format.NAME:
        for item in items:
            click.echo(_text(item.get(name)))
    elif form in (Format.TABLE, Format.WIDE):
        for line in _table(items, columns, wide=form is Format.WIDE):
            click.echo(line)
    else:
        show_data(items, form)


def show_one(item: Item, columns: Sequence[Column], form: Format, name: str) -> None:
    """Print one object: as a table, one line per property."""
    if form is Format.NAME:
        click.echo(_text(item.get(name)))
    elif form in (Format.TABLE, Format.WIDE):
        width = max(len(column.title) for column in columns)
        for column in columns:
            value = _text(column.show(item))
            if value:
                click.echo(f"{column.title:<{width}}{_GAP}{value}")
    else:
        show_data(item, form)


def show_data(data: Item | list[Item], form: Format) -> None:
    # Both writers escape everything beyond ASCII.
    if form is Format.JSON:
        click.echo(json.dumps(data, indent=2))
        return
    import yaml  # noqa: PLC0415 - 15 ms that only -o yaml pays

    click.echo(yaml.safe_dump(data, sort_keys=False), nl=False)


def _table(items: list[Item], columns: Sequence[Column], *, wide: bool) -> list[str]:
    shown = [column for column in columns if wide or not column.wide]
    rows = [[column.title for column in shown]]
    rows += [[_text(column.show(item)) or "-" for column in shown] for item in items]
    widths = [max(_cells(row[index]) for row in rows) for index in range(len(shown))]
    if not wide:
        whole = {index for index, column in enumerate(shown) if column.whole}
        _fit(widths, whole, shutil.get_terminal_size(fallback=(80, 24)).columns)
    return [
        _GAP.join(
            _pad(_cut(cell, width), width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _fit(widths: list[int], whole: set[int], room: int) -> None:
    """Take from the widest column that may be cut until the table fits."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - room
    while excess > 0:
        cuttable = [index for index in range(len(widths)) if index not in whole]
        widest = max(cuttable, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= _NARROWEST:
            return
        widths[widest] -= 1
        excess -= 1


def _cells(text: str) -> int:
    """Return how many cells of a terminal the text takes."""
    return len(text) if text.isascii() else sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(cell: str, width: int) -> str:
    if _cells(cell) <= width:
        return cell
    kept = cell
    while _cells(kept) > width - 2:
        kept = kept[:-1]
    return kept + ".."


def _pad(cell: str, width: int) -> str:
    return cell + " " * (width - _cells(cell))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(_text(member) for member in value)  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
    return escape_controls(str(value))
