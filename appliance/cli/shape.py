"""What the command line makes of an API Struct: its fields as options, values, columns and help.

Nothing here knows a command or a request.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final, cast

import msgspec
from msgspec import inspect

from appliance.cli.output import Column, Item
from appliance.cli.sizes import human_size

HIDDEN: Final = "***"

# Between the two texts of a Struct, where a list of those is written as texts.
_BETWEEN: Final[Mapping[tuple[str, ...], str]] = {("first", "last"): "-", ("key", "value"): "="}


class Kind(StrEnum):
    TEXT = "text"
    INTEGER = "integer"
    SIZE = "size"  # in bytes
    NUMBER = "number"
    FLAG = "flag"
    CHOICE = "choice"
    PAIR = "pair"  # two texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field of a Struct, or of a Struct in a field.

    Attributes:
        path: ("quotas", "vcpus").
        many: a list of such values.
        needed: a POST without it is refused.
        default: what it is if left out; None if that is nothing in particular.
        pair: for `Kind.PAIR`, the names of the two texts.
    """

    path: tuple[str, ...]
    about: str
    kind: Kind
    many: bool = False
    needed: bool = False
    read_only: bool = False
    default: object = None
    choices: tuple[str, ...] = ()
    pair: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def words(self) -> str:
        """The name of the option: "quota-vcpus", "cpu-price", "agent"."""
        *outer, last = self.path
        prefix = [_singular(part).removesuffix("cost").strip("_") for part in outer]
        name = "_".join([*filter(None, prefix), _singular(last) if self.many else last])
        return name.replace("_", "-")

    @property
    def between(self) -> str:
        return _BETWEEN[self.pair]

    def of(self, item: Item) -> Any:  # noqa: ANN401 - JSON
        """Return the field's value in an object of the API, or None."""
        value: Any = item
        for part in self.path:
            value = cast("Item", value).get(part) if isinstance(value, dict) else None
        return value

    @property
    def default_text(self) -> str:
        """What it is if left out, as people read it; empty if that is nothing."""
        if self.default in (None, "", []):
            return ""
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        return str(self._text(self.default))

    def show(self, item: Item) -> object:
        """Return the field's value as people read it."""
        value = self.of(item)
        return [self._text(each) for each in value] if self.many and value else self._text(value)

    def _text(self, value: Any) -> object:  # noqa: ANN401 - JSON
        if self.kind is Kind.SIZE and isinstance(value, int):
            return human_size(value)
        if self.kind is Kind.PAIR and isinstance(value, dict):
            pair = cast("dict[str, str]", value)
            return self.between.join(pair.get(name, "") for name in self.pair)
        return cast("object", value)


def load(where: str) -> type[msgspec.Struct]:
    """Return the Struct that "module:class" names."""
    module, _, name = where.partition(":")
    struct: type[msgspec.Struct] = getattr(importlib.import_module(module), name)
    return struct


@cache
def fields_of(struct: type[msgspec.Struct], sizes: tuple[str, ...] = ()) -> tuple[Field, ...]:
    """Return the fields in the order of the Struct, nested ones flat; `sizes` are in bytes."""
    return tuple(_walk(struct, (), frozenset(sizes), {}))


def columns_of(
    fields: tuple[Field, ...], shown: tuple[str, ...], secrets: tuple[str, ...] = ()
) -> list[Column]:
    """Return the columns of a table: id, name, what is `shown`, and the rest with -o wide."""
    by_name = {field.name: field for field in fields}
    first = [name for name in ("id", "name") if name in by_name]
    order = [*first, *shown, *(name for name in by_name if name not in (*first, *shown))]
    return [
        Column(
            name.replace("_cost.", " ").replace("cost.", "").replace(".", " ").replace("_", " ")
            .upper(),
            _hide(by_name[name]) if name in secrets else by_name[name].show,
            wide=name not in (*first, *shown),
            whole=name == "id",
        )
        for name in order
    ]  # fmt: skip


def _hide(field: Field) -> Callable[[Item], object]:
    def hide(item: Item) -> object:
        return HIDDEN if field.of(item) else ""

    return hide


def _walk(
    struct: type[msgspec.Struct],
    path: tuple[str, ...],
    sizes: frozenset[str],
    defaults: Mapping[str, object],
    whole: str = "",
) -> Iterator[Field]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        about, extra, kind = _unwrap(field.type)
        here = (*path, field.encode_name)
        default = extra.get("implied", defaults.get(field.encode_name))
        if isinstance(default, msgspec.Struct):
            default = cast("object", msgspec.to_builtins(default))
        if isinstance(kind, inspect.StructType):
            inner = cast("dict[str, object]", default) if isinstance(default, dict) else {}
            yield from _walk(kind.cls, here, sizes, inner, f"{about}: ")
            continue
        many = isinstance(kind, inspect.ListType)
        member = kind.item_type if isinstance(kind, inspect.ListType) else kind
        yield Field(
            path=here,
            about=whole + about,
            kind=Kind.SIZE if ".".join(here) in sizes else _kind(member),
            many=many,
            needed=field.required and not path,
            read_only=bool(extra.get("read_only")),
            default=default,
            choices=tuple(each.value for each in member.cls)
            if isinstance(member, inspect.EnumType)
            else (),
            pair=tuple(each.encode_name for each in member.fields)
            if isinstance(member, inspect.StructType)
            else (),
        )


def _unwrap(kind: inspect.Type) -> tuple[str, dict[str, Any], inspect.Type]:
    """Return description, further properties and the type without null."""
    about, extra = "", dict[str, Any]()
    if isinstance(kind, inspect.Metadata):
        schema = cast("dict[str, Any]", kind.extra_json_schema or {})
        about, extra = str(schema.get("description", "")), cast("dict[str, Any]", kind.extra or {})
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        (kind,) = (each for each in kind.types if not isinstance(each, inspect.NoneType))
    return about, extra, kind


def _kind(kind: inspect.Type) -> Kind:
    match kind:
        case inspect.IntType():
            return Kind.INTEGER
        case inspect.FloatType():
            return Kind.NUMBER
        case inspect.BoolType():
            return Kind.FLAG
        case inspect.EnumType():
            return Kind.CHOICE
        case inspect.StructType():
            return Kind.PAIR
        case _:
            return Kind.TEXT


def _singular(name: str) -> str:
    return name.removesuffix("es") if name.endswith("sses") else name.removesuffix("s")
