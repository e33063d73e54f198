"""The rule for all SQL of the package, as something that a test can run and be refused by.

Statements replicate as text and must mean the same on every member, in one batch or alone. So: no
randomness and no time made by SQL, nothing about the last statement of a connection, no
transaction control, no PRAGMA; and the text is made of literals, so that this rule sees it all.
"""

import ast
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from appliance.core.errors import KowabungaError
from appliance.store.statements import shape, tokens

# Where a text that is no literal becomes a Statement, and why that is fine.
DECLARED: Final = {
    "store/base.py:guard": "wraps a condition, which is a Statement and checked as such",
    "store/base.py:guard_none": "wraps a query, which is a Statement and checked as such",
    "store/migrate.py:parse_migration": "the statements of the migration files, checked as such",
}

_WORDS: Final = frozenset({
    "CURRENT_TIME", "CURRENT_DATE", "CURRENT_TIMESTAMP", "AUTOINCREMENT", "RETURNING", "PRAGMA",
    "ATTACH", "DETACH", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "VACUUM",
})  # fmt: skip
# Time is deterministic in SQLite's eyes, unless it is now.
_TIME: Final = frozenset(
    {"date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff"}
)
# Not all of these are refused by preparing a statement: a DEFAULT is looked at when it is used.
_CALLS: Final = _TIME | {"random", "randomblob", "last_insert_rowid", "changes", "total_changes"}
_VERBS: Final = frozenset({
    "SELECT", "VALUES", "INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "ALTER", "DROP",
})  # fmt: skip
_ACTIONS: Final = {
    sqlite3.SQLITE_PRAGMA: "PRAGMA",
    sqlite3.SQLITE_TRANSACTION: "transaction control",
    sqlite3.SQLITE_SAVEPOINT: "transaction control",
    sqlite3.SQLITE_ATTACH: "ATTACH",
    sqlite3.SQLITE_DETACH: "ATTACH",
    sqlite3.SQLITE_CREATE_TEMP_TABLE: "a temporary object",
    sqlite3.SQLITE_CREATE_TEMP_VIEW: "a temporary object",
    sqlite3.SQLITE_CREATE_TEMP_INDEX: "a temporary object",
    sqlite3.SQLITE_CREATE_TEMP_TRIGGER: "a temporary object",
}
# Read-only twins of PRAGMAs, plain tables to a query.
_PRAGMA_TABLES: Final = {"pragma_integrity_check", "pragma_foreign_key_check"}
_DETERMINISTIC: Final = 0x800  # Source: sqlite3.h, SQLITE_DETERMINISTIC


@dataclass(frozen=True)
class Found:
    where: str  # "store/base.py:12", or "store/base.py:guard" if it is no literal
    sql: str | None


def collect(source: str, file: str) -> list[Found]:
    """Find each `Statement(...)` of a module, with every text that it may have."""
    module = ast.parse(source)
    constants = {name: value for node in module.body for name, value in _constant(node)}
    found: list[Found] = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.alias) and node.name == "Statement" and node.asname:
            found.append(Found(f"{file}:{node.lineno} import as {node.asname}", None))
        if isinstance(node, ast.Call) and _is_statement(node.func):
            texts = _texts(node.args[0] if node.args else node.keywords[0].value, constants)
            found.extend(Found(f"{file}:{node.lineno}", text) for text in texts)
            if not texts:
                found.append(Found(f"{file}:{function}", None))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(module, "module")
    return found


def _constant(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """Yield what a module assigns to a NAME IN CAPITALS, which is never assigned again."""
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name) and target.id.isupper():
                yield target.id, node.value


def _texts(node: ast.expr, constants: Mapping[str, ast.expr]) -> list[str]:
    """Return each text that an expression of literals can be; none if it is something else."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.Name(id=name) if name in constants:
            return _texts(constants[name], constants)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            heads, tails = _texts(left, constants), _texts(right, constants)
            return [head + tail for head in heads for tail in tails]
        case ast.IfExp(body=one, orelse=other):
            either = _texts(one, constants), _texts(other, constants)
            return [*either[0], *either[1]] if all(either) else []
        case _:
            return []


def collect_package(package: Path) -> list[Found]:
    return [
        found
        for path in sorted(package.rglob("*.py"))
        for found in collect(path.read_text(), path.relative_to(package).as_posix())
    ]


def _is_statement(function: ast.expr) -> bool:
    return (isinstance(function, ast.Name) and function.id == "Statement") or (
        isinstance(function, ast.Attribute) and function.attr == "Statement"
    )


class Judge:
    """Prepares statements against a schema, with SQLite's authorizer looking on."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._fickle = {
            name
            for name, kind, flags in self._connection.execute(
                "SELECT name, type, flags FROM pragma_function_list"
            )
            if kind == "s" and not flags & _DETERMINISTIC
        }
        self._seen: list[str] = []
        self._connection.set_authorizer(self._look)

    def close(self) -> None:
        self._connection.close()

    def complaints(self, sql: str) -> list[str]:
        """Return what is wrong with a statement; it is prepared, not run."""
        found = list(tokens(sql))
        wrong = [f"{word} is not allowed" for word in found if word in _WORDS]
        wrong += [
            f"{name.lower()}() is not allowed"
            for name, bracket in pairwise(found)
            if bracket == "(" and name.lower() in _CALLS
        ]
        try:
            form = shape(sql)
        except KowabungaError as malformed:
            return [*wrong, malformed.detail]
        if form.verb not in _VERBS:
            wrong.append(f"{form.verb} is not allowed")
        self._seen = []
        try:
            self._connection.execute(f"EXPLAIN {sql}", (None,) * form.placeholders).fetchall()
        except sqlite3.Error as error:
            wrong.append(str(error))
        return wrong + self._seen

    def apply(self, sql: str) -> list[str]:
        """Judge a statement of a migration, then run it."""
        wrong = self.complaints(sql)
        self._connection.execute(sql)
        return wrong

    def schema_complaints(self) -> list[str]:
        """Judge what each table does when it is used: defaults, checks, triggers, its columns."""
        listed = self._connection.execute(
            "SELECT name, strict FROM pragma_table_list"
            " WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        return [wrong for name, strict in listed for wrong in self._table_complaints(name, strict)]

    def _table_complaints(self, table: str, strict: int) -> Iterator[str]:
        if not strict:
            yield f"{table} is not STRICT"
        columns = self._connection.execute(
            "SELECT name, type, coalesce(dflt_value, '') FROM pragma_table_info(?)", (table,)
        ).fetchall()
        for column, kind, default in columns:
            if "(" in tokens(default):  # the authorizer is not asked about the functions of these
                yield f"{table}.{column}: its default is no literal"
            if kind not in {"INTEGER", "TEXT"}:
                yield f"{table}.{column} is {kind}: only INTEGER and TEXT come through unchanged"
        assignments = ", ".join(f"{column} = {column}" for column, *_ in columns)
        for sql in (
            f"INSERT INTO {table} DEFAULT VALUES",
            f"UPDATE {table} SET {assignments}",
            f"DELETE FROM {table}",
        ):
            for wrong in self.complaints(sql):
                yield f"{table}: {wrong}"

    def _look(
        self, action: int, first: str | None, second: str | None, _: str | None, __: str | None
    ) -> int:
        if action == sqlite3.SQLITE_FUNCTION and second in self._fickle:
            self._seen.append(f"{second}() is not deterministic")
        if action == sqlite3.SQLITE_READ and (first or "").startswith("pragma_"):
            if first not in _PRAGMA_TABLES:
                self._seen.append(f"{first} is not allowed")
        elif action in _ACTIONS:
            self._seen.append(f"{_ACTIONS[action]} is not allowed")
        return sqlite3.SQLITE_OK
