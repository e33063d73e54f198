"""Names and texts of people: what is refused, and what is merely carried.

Quotes, angle brackets, semicolons, dollars and their like are carried: nothing splices a name into
SQL, XML, YAML or a command, so they are letters like others. Refused is what no escaping makes
harmless to a reader (what cannot be seen, what reorders text) or what would take a name for
something else (an id, an option of a command).
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from appliance.core.errors import Invalid
from appliance.core.ids import ID_PATTERN

MAX_NAME_LENGTH: Final = 255
MAX_TEXT_LENGTH: Final = 4096
MAX_REFERENCES: Final = 1024

_ID: Final = re.compile(ID_PATTERN)
_LINE_BREAKS: Final = frozenset("\t\n\r")
_MAX_QUOTED: Final = 64


def quoted(text: str) -> str:
    """Return the text for a message: on one line, printable, at most some 70 characters long."""
    return repr(text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 3] + "...")


def check_name(name: str, field: str = "name") -> None:
    """Accept a display name, blanks and capitals included.

    Raises:
        Invalid: empty, over 255 characters, not printable, blank at an end, beginning like an
            option, without a letter or digit, not in NFC (two names that look the same would
            differ), or of the form of an id.
    """
    check_line(name, field, max_length=MAX_NAME_LENGTH)
    if not name:
        raise Invalid(f"{field} is empty", field=field)
    if name != name.strip(" "):
        raise Invalid(f"{field} {quoted(name)} begins or ends with a blank", field=field)
    if name.startswith("-"):
        raise Invalid(f"{field} {quoted(name)} begins with a hyphen, like an option", field=field)
    if not any(character.isalnum() for character in name):
        raise Invalid(f"{field} {quoted(name)} has no letter and no digit", field=field)
    if not unicodedata.is_normalized("NFC", name):
        raise Invalid(
            f"{field} {quoted(name)} is not in Unicode normal form C",
            field=field,
            hint="send composed characters",
        )
    if _ID.fullmatch(name):
        raise Invalid(
            f"{field} {quoted(name)} has the form of an id",
            field=field,
            hint="24 hex digits always mean an id",
        )


def check_line(text: str, field: str, *, max_length: int, secret: bool = False) -> None:
    """Accept one printable line, maybe empty; the message never shows a secret one.

    Raises:
        Invalid: too long, or a character that is not printable: control characters, invisible and
            reordering ones, line separators, blanks other than U+0020, unassigned ones.
    """
    _check_length(text, field, max_length)
    if not text.isprintable():
        shown = field if secret else f"{field} {quoted(text)}"
        raise Invalid(f"{shown} has a character that is not printable", field=field)


def check_text(text: str, field: str = "description") -> None:
    """Accept text of several lines, maybe empty.

    Raises:
        Invalid: over 4096 characters, or a control character but tab and line breaks.
    """
    _check_length(text, field, MAX_TEXT_LENGTH)
    if any(
        unicodedata.category(character) == "Cc" and character not in _LINE_BREAKS
        for character in text
    ):
        raise Invalid(f"{field} {quoted(text)} has a control character", field=field)


def check_references(ids: Sequence[str], field: str) -> None:
    """Accept ids of other objects; whether they exist is for the store to say.

    Raises:
        Invalid: one that stands twice, or is not printable, or more than 1024.
    """
    check_count(ids, field, maximum=MAX_REFERENCES)
    check_unique(ids, field)
    for index, text in enumerate(ids):
        # SQLite's JSON functions stop at a NUL, and would take what stands before it for the id.
        if not text.isprintable():
            raise Invalid(
                f"{field}[{index}] names {quoted(text)}, which does not exist",
                field=f"{field}[{index}]",
            )


def check_unique(texts: Sequence[str], field: str) -> None:
    seen: set[str] = set()
    for index, text in enumerate(texts):
        if text in seen:
            raise Invalid(f"{field} has {quoted(text)} twice", field=f"{field}[{index}]")
        seen.add(text)


def check_count(items: Sequence[object], field: str, *, maximum: int) -> None:
    if len(items) > maximum:
        raise Invalid(f"{field} has {len(items)} entries, {maximum} are allowed", field=field)


def _check_length(text: str, field: str, maximum: int) -> None:
    if len(text) > maximum:
        raise Invalid(f"{field} has {len(text)} characters, {maximum} are allowed", field=field)
