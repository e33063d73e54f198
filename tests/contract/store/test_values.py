from enum import StrEnum

import pytest

from appliance.core.errors import Invalid
from appliance.store.base import SqlValue, Statement, Store
from appliance.store.statements import MAX_TEXT
from tests.contract.store.rows import add_team, team_names


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    "value",
    [
        "", "plain", "it's", "a\nb\r\n\t", "100%_?:@$\\", "München 東京 🏄 e\u0301", "\ufeff\u202e",
        "\x01\x7f\x80", '{"n": 1.0}', "x" * 1_000_000,
        0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), None,
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
async def test_a_value_comes_back_as_it_went(store: Store, value: SqlValue) -> None:
    column = "size" if isinstance(value, int) else "note"
    # The CHECK of the table wants no negative size.
    stored = value if not isinstance(value, int) or value >= 0 else None
    if stored is not None:
        await store.batch([
            add_team("a"),
            Statement(f"UPDATE team SET {column} = ?", (stored,)),
        ])  # fmt: skip
        rows = await store.query(Statement(f"SELECT {column} AS value FROM team"))
        assert rows == [{"value": stored}]
    (row,) = await store.query(Statement("SELECT ? AS value", (value,)))
    assert row == {"value": value}
    assert type(row["value"]) is type(value)


@pytest.mark.parametrize(
    ("given", "stored"), [(True, 1), (False, 0), (Colour.RED, "red")], ids=repr
)
async def test_booleans_and_enums_are_stored_plain(
    store: Store, given: SqlValue, stored: SqlValue
) -> None:
    (row,) = await store.query(Statement("SELECT ? AS value", (given,)))
    assert row == {"value": stored}
    assert type(row["value"]) is type(stored)


@pytest.mark.parametrize(
    "value",
    [
        2**63, -(2**63) - 1, 10**40, 1.0, float("nan"), b"bytes", [1], (1,), {"a": 1}, object(),
        "nul \0 inside", "\ud800", "half \udfff pair", "x" * (MAX_TEXT + 1),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
async def test_refuses_values_that_would_not_survive(store: Store, value: SqlValue) -> None:
    with pytest.raises(Invalid):
        await store.query(Statement("SELECT ? AS value", (value,)))
    with pytest.raises(Invalid):
        await store.batch([add_team("a"), Statement("UPDATE team SET note = ?", (value,))])
    assert await team_names(store) == []


async def test_text_is_compared_by_code_point_and_never_folded(store: Store) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    await store.batch([add_team(name) for name in (composed, decomposed, "CAFE", "cafe")])
    assert await team_names(store) == sorted([composed, decomposed, "CAFE", "cafe"])
