"""Fields of a Struct as click options, and what was given as a body of the API."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from appliance.cli.lookup import Lookup
from appliance.cli.names import names_of
from appliance.cli.noun import Noun, Query
from appliance.cli.options import FILE, choice
from appliance.cli.output import Item
from appliance.cli.shape import Field, Kind
from appliance.cli.sizes import parse_size
from appliance.core.errors import Invalid, NotFound
from appliance.core.files import read_private

Given = Mapping[str, Any]  # what click found for the options, by their keys
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Size(click.ParamType[int]):
    name = "size"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's own
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as wrong:
            self.fail(str(wrong), param, ctx)


SIZE: Final = _Size()
_TYPES: Final[Mapping[Kind, click.ParamType[Any]]] = {
    Kind.INTEGER: click.INT,
    Kind.SIZE: SIZE,
    Kind.NUMBER: click.FLOAT,
}


def writable(fields: Sequence[Field]) -> list[Field]:
    return [field for field in fields if not field.read_only]


def field_options(noun: Noun, fields: Sequence[Field], *, making: bool) -> list[Decorator]:
    """Return the options for the fields; a new object has its name as an argument instead."""
    return [
        _option(noun, field, making=making)
        for field in fields
        if not (making and field.name == "name")
    ]


def query_options(queries: Sequence[Query]) -> list[Decorator]:
    return [
        click.option(
            f"--{query.option}",
            _query_key(query),
            is_flag=query.kind is bool,
            type=None if query.kind is bool else query.kind,
            help=query.about,
            metavar=query.noun.upper() or None,
            shell_complete=names_of(query.noun) if query.noun else None,
        )
        for query in queries
    ]


def query_of(lookup: Lookup, queries: Sequence[Query], given: Given) -> dict[str, str | int]:
    """Return the query of a request, with ids for names."""
    found: dict[str, str | int] = {}
    for query in queries:
        value = given[_query_key(query)]
        if value is None or value is False:
            continue
        if query.kind is bool:
            found[query.name] = "true"
        elif query.noun:
            (found[query.name],) = lookup.resolve_all(query.noun, [value])
        else:
            found[query.name] = value
    return found


def apply(lookup: Lookup, noun: Noun, fields: Sequence[Field], given: Given, item: Item) -> Item:
    """Return `item` with what was given for its fields; names in references become ids."""
    wanted = copy.deepcopy(item)
    for field in fields:
        value = given.get(_key(field))
        if value is None or value == ():
            continue
        if field.name in noun.secrets:
            value = _read_secret(value)
        elif field.many:
            texts: list[str] = [] if value == ("",) else list(value)
            value = (
                lookup.resolve_all(noun.references[field.name], texts)
                if field.name in noun.references
                else [_member(field, text) for text in texts]
            )
        _put(wanted, field.path, value)
    return wanted


def complete(fields: Sequence[Field], item: Item) -> Item:
    """Return an object to be made with what a POST must not lack beside the given.

    A list that nobody filled is empty; a Struct is whole or left out.
    """
    whole = copy.deepcopy(item)
    for field in fields:
        if field.needed and field.many:
            whole.setdefault(field.name, [])
        elif len(field.path) > 1 and field.path[0] in whole and field.of(whole) is None:
            _put(whole, field.path, field.default)
    return whole


def _option(noun: Noun, field: Field, *, making: bool) -> Decorator:
    required = making and field.needed and not field.many
    key, about = _key(field), _about(field, making=making)
    if field.name in noun.secrets:
        return click.option(
            f"--{field.words}-file", key, type=FILE, help=f"File (0600) with it. {about}"
        )
    if field.kind is Kind.FLAG:
        names = f"--{field.words}/--no-{field.words}"
        return click.option(names, key, default=None, required=required, help=about)
    kind = choice(field.choices) if field.kind is Kind.CHOICE else _TYPES.get(field.kind)
    reference = noun.references.get(field.name, "")
    return click.option(
        f"--{field.words}",
        key,
        type=kind or click.STRING,
        multiple=field.many,
        required=required,
        help=about,
        metavar=field.between.join(field.pair).upper() if field.pair else reference.upper() or None,
        shell_complete=names_of(reference) if reference else None,
    )


def _about(field: Field, *, making: bool) -> str:
    about = field.about
    if making and field.default_text:
        about += f" [default: {field.default_text}]"
    return f"{about} (repeatable)" if field.many else about


def _key(field: Field) -> str:
    return "field_" + "_".join(field.path)


def _query_key(query: Query) -> str:
    return f"query_{query.name.lower()}"


def _member(field: Field, text: str) -> object:
    """Return one member of a list."""
    if not field.pair:
        return text
    first, between, second = text.partition(field.between)
    if not between:
        raise Invalid(
            f"{text!r} is not of the form {field.between.join(field.pair).upper()}",
            field=field.name,
        )
    return dict(zip(field.pair, (first, second), strict=True))


def _put(item: Item, path: tuple[str, ...], value: object) -> None:
    *outer, last = path
    for name in outer:
        item = item.setdefault(name, {})
    item[last] = value


def _read_secret(file: Path) -> str:
    try:
        return read_private(file).decode().rstrip("\n")
    except FileNotFoundError as missing:
        raise NotFound(f"there is no file {file}") from missing
    except UnicodeDecodeError as odd:
        raise Invalid(f"{file} does not hold text") from odd
