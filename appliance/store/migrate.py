"""Bring a store to this program's schema: numbered files, forward only, one batch each.

Knows the Store protocol only, so every implementation shares it. A migration cannot rebuild a
table that others refer to: DROP TABLE deletes its rows first, and their children by cascade.
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

import msgspec
import structlog

from appliance.core.clock import Clock
from appliance.core.errors import Conflict, KowabungaError
from appliance.store.base import Consistency, Statement, Store, fetch
from appliance.store.statements import tokens

_FILE_NAME: Final = re.compile(r"(?P<number>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sha256: str
    statements: tuple[Statement, ...]


class _Applied(msgspec.Struct, frozen=True):
    number: int
    name: str
    sha256: str


def parse_migration(file_name: str, text: str) -> Migration:
    """Read one file: `0001_cluster.sql` and its statements, each ended by a semicolon."""
    named = _FILE_NAME.fullmatch(file_name)
    if named is None:
        raise KowabungaError(f"{file_name} is not named like 0001_cluster.sql")
    statements = tuple(Statement(sql) for sql in _split(file_name, text))
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return Migration(int(named["number"]), named["name"], checksum, statements)


def shipped_migrations() -> tuple[Migration, ...]:
    """Return the migrations of this program in their order."""
    folder = resources.files("appliance.store").joinpath("migrations")
    found = [parse_migration(file.name, file.read_text("utf-8")) for file in folder.iterdir()]
    return tuple(sorted(found, key=lambda migration: migration.number))


async def migrate(
    store: Store, *, clock: Clock, migrations: Sequence[Migration] | None = None
) -> None:
    """Apply what is missing. Harmless to repeat, to interrupt anywhere, and to race.

    Raises:
        Conflict: the store is newer than this program, or an applied migration has changed.
    """
    ours = shipped_migrations() if migrations is None else migrations
    applied = await _list_applied(store)
    _refuse_unless_prefix(applied, ours)
    for migration in ours[len(applied) :]:
        try:
            await store.batch([*migration.statements, _record(migration, clock.now_ms())])
        except KowabungaError:
            # Another process may have been quicker: then its tables and its row stood in our way.
            applied = await _list_applied(store)
            _refuse_unless_prefix(applied, ours)
            if len(applied) < migration.number:
                raise
        _log.info("schema_migrated", number=migration.number, name=migration.name)


async def _list_applied(store: Store) -> list[_Applied]:
    tables = await store.query(
        Statement(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'schema_migration'"
        ),
        Consistency.LINEARIZABLE,
    )
    if not tables:
        return []
    return await fetch(
        store,
        _Applied,
        Statement("SELECT number, name, sha256 FROM schema_migration ORDER BY number"),
        Consistency.LINEARIZABLE,
    )


def _refuse_unless_prefix(applied: Sequence[_Applied], ours: Sequence[Migration]) -> None:
    if len(applied) > len(ours):
        raise Conflict(
            f"the state has schema {applied[-1].number}, this program knows only {len(ours)}",
            hint="run the newer program, or restore the backup that was made before its upgrade",
            schema=applied[-1].number,
            known=len(ours),
        )
    for theirs, migration in zip(applied, ours, strict=False):
        if theirs != _Applied(migration.number, migration.name, migration.sha256):
            raise Conflict(
                f"schema {theirs.number} ({theirs.name}) was not made by this program's"
                f" migration {migration.number} ({migration.name})",
                hint="an applied migration never changes: run the program that made this state",
                schema=theirs.number,
            )


def _record(migration: Migration, now_ms: int) -> Statement:
    return Statement(
        "INSERT INTO schema_migration (number, name, sha256, applied_at_ms) VALUES (?, ?, ?, ?)",
        (migration.number, migration.name, migration.sha256, now_ms),
    )


def _split(file_name: str, text: str) -> Iterator[str]:
    *ended, rest = text.split(";")
    pending = ""
    for piece in ended:
        pending += piece + ";"
        if sqlite3.complete_statement(pending):
            sql = pending.strip().removesuffix(";")
            pending = ""
            if any(tokens(sql)):
                yield sql
    if any(tokens(pending + rest)):
        raise KowabungaError(f"{file_name} ends within a statement")
