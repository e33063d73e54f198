"""The cluster's own row: its id, and the epoch that orders commands across a restored backup."""

from typing import Final

import msgspec

from appliance.core.clock import Clock
from appliance.core.ids import IdFactory, new_id
from appliance.store.base import Consistency, Statement, Store, fetch_one

# What has ids of the time of its making, and is listed or chosen in their order.
_NEWEST: Final = Statement(
    "SELECT max(id) AS id FROM region"
    " UNION ALL SELECT max(id) FROM zone"
    " UNION ALL SELECT max(id) FROM agent"
    " UNION ALL SELECT max(id) FROM kiwi"
    " UNION ALL SELECT max(id) FROM kaktus"
    " UNION ALL SELECT max(id) FROM vnet"
    " UNION ALL SELECT max(id) FROM subnet"
    " UNION ALL SELECT max(id) FROM storage_pool"
    " UNION ALL SELECT max(id) FROM template"
    " UNION ALL SELECT max(id) FROM team"
    " UNION ALL SELECT max(id) FROM project"
    " UNION ALL SELECT max(id) FROM volume"
    " UNION ALL SELECT max(id) FROM adapter"
    " UNION ALL SELECT max(id) FROM instance"
    " UNION ALL SELECT max(id) FROM kompute"
    " UNION ALL SELECT max(id) FROM operation"
)
RAISE_EPOCH = Statement("UPDATE cluster SET epoch = epoch + 1")


class Cluster(msgspec.Struct, frozen=True):
    id: str
    epoch: int


async def ensure_cluster(store: Store, clock: Clock) -> Cluster:
    """Return the cluster, founding it on the very first start; of two founders one wins."""
    await store.batch(
        [
            Statement(
                "INSERT INTO cluster (singleton, id, epoch, created_at_ms) VALUES (1, ?, 1, ?)"
                " ON CONFLICT (singleton) DO NOTHING",
                (new_id(), clock.now_ms()),
            )
        ]
    )
    return await get_cluster(store)


async def get_cluster(store: Store) -> Cluster:
    """Return the cluster.

    Raises:
        NotFound: nobody has founded it yet.
    """
    statement = Statement("SELECT id, epoch FROM cluster")
    return await fetch_one(store, Cluster, statement, "the cluster", Consistency.LINEARIZABLE)


async def keep_order(store: Store, ids: IdFactory = new_id) -> None:
    """Let new ids come after all that are there, whatever the clock says by now."""
    for row in await store.query(_NEWEST, Consistency.LINEARIZABLE):
        if row["id"] is not None:
            ids.follow(str(row["id"]))


async def raise_epoch(store: Store) -> Cluster:
    """Make every fence given out before now lower than those that follow.

    For whoever restores a backup: commands of the lost future must not win over new ones.
    """
    await store.batch([RAISE_EPOCH])
    return await get_cluster(store)
