import pytest

from appliance.core.errors import Conflict, KowabungaError, Stale
from appliance.store.base import Statement, Store, guard, guard_none
from tests.contract.store.conftest import OpenStore
from tests.contract.store.rows import add_team, team_names

_ANY_TEAM = Statement("UPDATE team SET size = size + 1")


async def test_an_empty_batch_does_nothing(store: Store) -> None:
    assert await store.batch([]) == []


async def test_tells_how_many_rows_each_statement_changed(store: Store) -> None:
    counts = await store.batch([
        add_team("a"),
        Statement("INSERT INTO team (id, name) VALUES ('b', 'b'), ('c', 'c')"),
        Statement("INSERT INTO team (id, name) SELECT 'x', 'x' WHERE 1 = 0"),
        Statement("INSERT INTO team (id, name) VALUES ('a', 'a') ON CONFLICT (id) DO NOTHING"),
        Statement("INSERT INTO team (id, name) VALUES ('a', 'a') ON CONFLICT (id)"
                  " DO UPDATE SET size = 5"),
        Statement("REPLACE INTO team (id, name) VALUES ('c', 'c')"),
        Statement("UPDATE team SET note = 'n' WHERE size = 5"),
        Statement("UPDATE team SET note = 'n' WHERE size = 6"),
        Statement("WITH big (id) AS (SELECT id FROM team) UPDATE team SET size = 1"
                  " WHERE id IN (SELECT id FROM big)"),
        Statement("WITH none (id) AS (SELECT 'z') DELETE FROM team"
                  " WHERE id IN (SELECT id FROM none)"),
        Statement("CREATE TABLE later (n INTEGER) STRICT"),
        Statement("CREATE INDEX later_n ON later (n)"),
        Statement("ALTER TABLE later ADD COLUMN m INTEGER"),
        Statement("DROP TABLE later"),
        Statement("DELETE FROM team"),
    ])  # fmt: skip
    assert counts == [1, 2, 0, 0, 1, 1, 1, 0, 3, 0, 0, 0, 0, 0, 3]


async def test_rows_removed_by_a_cascade_are_not_counted(store: Store) -> None:
    await store.batch([
        add_team("a"),
        Statement("INSERT INTO badge (team_id, colour) VALUES ('a', 'red'), ('a', 'blue')"),
    ])  # fmt: skip
    assert await store.batch([Statement("DELETE FROM team")]) == [1]
    assert await store.query(Statement("SELECT count(*) AS n FROM badge")) == [{"n": 0}]


async def test_statements_see_those_before_them(store: Store) -> None:
    copy = Statement("INSERT INTO team (id, name, size) SELECT 'b', 'b', size + 1 FROM team")
    assert await store.batch([add_team("a", size=1), copy, _ANY_TEAM]) == [1, 1, 2]
    rows = await store.query(Statement("SELECT size FROM team ORDER BY id"))
    assert rows == [{"size": 2}, {"size": 3}]


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_a_refused_statement_undoes_the_whole_batch(store: Store, position: int) -> None:
    await store.batch([add_team("taken")])
    batch = [add_team("new"), Statement("DELETE FROM team WHERE id = 'taken' AND size > 5")]
    batch.insert(position, add_team("taken"))
    with pytest.raises(Conflict):
        await store.batch(batch)
    assert await team_names(store) == ["taken"]


async def test_changes_of_the_schema_are_undone_too(store: Store) -> None:
    with pytest.raises(Conflict):
        await store.batch([
            Statement("CREATE TABLE later (n INTEGER) STRICT"),
            Statement("ALTER TABLE team ADD COLUMN colour TEXT"),
            Statement("DROP TABLE badge"),
            add_team("a", size=-1),
        ])  # fmt: skip
    tables = await store.query(
        Statement("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    )
    assert [row["name"] for row in tables] == ["badge", "member", "team", "txn_guard"]
    with pytest.raises(KowabungaError):
        await store.query(Statement("SELECT colour FROM team"))


async def test_a_faulty_statement_undoes_the_batch_and_is_our_own_fault(store: Store) -> None:
    with pytest.raises(KowabungaError) as refused:
        await store.batch([add_team("a"), Statement("UPDATE team SET missing = 1")])
    assert refused.value.code == "internal"
    assert await team_names(store) == []


@pytest.mark.parametrize("kind", ["FAIL", "ABORT", "IGNORE", "REPLACE"])
async def test_a_conflict_clause_does_not_break_atomicity(store: Store, kind: str) -> None:
    await store.batch([add_team("b")])
    insert = Statement(f"INSERT OR {kind} INTO team (id, name) VALUES ('a', 'a'), ('b', 'b')")
    if kind in {"IGNORE", "REPLACE"}:
        await store.batch([insert])
        assert await team_names(store) == ["a", "b"]
    else:
        with pytest.raises(Conflict):
            await store.batch([add_team("c"), insert])
        assert await team_names(store) == ["b"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "VALUES (1)",
        "WITH x (n) AS (SELECT 1) SELECT n FROM x",
        "BEGIN",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT batch",
        "RELEASE batch",
        "ROLLBACK TO batch",
        "PRAGMA foreign_keys = OFF",
        "ATTACH ':memory:' AS other",
        "DETACH other",
        "VACUUM",
        "EXPLAIN DELETE FROM team",
        "INSERT OR ROLLBACK INTO team (id, name) VALUES ('a', 'a')",
        "DELETE FROM team RETURNING id",
        "CREATE TEMP TABLE passing (n INTEGER)",
        "CREATE TEMPORARY VIEW passing AS SELECT 1",
        "DELETE FROM team; DELETE FROM badge",
        "DELETE FROM team;",
        "",
        "/* nothing",
        "UPDATE team SET note = 'é'",
    ],
)
async def test_refuses_what_does_not_belong_into_a_batch(store: Store, sql: str) -> None:
    with pytest.raises(KowabungaError) as refused:
        await store.batch([add_team("a"), Statement(sql)])
    assert refused.value.code == "internal"
    assert await team_names(store) == []
    await store.batch([add_team("a")])


async def test_a_trigger_is_one_statement(store: Store) -> None:
    await store.batch([
        Statement(
            "CREATE TRIGGER count_members AFTER INSERT ON member BEGIN"
            " UPDATE team SET size = size + 1 WHERE id = NEW.team_id; END"
        ),
        add_team("a"),
        Statement("INSERT INTO member (team_id, number) VALUES ('a', 1), ('a', 2)"),
    ])  # fmt: skip
    assert await store.query(Statement("SELECT size FROM team")) == [{"size": 2}]


async def test_a_big_batch_is_one_transaction(store: Store) -> None:
    many = [add_team(f"{number:05}") for number in range(5000)]
    assert await store.batch(many) == [1] * 5000
    with pytest.raises(Conflict):
        await store.batch([*(add_team(f"x{number}") for number in range(5000)), many[0]])
    assert await store.query(Statement("SELECT count(*) AS n FROM team")) == [{"n": 5000}]


async def test_a_condition_that_holds_lets_the_batch_through(store: Store) -> None:
    await store.batch([add_team("a", size=1)])
    check, clear = guard(
        Statement("SELECT EXISTS (SELECT 1 FROM team WHERE id = ? AND size = ?)", ("a", 1))
    )
    assert await store.batch([check, _ANY_TEAM, clear]) == [1, 1, 1]
    assert await store.query(Statement("SELECT ok FROM txn_guard")) == []


@pytest.mark.parametrize(
    "condition",
    [
        "SELECT 0",
        "SELECT 2",
        "SELECT NULL",
        "SELECT EXISTS (SELECT 1 FROM team WHERE size = 7)",
        "SELECT 1 FROM team WHERE size = 7",
        "SELECT max(size) = 1 FROM team WHERE id = 'nobody'",
    ],
)
@pytest.mark.parametrize("first", [True, False])
async def test_a_condition_that_fails_is_stale_and_changes_nothing(
    store: Store, condition: str, *, first: bool
) -> None:
    await store.batch([add_team("a", size=1)])
    check, clear = guard(Statement(condition))
    with pytest.raises(Stale):
        await store.batch([check, _ANY_TEAM, clear] if first else [_ANY_TEAM, check, clear])
    assert await store.query(Statement("SELECT size FROM team")) == [{"size": 1}]
    assert await store.query(Statement("SELECT ok FROM txn_guard")) == []


@pytest.mark.parametrize("offenders", [0, 1, 2])
async def test_a_batch_can_depend_on_a_query_that_finds_nothing(
    store: Store, offenders: int
) -> None:
    await store.batch([add_team("a"), *(add_team(f"x{n}", size=9) for n in range(offenders))])
    check, clear = guard_none(Statement("SELECT name FROM team WHERE size = ?", (9,)))
    if offenders:
        with pytest.raises(Stale):
            await store.batch([check, add_team("b"), clear])
    else:
        assert await store.batch([check, add_team("b"), clear]) == [1, 1, 1]
    assert ("b" in await team_names(store)) == (offenders == 0)
    assert await store.query(Statement("SELECT ok FROM txn_guard")) == []


async def test_a_batch_is_there_after_the_store_was_opened_anew(open_store: OpenStore) -> None:
    async with open_store(()) as store:
        await store.batch([
            Statement("CREATE TABLE note (text TEXT NOT NULL) STRICT"),
            Statement("INSERT INTO note (text) VALUES ('kept')"),
        ])  # fmt: skip
    async with open_store(()) as store:
        assert await store.query(Statement("SELECT text FROM note")) == [{"text": "kept"}]
