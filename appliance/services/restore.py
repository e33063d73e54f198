"""A backup made the state of a cluster again: what changes in it, and what it lacks.

Works on the files of a Kahuna that is stopped. Nodes are told nothing: agents take what comes, as
it comes under a higher epoch, and reconciliation reports what the restored rows do not know.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from appliance.core.clock import Clock
from appliance.services.cluster import get_cluster
from appliance.services.key_files import KeyFiles
from appliance.services.node_identity import ensure_node_identity
from appliance.store import backup
from appliance.store.base import Consistency, Statement, Store
from appliance.store.sqlite import SqliteStore

_LIMIT_S: Final = 3600.0


class Restored(msgspec.Struct, frozen=True):
    """What has become the state.

    Attributes:
        unfinished: how many operations it goes on with.
        lacking_keys: data keys that this node cannot get: it needs the recovery export.
    """

    cluster_id: str
    epoch: int
    instances: int
    unfinished: int
    lacking_keys: tuple[str, ...]


async def restore(file: Path, database: Path, clock: Clock) -> Restored:
    """Put a backup in the place of the database, under an epoch that no agent has seen.

    Raises:
        NotFound: there is no such backup.
        Conflict: a Kahuna runs on the database, or the backup is of a newer release.
        Corrupt: the backup is no database of ours, or damaged.
        Unavailable: the disk is full, or a file cannot be used.
    """
    replaced = _epoch_of(database)
    with backup.restoring(file, database) as new:
        store = await SqliteStore.open(new, clock=clock, statement_limit_s=_LIMIT_S)
        try:
            # The same backup may be restored twice, each time where nothing is left of the last:
            # the clock orders these too.
            least = max(replaced, clock.now_ms())
            await store.batch(
                [Statement("UPDATE cluster SET epoch = max(epoch + 1, ?)", (least + 1,))]
            )
            restored = await _describe(store, database.parent / "keys")
        finally:
            await store.close()
    return restored


def _epoch_of(database: Path) -> int:
    """Return the epoch of what is to be replaced; 0 if it cannot be read any more.

    Without its log, which must stay as it is: what raised an epoch was closed in an orderly way.
    """
    uri = f"{database.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as old:
            return int(old.execute("SELECT epoch FROM cluster").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return 0


async def _describe(store: Store, keys: Path) -> Restored:
    cluster = await get_cluster(store)
    (counted,) = await store.query(
        Statement(
            "SELECT (SELECT count(*) FROM instance) AS instances,"
            " (SELECT count(*) FROM operation WHERE finished_at_ms IS NULL) AS unfinished"
        ),
        Consistency.LINEARIZABLE,
    )
    return Restored(
        cluster_id=cluster.id,
        epoch=cluster.epoch,
        instances=int(counted["instances"] or 0),
        unfinished=int(counted["unfinished"] or 0),
        lacking_keys=tuple(await _list_lacking(store, keys)),
    )


async def _list_lacking(store: Store, keys: Path) -> list[str]:
    """Return the data keys that are neither here nor wrapped to this node."""
    is_known = (keys / "node.key").exists()
    node_id = ensure_node_identity(keys).id if is_known else ""
    rows = await store.query(
        Statement(
            "SELECT id, EXISTS (SELECT 1 FROM data_key_wrap WHERE data_key_id = data_key.id"
            " AND node_id = ?) AS wrapped FROM data_key ORDER BY id",
            (node_id,),
        ),
        Consistency.LINEARIZABLE,
    )
    files = KeyFiles(keys / "data")
    return [str(r["id"]) for r in rows if not r["wrapped"] and files.find(str(r["id"])) is None]
