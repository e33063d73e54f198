import sqlite3
from pathlib import Path

import pytest

from appliance.core.errors import Conflict, Corrupt, KowabungaError, Stale, Unavailable
from appliance.store.constraints import constraint_error
from appliance.store.sqlite_file import translate

_PATH = Path("state.db")


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("UNIQUE constraint failed: a.b, a.c", {"constraint": "unique", "columns": "a.b, a.c"}),
        ("UNIQUE constraint failed: index 'a_b'", {"constraint": "unique"}),
        ("NOT NULL constraint failed: a.b", {"constraint": "not_null", "columns": "a.b"}),
        ("CHECK constraint failed: b > 0", {"constraint": "check"}),
        ("FOREIGN KEY constraint failed", {"constraint": "foreign_key"}),
        (
            "cannot store TEXT value in INTEGER column a.b",
            {"constraint": "datatype", "columns": "a.b"},
        ),
    ],
)
def test_each_text_of_sqlite_is_understood(text: str, context: dict[str, str]) -> None:
    refused = constraint_error(text)
    assert isinstance(refused, Conflict)
    assert refused.context == context


def test_only_the_guards_own_check_is_stale() -> None:
    assert isinstance(constraint_error("CHECK constraint failed: txn_guard"), Stale)
    for other in ("txn_guard_x", "ok = 1", "not txn_guard"):
        assert isinstance(constraint_error(f"CHECK constraint failed: {other}"), Conflict)


@pytest.mark.parametrize(
    "text", ['near "x": syntax error', "no such table: a", "database is locked"]
)
def test_other_texts_are_no_constraint(text: str) -> None:
    assert constraint_error(text) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SQLITE_BUSY", Unavailable),
        ("SQLITE_BUSY_SNAPSHOT", Unavailable),
        ("SQLITE_LOCKED", Unavailable),
        ("SQLITE_FULL", Unavailable),
        ("SQLITE_IOERR_READ", Unavailable),
        ("SQLITE_CANTOPEN", Unavailable),
        ("SQLITE_READONLY", Unavailable),
        ("SQLITE_PERM", Unavailable),
        ("SQLITE_NOMEM", Unavailable),
        ("SQLITE_INTERRUPT", Unavailable),
        ("SQLITE_CORRUPT", Corrupt),
        ("SQLITE_CORRUPT_INDEX", Corrupt),
        ("SQLITE_NOTADB", Corrupt),
        ("SQLITE_CONSTRAINT_TRIGGER", KowabungaError),
        ("SQLITE_ERROR", KowabungaError),
    ],
)
def test_each_code_of_sqlite_has_its_meaning(name: str, kind: type[KowabungaError]) -> None:
    error = sqlite3.OperationalError("as SQLite says")
    error.sqlite_errorcode = getattr(sqlite3, name)
    meaning = translate(error, _PATH)
    assert type(meaning) is kind
    assert kind in {KowabungaError, Corrupt} or str(_PATH) in meaning.detail
