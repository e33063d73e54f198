"""How the fields of an API Struct behave: left out, null, defaulted, read-only.

A Struct carries names, types and enums, equal to the contract; what a value may be is a rule of its
kind (`check_<kind>`). Nothing here knows a kind, a row or a request.
"""

import copy
import functools
from typing import Final, TypeAlias, TypeVar, cast

import msgspec
import msgspec.inspect
from msgspec import UNSET, Meta, UnsetType

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

# An optional field: a client may leave it out or send null, which mean the same.
Maybe: TypeAlias = T | UnsetType | None

_IMPLIED: Final = "implied"
_READ_ONLY: Final = "read_only"


def about(
    description: str,
    *,
    default: object = UNSET,
    implied: object = UNSET,
    json_format: str | None = None,
    read_only: bool = False,
) -> Meta:
    """Describe a field.

    Args:
        description: for the served document and the command line.
        default: the contract's default.
        implied: what a field that was left out is stored as, where the contract names no default
            or its clients need another one back.
        json_format: "int64", "float", ...: the contract's word, not checked here.
        read_only: made by the server; clients may send it and are ignored.
    """
    schema: dict[str, object] = {}
    if default is not UNSET:
        schema["default"] = default
    if json_format is not None:
        schema["format"] = json_format
    extra: dict[str, object] = {_READ_ONLY: True} if read_only else {}
    if default is not UNSET or implied is not UNSET:
        extra[_IMPLIED] = default if implied is UNSET else implied
    return Meta(description=description, extra_json_schema=schema or None, extra=extra or None)


def given(value: Maybe[T], otherwise: T) -> T:
    """Return the value, or `otherwise` when it was left out."""
    return otherwise if value is None or value is UNSET else value


def with_defaults(sent: S) -> S:
    """Return what a POST means: the fields that were left out have their default, if they have one.

    Read-only values that were sent are dropped.
    """
    implied, read_only = _traits(type(sent))
    return _replaced(
        sent,
        {
            name: UNSET
            if name in read_only
            else copy.deepcopy(implied.get(name, UNSET))
            if value is None or value is UNSET
            else with_defaults(value)
            if isinstance(value, msgspec.Struct)
            else value
            for name, value in _values(sent).items()
        },
    )


def merged(stored: S, sent: S) -> S:
    """Return what a PUT leaves: what was sent over what is stored.

    What was left out stays, read-only values stay, lists are replaced as a whole, an empty text
    clears.
    """
    _, read_only = _traits(type(sent))
    old = _values(stored)
    return _replaced(
        sent,
        {
            name: old[name]
            if value is None or value is UNSET or name in read_only
            else _merged_value(old[name], value)
            for name, value in _values(sent).items()
        },
    )


def _merged_value(old: object, new: object) -> object:
    if isinstance(old, msgspec.Struct) and isinstance(new, msgspec.Struct):
        return merged(old, new)
    return new


def _values(struct: msgspec.Struct) -> dict[str, object]:
    return {name: cast("object", getattr(struct, name)) for name in struct.__struct_fields__}


def _replaced(struct: S, values: dict[str, object]) -> S:
    return msgspec.structs.replace(struct, **values)


@functools.cache
def _traits(kind: type[msgspec.Struct]) -> tuple[dict[str, object], frozenset[str]]:
    """Return the implied values and the names of the read-only fields of a Struct."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    extras: dict[str, dict[str, object]] = {
        field.name: cast("dict[str, object]", field.type.extra or {})
        for field in info.fields
        if isinstance(field.type, msgspec.inspect.Metadata)
    }
    implied = {name: extra[_IMPLIED] for name, extra in extras.items() if _IMPLIED in extra}
    return implied, frozenset(name for name, extra in extras.items() if _READ_ONLY in extra)


def missing_field(kind: type[msgspec.Struct], value: object) -> str | None:
    """Return the path of the first required field that a decoded body lacks.

    msgspec reports a missing field and a wrong type by one class of error; to a client they are
    different things. Looks into Structs and into lists of Structs.
    """
    info = msgspec.inspect.type_info(kind)
    return _missing(info, value, "")


def _missing(info: msgspec.inspect.Type, value: object, path: str) -> str | None:
    match info:
        case msgspec.inspect.Metadata():
            return _missing(info.type, value, path)
        case msgspec.inspect.UnionType():
            found = (_missing(choice, value, path) for choice in info.types)
        case msgspec.inspect.ListType() if isinstance(value, list) and _can_lack(info.item_type):
            items = cast("list[object]", value)
            found = (
                _missing(info.item_type, item, f"{path}[{index}]")
                for index, item in enumerate(items)
            )
        case msgspec.inspect.StructType() if isinstance(value, dict):
            members = cast("dict[str, object]", value)
            prefix = f"{path}." if path else ""
            found = (
                _missing(field.type, members[field.encode_name], prefix + field.encode_name)
                if field.encode_name in members
                else (prefix + field.encode_name if field.required else None)
                for field in info.fields
            )
        case _:
            return None
    return next((each for each in found if each is not None), None)


def _can_lack(info: msgspec.inspect.Type) -> bool:
    """Whether a value of this type could lack a field: a million texts are not looked at."""
    match info:
        case msgspec.inspect.Metadata():
            return _can_lack(info.type)
        case msgspec.inspect.UnionType():
            return any(map(_can_lack, info.types))
        case msgspec.inspect.ListType():
            return _can_lack(info.item_type)
        case _:
            return isinstance(info, msgspec.inspect.StructType)
