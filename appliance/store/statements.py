"""What a statement may be: checked before any implementation sends it.

Reads text just far enough to tell a query from a change; the database parses it for real. Wrong
SQL is a fault of ours (`KowabungaError`, code "internal"); a wrong value may come from a user
(`Invalid`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from appliance.core.errors import Invalid, KowabungaError
from appliance.store.base import Statement

MAX_TEXT: Final = 16 * 1024 * 1024  # characters; far above any value of ours, far below SQLite's
_MIN_INTEGER: Final = -(2**63)
_MAX_INTEGER: Final = 2**63 - 1

_TOKEN: Final = re.compile(
    r"""(?P<blank> \s+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
      | (?P<quoted> '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \[[^\]]*\] )
      | (?P<word> [A-Za-z_]\w* )
      | (?P<sign> . )""",
    re.VERBOSE | re.DOTALL,
)
_QUERIES: Final = frozenset({"SELECT", "VALUES"})
_CHANGES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE"})
_DEFINITIONS: Final = frozenset({"CREATE", "ALTER", "DROP"})
# A batch answers with counts, so RETURNING is lost; ROLLBACK (as in INSERT OR ROLLBACK) would end
# the transaction that other batches share.
_NEVER_IN_CHANGE: Final = frozenset({"RETURNING", "ROLLBACK"})


@dataclass(frozen=True, slots=True)
class Shape:
    """What the text of a statement tells."""

    verb: str  # the first word, or the main verb after a WITH
    begins_with: str
    placeholders: int
    words: frozenset[str]


def tokens(sql: str) -> Iterator[str]:
    """Yield words (in upper case), quoted parts and signs, without comments and blanks."""
    for match in _TOKEN.finditer(sql):
        if match.lastgroup == "word":
            yield match.group().upper()
        elif match.lastgroup != "blank":
            yield match.group()


@lru_cache(maxsize=1024)
def shape(sql: str) -> Shape:
    """Read the kind of one statement.

    Raises:
        KowabungaError: it is empty, or more than one statement, or not encodable.
    """
    found = tuple(tokens(sql))
    if not found or not sql.isascii():
        raise KowabungaError(f"a statement is empty or not ASCII: {sql!a}")
    verb = _main_verb(found)
    is_trigger = found[0] == "CREATE" and "TRIGGER" in found[:5]
    if ";" in found and not is_trigger:
        raise KowabungaError(f"one statement at a time, without a semicolon: {sql}")
    return Shape(verb, found[0], found.count("?"), frozenset(found))


def check_query(statement: Statement) -> None:
    """Refuse what is not a plain read with well-formed values."""
    found = shape(statement.sql)
    if found.verb not in _QUERIES:
        raise KowabungaError(f"not a query: {statement.sql}")
    _check_parameters(statement, found)


def check_change(statement: Statement) -> None:
    """Refuse what is not a change of rows or of the schema with well-formed values."""
    found = shape(statement.sql)
    if found.verb not in _CHANGES and found.begins_with not in _DEFINITIONS:
        raise KowabungaError(f"not a change: {statement.sql}")
    if not _NEVER_IN_CHANGE.isdisjoint(found.words):
        raise KowabungaError(f"RETURNING and ROLLBACK have no place in a batch: {statement.sql}")
    if found.begins_with == "CREATE" and not found.words.isdisjoint({"TEMP", "TEMPORARY"}):
        raise KowabungaError(f"temporary objects live in one connection only: {statement.sql}")
    _check_parameters(statement, found)


def _main_verb(found: tuple[str, ...]) -> str:
    if found[0] != "WITH":
        return found[0]
    depth = 0
    for token in found:
        depth += (token == "(") - (token == ")")  # noqa: S105 - brackets, not passwords
        if depth == 0 and (token in _QUERIES or token in _CHANGES):
            return token
    return "WITH"


def _check_parameters(statement: Statement, found: Shape) -> None:
    if len(statement.parameters) != found.placeholders:
        raise KowabungaError(
            f"{found.placeholders} placeholders, {len(statement.parameters)} values:"
            f" {statement.sql}"
        )
    for value in statement.parameters:
        _check_value(value)


def _check_value(value: object) -> None:
    if value is None:
        return
    if isinstance(value, str):
        _check_text(value)
    elif not isinstance(value, int):
        kind = type(value).__name__
        raise Invalid(f"a value is a {kind}; only text, integer and NULL can be stored")
    elif not _MIN_INTEGER <= value <= _MAX_INTEGER:
        raise Invalid("an integer does not fit into 64 bits")


def _check_text(value: str) -> None:
    """Refuse what would not come back as it went: SQLite's text functions stop at a NUL."""
    if "\0" in value:
        raise Invalid("a text contains a NUL character")
    if len(value) > MAX_TEXT:
        raise Invalid(f"a text is longer than {MAX_TEXT} characters")
    try:
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError as lone:
        raise Invalid("a text contains half of a surrogate pair") from lone
