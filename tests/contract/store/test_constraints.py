"""Every kind of constraint, told apart in the error's context."""

import pytest

from appliance.core.errors import Conflict
from appliance.store.base import Statement, Store
from tests.contract.store.rows import add_team

_SET_UP = (
    add_team("a"),
    add_team("b"),
    Statement("INSERT INTO member (team_id, number) VALUES ('a', 1)"),
    Statement("INSERT INTO badge (team_id, colour) VALUES ('b', 'Red')"),
)


@pytest.mark.parametrize(
    ("sql", "constraint", "columns"),
    [
        ("INSERT INTO team (id, name) VALUES ('c', 'a')", "unique", "team.name"),
        ("INSERT INTO team (id, name) VALUES ('a', 'c')", "unique", "team.id"),
        ("UPDATE team SET name = 'b' WHERE id = 'a'", "unique", "team.name"),
        (
            "INSERT INTO member (team_id, number) VALUES ('a', 1)",
            "unique",
            "member.team_id, member.number",
        ),
        ("INSERT INTO badge (team_id, colour) VALUES ('a', 'RED')", "unique", None),
        ("INSERT INTO team (id, name) VALUES ('c', NULL)", "not_null", "team.name"),
        ("UPDATE team SET size = -1", "check", None),
        ("UPDATE team SET note = 'n', size = 1000", "check", None),
        ("INSERT INTO member (team_id, number) VALUES ('nobody', 1)", "foreign_key", None),
        ("DELETE FROM team WHERE id = 'a'", "foreign_key", None),
        ("UPDATE team SET id = 'z' WHERE id = 'a'", "foreign_key", None),
        ("UPDATE team SET size = 'many'", "datatype", "team.size"),
    ],
)
async def test_a_refusal_names_the_constraint(
    store: Store, sql: str, constraint: str, columns: str | None
) -> None:
    await store.batch(_SET_UP)
    with pytest.raises(Conflict) as refused:
        await store.batch([Statement(sql)])
    assert refused.value.context.get("constraint") == constraint
    assert refused.value.context.get("columns") == columns
    assert type(refused.value) is Conflict


async def test_a_value_is_never_in_the_message(store: Store) -> None:
    secret = "correct-horse-battery"
    add = "INSERT INTO team (id, name) VALUES (?, ?)"
    await store.batch([Statement(add, ("a", secret))])
    with pytest.raises(Conflict) as refused:
        await store.batch([Statement(add, ("b", secret))])
    assert secret not in str(refused.value)
    assert refused.value.detail == "another row has the same team.name"


async def test_a_reference_may_be_broken_until_the_end_of_a_batch_if_declared_so(
    store: Store,
) -> None:
    await store.batch([
        Statement(
            "CREATE TABLE task (id TEXT PRIMARY KEY, team_id TEXT NOT NULL"
            " REFERENCES team (id) DEFERRABLE INITIALLY DEFERRED) STRICT"
        )
    ])  # fmt: skip
    task = Statement("INSERT INTO task (id, team_id) VALUES ('t', 'late')")
    with pytest.raises(Conflict) as refused:
        await store.batch([task])
    assert refused.value.context["constraint"] == "foreign_key"
    assert await store.batch([task, add_team("late")]) == [1, 1]
