"""SQLite's constraint texts, turned into our errors: for every implementation alike.

Text, not codes, because rqlite hands on nothing else. The texts are SQLite's and stable; the
contract suite provokes each of them.
"""

import re
from typing import Final

from appliance.core.errors import Conflict, Stale

_GUARD: Final = "txn_guard"  # the name of the CHECK in that table
_CONSTRAINT: Final = re.compile(
    r"(?P<kind>UNIQUE|NOT NULL|CHECK|FOREIGN KEY) constraint failed(?:: (?P<what>.+))?"
)
_DATATYPE: Final = re.compile(r"cannot store \w+ value in \w+ column (?P<what>\S+)")
_DETAILS: Final = {
    "unique": "another row has the same {what}",
    "not_null": "{what} is missing",
    "check": "a value breaks the rule {what}",
    "foreign_key": "a row refers to one that does not exist, or is still referred to",
    "datatype": "a value of the wrong type was given for {what}",
}


def constraint_error(text: str) -> Conflict | Stale | None:
    """Return the error that a refusal by SQLite means; None when no constraint speaks."""
    if named := _CONSTRAINT.search(text):
        kind, what = named["kind"].lower().replace(" ", "_"), named["what"] or ""
    elif mistyped := _DATATYPE.search(text):
        kind, what = "datatype", mistyped["what"]
    else:
        return None
    if kind == "check" and what == _GUARD:
        return Stale("what this change was decided on has changed meanwhile")
    detail = _DETAILS[kind].format(what=what)
    # Of a CHECK, SQLite tells the rule; of an index on an expression, "index 'its_name'".
    if kind in {"foreign_key", "check"} or what.startswith("index "):
        return Conflict(detail, constraint=kind)
    return Conflict(detail, constraint=kind, columns=what)
