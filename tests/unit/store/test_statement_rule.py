"""Every statement of the package keeps the rule; and the rule catches those that do not."""

from collections.abc import Generator
from pathlib import Path

import pytest

import appliance
from appliance.store.base import Statement, guard, guard_none
from appliance.store.migrate import parse_migration, shipped_migrations
from tests.unit.store.rule import DECLARED, Judge, collect, collect_package

_PACKAGE = Path(appliance.__file__).parent


@pytest.fixture
def judge() -> Generator[Judge]:
    judge = Judge()
    yield judge
    judge.close()


@pytest.fixture
def migrated(judge: Judge) -> Judge:
    for migration in shipped_migrations():
        for statement in migration.statements:
            judge.apply(statement.sql)
    return judge


def test_every_text_of_a_statement_is_made_of_literals() -> None:
    built = {found.where for found in collect_package(_PACKAGE) if found.sql is None}
    assert built == set(DECLARED)


def test_every_statement_of_the_package_keeps_the_rule(migrated: Judge) -> None:
    statements = [found for found in collect_package(_PACKAGE) if found.sql is not None]
    assert len(statements) > 10
    broken = {
        found.where: complaints
        for found in statements
        if (complaints := migrated.complaints(found.sql or ""))
    }
    assert broken == {}


def test_every_migration_keeps_the_rule(judge: Judge) -> None:
    for migration in shipped_migrations():
        for statement in migration.statements:
            assert judge.apply(statement.sql) == [], f"{migration.name}: {statement.sql}"
    assert judge.schema_complaints() == []


def test_the_guard_around_a_condition_keeps_the_rule(migrated: Judge) -> None:
    condition = Statement("SELECT EXISTS (SELECT 1 FROM agent WHERE id = ?)", ("a",))
    for statement in (*guard(condition), *guard_none(condition)):
        assert migrated.complaints(statement.sql) == []


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("SELECT random() AS n", "random() is not allowed"),
        ("SELECT RANDOM ( ) AS n", "random() is not deterministic"),
        ('SELECT "random"() AS n', "random() is not deterministic"),
        ("INSERT INTO setting (name) VALUES (hex(randomblob(8)))", "randomblob() is not allowed"),
        ("SELECT datetime('now') AS t", "datetime() is not allowed"),
        ("SELECT date() AS t", "date() is not allowed"),
        ("SELECT unixepoch() AS t", "unixepoch() is not allowed"),
        ("SELECT strftime('%s', ?) AS t", "strftime() is not allowed"),
        ("SELECT julianday(?) AS t", "julianday() is not allowed"),
        ("SELECT time('now') AS t", "time() is not allowed"),
        ("SELECT current_timestamp AS t", "CURRENT_TIMESTAMP is not allowed"),
        ("UPDATE setting SET value = CURRENT_DATE", "CURRENT_DATE is not allowed"),
        ("UPDATE setting SET value = current_time", "CURRENT_TIME is not allowed"),
        ("SELECT last_insert_rowid() AS id", "last_insert_rowid() is not allowed"),
        ("SELECT changes() AS n", "changes() is not deterministic"),
        ("SELECT total_changes() AS n", "total_changes() is not allowed"),
        ("BEGIN", "BEGIN is not allowed"),
        ("BEGIN IMMEDIATE", "transaction control is not allowed"),
        ("COMMIT", "COMMIT is not allowed"),
        ("END", "END is not allowed"),
        ("ROLLBACK", "ROLLBACK is not allowed"),
        ("INSERT OR ROLLBACK INTO txn_guard (ok) VALUES (1)", "ROLLBACK is not allowed"),
        ("SAVEPOINT a", "SAVEPOINT is not allowed"),
        ("RELEASE a", "RELEASE is not allowed"),
        ("PRAGMA foreign_keys = OFF", "PRAGMA is not allowed"),
        ("SELECT * FROM pragma_table_info('agent')", "pragma_table_info is not allowed"),
        ("ATTACH ':memory:' AS other", "ATTACH is not allowed"),
        ("DETACH other", "DETACH is not allowed"),
        ("VACUUM", "VACUUM is not allowed"),
        ("CREATE TABLE a (n INTEGER PRIMARY KEY AUTOINCREMENT)", "AUTOINCREMENT is not allowed"),
        ("CREATE TEMP TABLE a (n INTEGER) STRICT", "a temporary object is not allowed"),
        ("CREATE TABLE a (n TEXT DEFAULT (datetime('now')))", "datetime() is not allowed"),
        ("DELETE FROM agent RETURNING id", "RETURNING is not allowed"),
        ("SELECT nmae FROM agent", "no such column: nmae"),
        ("SELECT name FROM agnet", "no such table: agnet"),
        ("SELEKT name FROM agent", 'near "SELEKT": syntax error'),
        ("SELECT name FROM agent;", "one statement at a time"),
        ("SELECT name FROM agent; DELETE FROM agent", "one statement at a time"),
        ("", "a statement is empty"),
    ],
)
def test_the_rule_catches(migrated: Judge, sql: str, complaint: str) -> None:
    assert any(complaint in found for found in migrated.complaints(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'random() RETURNING now' AS text -- random() PRAGMA",
        "SELECT count(*) AS n, max(fence) AS top, coalesce(sum(fence), 0) AS s FROM target_fence",
        'SELECT fence AS "date" FROM target_fence',
        "SELECT json_extract(value, '$.a') AS a, lower(name) AS b FROM setting WHERE name LIKE ?",
        "WITH a (n) AS (SELECT 1) INSERT INTO txn_guard (ok) SELECT n FROM a",
    ],
)
def test_the_rule_lets_pass(migrated: Judge, sql: str) -> None:
    assert migrated.complaints(sql) == []


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("CREATE TABLE a (n INTEGER)", "a is not STRICT"),
        ("CREATE TABLE a (n REAL) STRICT", "a.n is REAL"),
        ("CREATE TABLE a (n BLOB) STRICT", "a.n is BLOB"),
        ('CREATE TABLE a (n INTEGER DEFAULT ("random"())) STRICT', "a.n: its default is no lit"),
        (
            "CREATE TABLE a (n INTEGER) STRICT; CREATE TRIGGER t AFTER UPDATE ON a"
            ' BEGIN DELETE FROM a WHERE n = "changes"(); END',
            "changes() is not deterministic",
        ),
    ],
)
def test_the_rule_looks_into_tables(judge: Judge, table: str, complaint: str) -> None:
    for statement in parse_migration("0001_a.sql", f"{table};").statements:
        judge.apply(statement.sql)
    assert any(complaint in found for found in judge.schema_complaints())


@pytest.mark.parametrize(
    "source",
    [
        "def f(n): return Statement(f'SELECT {n}')",
        "def f(n): return Statement('SELECT ' + n)",
        "def f(n): return Statement('SELECT %s' % n)",
        "def f(n): return Statement('SELECT {}'.format(n))",
        "def f(n): return Statement(n)",
        "def f(n): return Statement(sql=n, parameters=())",
        "def f(n): return base.Statement(n)",
        "async def f(n): return [Statement(sql) for sql in n]",
        "def f(n): return Statement('SELECT 1' if n else n)",
        "text = 'SELECT 1'\ndef f(): return Statement(text)",
        "A = 'SELECT 1'\ndef f(n): return Statement(A + n)",
        "A = input()\ndef f(): return Statement(A)",
        "def f(A): return Statement(A)",
    ],
)
def test_the_rule_catches_texts_that_are_built(source: str) -> None:
    assert [(found.where, found.sql) for found in collect(source, "a.py")] == [("a.py:f", None)]


def test_the_rule_catches_another_name_for_a_statement() -> None:
    (found,) = collect("from appliance.store.base import Statement as S", "a.py")
    assert found.where == "a.py:1 import as S"
    assert found.sql is None


def test_texts_made_of_literals_are_put_together() -> None:
    source = """
_FROM = 'SELECT a' ' FROM b'
_ONE: Final = _FROM + ' LIMIT 1'
X = Statement('SELECT 1' ' AS n')
Y = base.Statement(sql=_ONE)
Z = Statement(_FROM if Y else _ONE, (1,))
"""
    assert [found.sql for found in collect(source, "a.py")] == [
        "SELECT 1 AS n", "SELECT a FROM b LIMIT 1", "SELECT a FROM b", "SELECT a FROM b LIMIT 1",
    ]  # fmt: skip
