"""The one table that the tests of the file and its writer use."""

from typing import Final

from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore

CREATE: Final = Statement("CREATE TABLE pair (name TEXT PRIMARY KEY, filler TEXT) STRICT")


def add(name: str, filler: str = "") -> Statement:
    return Statement("INSERT INTO pair (name, filler) VALUES (?, ?)", (name, filler))


async def names(store: SqliteStore) -> list[str]:
    rows = await store.query(Statement("SELECT name FROM pair ORDER BY name"))
    return [str(row["name"]) for row in rows]
