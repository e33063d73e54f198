"""A YAML file -> a Struct, checked as a whole; a refusal says file, line, column, field and rule.

It knows no particular configuration. YAML is read as its 1.2 core schema has it ("no" is a
word, "012" too), without anchors, tags, duplicate keys or a second document: what a reader of the
file sees is what counts.
"""

import difflib
import os
import re
import stat
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, Union, cast, get_args, get_origin

import msgspec
import yaml
from yaml.reader import ReaderError

from appliance.core.errors import Invalid

SIZE_LIMIT_BYTES: Final = 64 * 1024  # a second of PyYAML at the worst

Place = tuple[int, int]  # line and column, counted from 1


class Rules(Protocol):
    """A Struct whose fields are right one by one may still contradict itself."""

    def check(self) -> None:
        """Raise `BrokenRule` for the first contradiction."""
        ...


class BrokenRule(Exception):
    """Found by `check`: `field` is a dotted path, `rule` a sentence, `hint` the next step."""

    def __init__(self, field: str, rule: str, hint: str | None = None) -> None:
        super().__init__(rule)
        self.field = field
        self.rule = rule
        self.hint = hint


T = TypeVar("T", bound=Rules)


def load(path: Path, kind: type[T]) -> T:
    """Read and check a file.

    Raises:
        FileNotFoundError: there is none.
        Invalid: it cannot be read or used; the context has `file`, and where known `line`,
            `column` and `field`.
    """
    return parse(read(path), kind, source=str(path))


def read(path: Path) -> bytes:
    """Read a file, of a huge one only enough for `parse` to refuse it. Raises as `load` does."""
    try:
        # Not blocking: a named pipe would make us wait for ever for somebody to write into it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Invalid(f"{path}: cannot be read: not a regular file", file=str(path))
            return os.read(handle, SIZE_LIMIT_BYTES + 1)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise
    except OSError as failed:
        raise Invalid(f"{path}: cannot be read: {failed.strerror}", file=str(path)) from failed


def parse(content: bytes, kind: type[T], *, source: str) -> T:
    """Check the content of a file; `source` names it in errors. Raises as `load` does."""
    document = _Document(content, source)
    try:
        value = msgspec.convert(document.value, kind)
    except msgspec.ValidationError as wrong:
        raise document.refuse_value(str(wrong), kind) from wrong
    try:
        value.check()
    except BrokenRule as broken:
        place = document.place(broken.field)
        raise document.refuse(place, broken.rule, field=broken.field, hint=broken.hint) from broken
    return value


def with_list(content: bytes, key: str, values: Sequence[str]) -> bytes:
    """Return a document with a top-level list set, all other text and comments kept.

    The document was accepted by `parse` before. A caller reads the result again: in rare forms
    of YAML the place of the list is not where it seems.
    """
    text = content.decode("utf-8-sig")
    line = f"{key}: [{', '.join(values)}]"
    root = _Loader(text).get_single_node()
    if not isinstance(root, yaml.MappingNode):  # nothing but comments
        return f"{line}\n{text}".encode()
    for name, value in root.value:
        if name.value == key:
            last = value if value.flow_style or not value.value else value.value[-1]
            begin, end = name.start_mark.index, last.end_mark.index
            return (text[:begin] + line + text[end:]).encode()
    begin = root.start_mark.index
    if root.flow_style:
        return f"{text[: begin + 1]}{line}, {text[begin + 1 :]}".encode()
    indent = " " * root.start_mark.column
    return f"{text[:begin]}{line}\n{indent}{text[begin:]}".encode()


class _Loader(yaml.SafeLoader):
    """The core schema of YAML 1.2, chapter 10.3: nothing else looks like a number or a boolean."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"~|null|", ("~", "n", "")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )

_DEPTH_LIMIT: Final = 50
_OPENING: Final = (
    yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken,
)  # fmt: skip
_CLOSING: Final = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
_FORBIDDEN: Final[dict[type[yaml.Token], str]] = {
    yaml.AliasToken: "aliases (*name) are not allowed",
    yaml.AnchorToken: "anchors (&name) are not allowed",
    yaml.TagToken: "tags (!name) are not allowed",
    yaml.DirectiveToken: "directives (%NAME) are not allowed",
}
_MESSAGE: Final = re.compile(r"(?P<rule>.*) - at `(?:key in `)?\$(?P<path>[^`]*)`+", re.DOTALL)
_SHOWN: Final = 200  # characters of what is wrong


class _Document:
    """One YAML document as plain data, and where each field of it stands."""

    def __init__(self, content: bytes, source: str) -> None:
        self._source = source
        self._places: dict[str, Place] = {"": (1, 1)}
        text = self._decode(content)
        try:
            self._refuse_forbidden(text)
            loader = _Loader(text)
            node = loader.get_single_node()
            value = None if node is None else self._build(loader, node, "")
            self.value: object = {} if value is None else value
        except yaml.MarkedYAMLError as wrong:
            raise self._refuse_syntax(wrong) from wrong
        except ReaderError as wrong:
            rule = f"the character U+{ord(text[wrong.position]):04X} is not allowed"
            raise self.refuse(_place_of(text, wrong.position), rule) from wrong

    def place(self, field: str) -> Place:
        """Return where a field stands, or the nearest thing around it that does."""
        while field not in self._places:
            around = re.sub(r"(\.[^.\[]*|\[\d+\]|^[^.\[]*)$", "", field)
            field = around if around != field else ""
        return self._places[field]

    def refuse(
        self, place: Place | None, rule: str, *, field: str = "", hint: str | None = None
    ) -> Invalid:
        line, column = place or (0, 0)
        where = f"{self._source}:{line}:{column}" if place else self._source
        context: dict[str, str | int] = {"file": self._source}
        if place:
            context |= {"line": line, "column": column}
        # What is wrong may be as long as the file.
        field, rule = _shortened(field), _shortened(rule)
        if field:
            context["field"] = field
        detail = f"{where}: {field}: {rule}" if field else f"{where}: {rule}"
        return Invalid(detail, hint=hint, **context)

    def refuse_value(self, message: str, kind: type[object]) -> Invalid:
        """Turn msgspec's "what - at `$.path`" (it has no other form) into our error."""
        # A path has no backtick, and what is wrong may have anything.
        found = _MESSAGE.fullmatch(message)
        rule, field = (found["rule"], found["path"].lstrip(".")) if found else (message, "")
        known = _fields(kind, field)
        hint = None
        if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", rule, re.DOTALL):
            rule = "there is no such field"
            close = difflib.get_close_matches(_shortened(unknown[1]), known, n=1)
            hint = (
                f"did you mean {close[0]}?"
                if close
                else f"known fields: {', '.join(sorted(known))}"
            )
            field = f"{field}.{unknown[1]}" if field else unknown[1]
        elif choices := _choices(kind, field):
            hint = f"one of: {', '.join(choices)}"
        return self.refuse(self.place(field), rule, field=field, hint=hint)

    def _decode(self, content: bytes) -> str:
        if len(content) > SIZE_LIMIT_BYTES:
            raise self.refuse(None, f"is larger than {SIZE_LIMIT_BYTES // 1024} KiB")
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as wrong:
            before = wrong.object[: wrong.start].decode()  # of the content without its mark
            rule = f"byte 0x{wrong.object[wrong.start]:02x} is not UTF-8"
            raise self.refuse(
                _place_of(before, len(before)), rule, hint="save it as UTF-8"
            ) from wrong

    def _refuse_forbidden(self, text: str) -> None:
        # Before anything is built: a few aliases may stand for gigabytes.
        depth = 0
        loader = _Loader(text)
        while (token := self._next_token(loader)) is not None:
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            rule = "is nested too deeply" if depth > _DEPTH_LIMIT else _FORBIDDEN.get(type(token))
            if rule:
                mark = token.start_mark
                raise self.refuse((mark.line + 1, mark.column + 1), rule)

    def _next_token(self, loader: _Loader) -> yaml.Token | None:
        try:
            return cast("yaml.Token", loader.get_token()) if loader.check_token() else None  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]
        except ValueError as wrong:  # "\U00110000", which the library hands to chr()
            place = loader.line + 1, loader.column + 1
            raise self.refuse(place, "the escape stands for no character") from wrong

    def _refuse_syntax(self, wrong: yaml.MarkedYAMLError) -> Invalid:
        mark = wrong.problem_mark or wrong.context_mark
        problem = wrong.problem or wrong.context or "is not YAML"
        hint = "indent with spaces, not with tabs" if "\\t" in problem else None
        return self.refuse((mark.line + 1, mark.column + 1) if mark else None, problem, hint=hint)

    def _build(self, loader: _Loader, node: yaml.Node, field: str) -> object:
        match node:
            case yaml.MappingNode():
                return dict(self._items(loader, node, field))
            case yaml.SequenceNode():
                values: list[object] = []
                for index, item in enumerate(node.value):
                    name = f"{field}[{index}]"
                    self._places[name] = _place(item)
                    values.append(self._build(loader, item, name))
                return values
            case _:
                return self._scalar(loader, node, field)

    def _scalar(self, loader: _Loader, node: yaml.Node, field: str) -> object:
        self._refuse_unencodable(node, field)
        try:
            return cast("object", loader.construct_object(node))  # pyright: ignore[reportUnknownMemberType]
        except ValueError as wrong:  # Python reads no number of thousands of digits
            raise self.refuse(_place(node), "is too long a number", field=field) from wrong

    def _refuse_unencodable(self, node: yaml.Node, field: str) -> None:
        try:
            str(node.value).encode()
        except UnicodeEncodeError as wrong:
            rule = "has half a surrogate pair, which is no character"
            raise self.refuse(_place(node), rule, field=field) from wrong

    def _items(
        self, loader: _Loader, node: yaml.MappingNode, field: str
    ) -> Iterator[tuple[str, object]]:
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.refuse(_place(key), "a key must be a word")
            self._refuse_unencodable(key, field)
            name = f"{field}.{key.value}" if field else str(key.value)
            if key.value in seen:
                raise self.refuse(_place(key), "stands here twice", field=name)
            seen.add(key.value)
            self._places[name] = _place(key)
            yield key.value, self._build(loader, value, name)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _place_of(text: str, index: int) -> Place:
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def _place(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _type_at(kind: Any, field: str) -> Any:  # noqa: ANN401 - an annotation may be any object
    """Follow a dotted path through the annotations of Structs; None where it leads nowhere."""
    for part in re.findall(r"[^.\[\]]+", field):
        members = _members(kind)
        if part.isdigit():
            kind = next((get_args(member)[0] for member in members if get_args(member)), None)
            continue
        structs = (member for member in members if _is_struct(member))
        names = {entry.name: entry.type for one in structs for entry in msgspec.structs.fields(one)}
        kind = names.get(part)
    return kind


def _fields(kind: type[object], field: str) -> list[str]:
    structs = (member for member in _members(_type_at(kind, field)) if _is_struct(member))
    return [entry.encode_name for one in structs for entry in msgspec.structs.fields(one)]


def _choices(kind: type[object], field: str) -> list[str]:
    members = _members(_type_at(kind, field))
    enums = (one for one in members if isinstance(one, type) and issubclass(one, str))
    return [str(choice) for one in enums for choice in getattr(one, "__members__", {}).values()]


def _members(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Return the alternatives of a union without `Annotated`."""
    if hasattr(kind, "__metadata__"):
        kind = get_args(kind)[0]
    if get_origin(kind) in {Union, types.UnionType}:
        return tuple(member for one in get_args(kind) for member in _members(one))
    return (kind,)


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
