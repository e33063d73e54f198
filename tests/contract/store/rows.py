"""Rows that the suite writes and reads."""

import msgspec

from appliance.store.base import Statement, Store


class Team(msgspec.Struct):
    id: str
    name: str
    size: int
    bare: bool


def add_team(name: str, *, size: int = 0, note: str | None = None) -> Statement:
    return Statement(
        "INSERT INTO team (id, name, size, note) VALUES (?, ?, ?, ?)", (name, name, size, note)
    )


async def team_names(store: Store) -> list[str]:
    return [str(row["name"]) for row in await store.query(Statement(
        "SELECT name FROM team ORDER BY name"
    ))]  # fmt: skip
