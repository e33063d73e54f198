import pytest

from appliance.core.errors import KowabungaError, NotFound
from appliance.store.base import Consistency, Statement, Store, fetch, fetch_one
from tests.contract.store.rows import Team, add_team


async def test_rows_are_keyed_by_column_name_in_their_order(store: Store) -> None:
    await store.batch([add_team("b", size=2), add_team("a", size=1)])
    rows = await store.query(Statement("SELECT name, size AS people FROM team ORDER BY size"))
    assert rows == [{"name": "a", "people": 1}, {"name": "b", "people": 2}]
    assert [list(row) for row in rows] == [["name", "people"]] * 2


async def test_no_row_is_an_empty_list(store: Store) -> None:
    assert await store.query(Statement("SELECT name FROM team")) == []


@pytest.mark.parametrize("consistency", Consistency)
async def test_every_consistency_is_answered(store: Store, consistency: Consistency) -> None:
    assert await store.query(Statement("SELECT 1 AS one"), consistency) == [{"one": 1}]


@pytest.mark.parametrize("consistency", [Consistency.WEAK, Consistency.LINEARIZABLE])
async def test_reads_what_was_just_written(store: Store, consistency: Consistency) -> None:
    for number in range(50):
        await store.batch([add_team(f"{number}")])
        (row,) = await store.query(Statement("SELECT count(*) AS n FROM team"), consistency)
        assert row == {"n": number + 1}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS n",
        "  -- a comment; with a semicolon\n SELECT 1 AS n",
        "VALUES (1)",
        "WITH one (n) AS (SELECT 1) SELECT n FROM one",
        "WITH one (n) AS (SELECT 1) VALUES (1)",
        "select ';' as semicolon",
    ],
)
async def test_accepts_queries(store: Store, sql: str) -> None:
    assert len(await store.query(Statement(sql))) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO team (id, name) VALUES ('a', 'a')",
        "/* SELECT */ DELETE FROM team",
        "WITH x (n) AS (SELECT 1) DELETE FROM team",
        "WITH x (n) AS (SELECT 1)",
        "UPDATE team SET size = 1 RETURNING id",
        "SELECT 1 AS n; DELETE FROM team",
        "CREATE TABLE more (n INTEGER) STRICT",
        "PRAGMA user_version",
        "PRAGMA foreign_keys = OFF",
        "BEGIN",
        "COMMIT",
        "ATTACH ':memory:' AS other",
        "EXPLAIN SELECT 1",
        "",
        "-- nothing",
        "SELECT 'é' AS literal",
        "SELECT name, id AS name FROM team",
        "SELECT nothing FROM team",
        "SELECT FROM WHERE",
        "SELECT sum(9223372036854775807) FROM team, member, badge WHERE missing = 1",
    ],
)
async def test_refuses_what_is_no_query_as_our_own_fault(store: Store, sql: str) -> None:
    await store.batch([add_team("kept")])
    with pytest.raises(KowabungaError) as refused:
        await store.query(Statement(sql))
    assert refused.value.code == "internal"
    assert await store.query(Statement("SELECT name FROM team")) == [{"name": "kept"}]


@pytest.mark.parametrize("parameters", [(), (1, 2)])
async def test_refuses_a_wrong_number_of_values(store: Store, parameters: tuple[int, ...]) -> None:
    with pytest.raises(KowabungaError, match="1 placeholders"):
        await store.query(Statement("SELECT ? AS n", parameters))


async def test_a_question_mark_in_a_text_or_comment_is_no_placeholder(store: Store) -> None:
    sql = "SELECT '?' AS \"a?\", ? AS b -- or is it?"
    assert await store.query(Statement(sql, (1,))) == [{"a?": "?", "b": 1}]


async def test_an_error_at_run_time_leaves_the_store_usable(store: Store) -> None:
    with pytest.raises(KowabungaError, match="integer overflow"):
        await store.query(Statement("SELECT abs(?) AS n", (-(2**63),)))
    assert await store.query(Statement("SELECT 1 AS n")) == [{"n": 1}]


async def test_fetch_converts_rows_to_structs(store: Store) -> None:
    await store.batch([add_team("a", size=3)])
    sql = "SELECT id, name, size, note IS NULL AS bare FROM team"
    assert await fetch(store, Team, Statement(sql)) == [Team("a", "a", 3, bare=True)]
    assert await fetch_one(store, Team, Statement(sql), "team a") == Team("a", "a", 3, bare=True)


async def test_fetch_one_names_what_is_missing(store: Store) -> None:
    nothing = Statement("SELECT id, name, size, 1 AS bare FROM team")
    with pytest.raises(NotFound, match="team 7 does not exist"):
        await fetch_one(store, Team, nothing, "team 7")
