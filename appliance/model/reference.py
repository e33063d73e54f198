"""The node file explained: a reference page and an annotated example, both from the Structs."""

from collections.abc import Iterator
from typing import Final, cast

import msgspec
from msgspec import inspect
from msgspec.structs import FieldInfo

from appliance.model.node import NodeConfig

_HEAD: Final = """\
# The node file

`/etc/kowabunga/node.yaml` says which roles this machine plays. `kowabunga role set` writes it; a
change is noticed and applied, a broken file is refused and the old one stays in force. Unknown
fields are refused. This page is generated (`./build.sh docs`).
"""


def reference_page() -> str:
    """Return docs/node.md."""
    lines = [_HEAD, "## Fields\n", "| field | type | default | what it is |", "|---|---|---|---|"]
    lines += _rows(NodeConfig, "")
    lines += ["", "## Every field at its default\n", "```yaml", example().rstrip(), "```", ""]
    return "\n".join(lines)


def example() -> str:
    """Return a node file with every field at its default and its description."""
    return "\n".join(_example(NodeConfig, "")) + "\n"


def _rows(kind: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        section = _section(field)
        about = _about(field)
        default = "" if section else f"`{_yaml(_default(field))}`"
        shape = "section" if section else _shape(inspect.type_info(field.type))
        yield f"| `{prefix}{field.name}` | {shape} | {default} | {about} |"
        if section:
            yield from _rows(section, f"{prefix}{field.name}.")


def _example(kind: type[msgspec.Struct], indent: str) -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        section = _section(field)
        yield f"{indent}# {_about(field)}"
        if section and field.default is not None:
            yield f"{indent}{field.name}:"
            yield from _example(section, f"{indent}  ")
        else:
            yield f"{indent}{field.name}: {_yaml(_default(field))}"


def _section(field: FieldInfo) -> type[msgspec.Struct] | None:
    for member in _alternatives(inspect.type_info(field.type)):
        if isinstance(member, inspect.StructType):
            return member.cls
    return None


def _about(field: FieldInfo) -> str:
    info = inspect.type_info(field.type)
    assert isinstance(info, inspect.Metadata), f"{field.name} has no description"
    schema = cast("dict[str, str]", info.extra_json_schema)  # pyright: ignore[reportUnknownMemberType]
    return schema["description"]


def _alternatives(info: inspect.Type) -> tuple[inspect.Type, ...]:
    if isinstance(info, inspect.Metadata):
        return _alternatives(info.type)
    return info.types if isinstance(info, inspect.UnionType) else (info,)


def _shape(info: inspect.Type) -> str:
    (kind, *_) = (one for one in _alternatives(info) if not isinstance(one, inspect.NoneType))
    match kind:
        case inspect.EnumType():
            return ", ".join(f"`{choice.value}`" for choice in kind.cls)
        case inspect.VarTupleType():
            return f"list of {_shape(kind.item_type)}"
        case inspect.BoolType():
            return "`true`, `false`"
        case inspect.Metadata():
            return _shape(kind.type)
        case _:
            return "text"


def _default(field: FieldInfo) -> object:
    return None if field.default is msgspec.NODEFAULT else field.default


def _yaml(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple():
            return "[]"
        case _:
            return str(value)
