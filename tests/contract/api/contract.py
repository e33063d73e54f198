"""Our copy of the contract, and how a Struct differs from one of its schemas."""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

COPY: Final = Path(__file__).with_name("openapi-0.53.2.json")
# Where the upstream document lies beside a working copy; absent elsewhere.
ORIGINAL: Final = Path(__file__).parents[4] / "shared" / "contract" / "openapi-0.53.2.yaml"

# JSON as it comes: a schema is a tree of unknown shape.
Schema = Mapping[str, Any]


@functools.cache
def load() -> Schema:
    loaded: Schema = json.loads(COPY.read_text(encoding="utf-8"))
    return loaded


def schema(name: str) -> Schema:
    found: Schema = load()["schemas"][name]
    return found


def differences(name: str, wanted: Schema, struct: type[msgspec.Struct]) -> list[str]:
    """Compare both ways; each difference is one sentence that begins with what is meant."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return list(_struct_differences(name, wanted, info))


def _struct_differences(name: str, wanted: Schema, info: inspect.StructType) -> Iterator[str]:
    if not info.forbid_unknown_fields:
        yield f"{name}: the Struct takes unknown fields"
    fields = {field.encode_name: field for field in info.fields}
    properties = wanted["properties"]
    for missing in sorted(properties.keys() - fields.keys()):
        yield f"{name}.{missing}: the Struct lacks it"
    for extra in sorted(fields.keys() - properties.keys()):
        yield f"{name}.{extra}: the contract lacks it"
    for key in sorted(fields.keys() & properties.keys()):
        yield from _field_differences(
            f"{name}.{key}", properties[key], fields[key], required=key in wanted["required"]
        )


def _field_differences(
    path: str, wanted: Schema, field: inspect.Field, *, required: bool
) -> Iterator[str]:
    found = _as_schema(field.type)
    nullable = found.pop("nullable", False)
    if field.required != required:
        yield f"{path}: required is {field.required} in the Struct, {required} in the contract"
    if nullable == required:
        yield f"{path}: the Struct {'takes' if nullable else 'refuses'} null"
    if not found.pop("described", False):
        yield f"{path}: the Struct does not describe it"
    yield from _type_differences(path, wanted, found)


def _type_differences(path: str, wanted: Schema, found: Schema) -> Iterator[str]:
    for key in ("ref", "type", "format", "enum", "default"):
        # JSON tells 1 and true apart, Python does not.
        if json.dumps(wanted.get(key)) != json.dumps(found.get(key)):
            yield (
                f"{path}: {key} is {found.get(key)} in the Struct, "
                f"{wanted.get(key)} in the contract"
            )
    if "items" in wanted and "items" in found:
        yield from _type_differences(f"{path}[]", wanted["items"], found["items"])


def _as_schema(kind: inspect.Type) -> dict[str, Any]:
    """Describe a type of a Struct in the words of the reduced contract."""
    match kind:
        case inspect.Metadata():
            described = dict(kind.extra_json_schema or {})
            found = _as_schema(kind.type)
            found["described"] = bool(described.pop("description", ""))
            return found | described
        case inspect.UnionType():
            members = [member for member in kind.types if not isinstance(member, inspect.NoneType)]
            assert len(members) == 1, "no field of the contract has two types"
            return _as_schema(members[0]) | {"nullable": len(kind.types) == 2}
        case inspect.StructType():
            return {"ref": kind.cls.__name__}
        case inspect.EnumType():
            return {"type": "string", "enum": sorted(member.value for member in kind.cls)}
        case inspect.ListType():
            return {"type": "array", "items": _as_schema(kind.item_type)}
        case _:
            return dict(_SCALARS[type(kind)])


_SCALARS: Final[Mapping[type[inspect.Type], Schema]] = {
    inspect.StrType: {"type": "string"},
    inspect.IntType: {"type": "integer"},
    inspect.FloatType: {"type": "number"},
    inspect.BoolType: {"type": "boolean"},
    inspect.DateType: {"type": "string", "format": "date"},
}
