"""The data keys of the cluster: files here, wraps in the database, and never a row in clear.

Each data key is a 0600 file on every member, and is wrapped in the database to the node key of
each member, so that a member with nothing but its node key can get it. The id of a key is taken
from its content: a file or a wrap that holds another key is noticed and refused.

Out of reach of this design: who can write the database can make a key of his own the active one,
just as he can insert an API key of his own. Who can only read it learns nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from appliance.core import crypto
from appliance.core.clock import Clock
from appliance.core.errors import Conflict, Corrupt, NotFound, Stale, Unavailable
from appliance.services.key_files import DataKey, KeyFiles, data_key_of
from appliance.services.node_identity import NodeIdentity, NodePublic
from appliance.store.base import Consistency, Statement, Store, guard

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
PURGE_PERIOD_S: Final = 600.0
_ATTEMPTS: Final = 5  # each lost one means that a member joined or a key was rotated meanwhile

_ACTIVE: Final = Statement("SELECT id FROM data_key WHERE state = 'active'")
# Holds between any two batches: both making a key and admitting a member see to it.
_EVERY_MEMBER_HAS_EVERY_KEY: Final = Statement(
    "SELECT NOT EXISTS (SELECT 1 FROM data_key CROSS JOIN node WHERE NOT EXISTS ("
    "SELECT 1 FROM data_key_wrap WHERE data_key_id = data_key.id AND node_id = node.id))"
)


class Keyring:
    """The data keys as this node can use them; open it once before use."""

    def __init__(self, store: Store, files: KeyFiles, node: NodeIdentity, clock: Clock) -> None:
        self._store = store
        self._files = files
        self._node = node
        self._clock = clock
        self._known: dict[str, DataKey] = {}

    async def open(self, node_name: str) -> None:
        """Make this node a member if the cluster is new, and see that an active key exists.

        Idempotent. Also deletes the files of keys that were retired while this node was away.

        Raises:
            NotFound: the cluster has keys that this node cannot get.
            Conflict: another node has this name.
        """
        self._files.prepare()
        await self.admit(self._node.public(), node_name)
        await self.replace_active(None)
        await self.active()
        await self.purge_retired()

    async def active(self) -> DataKey:
        """Return the key that new secrets are sealed with.

        Raises:
            NotFound: there is none, or this node cannot get it.
        """
        active = await self._active_id()
        if active is None:
            raise NotFound("the cluster has no data key yet")
        return await self.get(active)

    async def get(self, key_id: str) -> DataKey:
        """Return a key from memory, from its file, or by unwrapping it with the node key.

        Raises:
            NotFound: it is retired, or was never wrapped to this node.
            Corrupt: the file or the wrap holds something else.
            Forbidden: others may read the file.
        """
        known = self._known.get(key_id)
        if known is None:
            known = self._files.find(key_id) or await self._unwrap(key_id)
            self._files.promote(key_id)
            self._known[key_id] = known
        return known

    async def all(self) -> list[DataKey]:
        """Return every key that is in use."""
        rows = await self._store.query(
            Statement("SELECT id FROM data_key ORDER BY id"), Consistency.LINEARIZABLE
        )
        return [await self.get(str(row["id"])) for row in rows]

    def keep(self, keys: Iterable[DataKey]) -> None:
        """Write the files of keys that came from elsewhere."""
        self._files.prepare()
        for key in keys:
            self._files.add(key)

    async def admit(self, node: NodePublic, name: str, *, beside: Sequence[Statement] = ()) -> None:
        """Make a node a member: its row, and every data key wrapped to it, in one batch.

        Idempotent; a member may change its name. `beside` goes first in the same batch.

        Raises:
            Conflict: the name is another node's, or the id is that of another key pair.
            NotFound: this node cannot get all the keys itself.
        """
        for _ in range(_ATTEMPTS):
            keys = await self.all()
            try:
                await self._store.batch(
                    [
                        *beside,
                        Statement(
                            "INSERT INTO node (id, name, signing_key, sealing_key, created_at_ms)"
                            " VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
                            " SET name = excluded.name",
                            (
                                node.id,
                                name,
                                node.signing_key,
                                node.sealing_key,
                                self._clock.now_ms(),
                            ),
                        ),
                        *guard(
                            Statement(
                                "SELECT EXISTS (SELECT 1 FROM node"
                                " WHERE id = ? AND signing_key = ? AND sealing_key = ?)",
                                (node.id, node.signing_key, node.sealing_key),
                            )
                        ),
                        *[_wrap(key, node.id, node.sealing_key) for key in keys],
                        *guard(_EVERY_MEMBER_HAS_EVERY_KEY),
                    ]
                )
            except Stale:
                await self._refuse_other_keys(node)
            except Conflict as taken:
                if taken.context.get("constraint") == "foreign_key":
                    continue  # a key was retired since we listed them
                raise Conflict(
                    f"cannot admit node {name!r}: its name or key belongs to another node",
                    hint="choose another name; if this machine replaces that node, import the"
                    " recovery export",
                    name=name,
                ) from taken
            else:
                return
        raise Unavailable(f"data keys kept changing while node {name!r} was admitted")

    async def replace_active(self, old_id: str | None) -> None:
        """Put a new key in place of `old_id`, which becomes retiring; None: of no key at all.

        Idempotent: does nothing when `old_id` is not active (any more). A crash at any point
        leaves either the old key active, with a file that the next attempt takes up, or the new.
        """
        for _ in range(_ATTEMPTS):
            if await self._active_id() != old_id:
                return
            await self._activate(old_id)
        if await self._active_id() == old_id:
            raise Unavailable("members kept joining while a data key was made")

    async def retire_unused(self) -> list[str]:
        """Forget, for good, the retiring keys that seal nothing; return those that still do.

        Idempotent. The row goes before the file: a file without a use is the lesser evil.
        """
        rows = await self._store.query(
            Statement("SELECT id FROM data_key WHERE state = 'retiring' ORDER BY id"),
            Consistency.LINEARIZABLE,
        )
        in_use: list[str] = []
        for key_id in [str(row["id"]) for row in rows]:
            try:
                await self._store.batch(
                    [
                        Statement(
                            "INSERT INTO data_key_retired (id, retired_at_ms)"
                            " SELECT id, ? FROM data_key WHERE id = ?",
                            (self._clock.now_ms(), key_id),
                        ),
                        Statement("DELETE FROM data_key WHERE id = ?", (key_id,)),
                    ]
                )
            except Conflict:  # the foreign key: some secret is sealed with it
                in_use.append(key_id)
        await self.purge_retired()
        return in_use

    async def keep_purged(self) -> None:
        """Delete, from time to time, the files of keys that another member has retired."""
        while True:
            await self.purge_retired()
            await self._clock.sleep(PURGE_PERIOD_S)

    async def purge_retired(self) -> None:
        """Delete the files of retired keys on this member."""
        rows = await self._store.query(Statement("SELECT id FROM data_key_retired"))
        retired = {str(row["id"]) for row in rows}
        for key_id in retired & self._known.keys():
            del self._known[key_id]
        for key_id in sorted(retired & self._files.ids()):
            self._files.remove(key_id)
            _log.info("data_key_file_removed", data_key=key_id)

    async def _active_id(self) -> str | None:
        rows = await self._store.query(_ACTIVE, Consistency.LINEARIZABLE)
        return str(rows[0]["id"]) if rows else None

    async def _activate(self, old_id: str | None) -> None:
        """Try once to put our pending key in place of `old_id`; losing to another is fine."""
        await self.purge_retired()
        fresh = self._files.pending()
        nodes = await self._store.query(
            Statement("SELECT id, sealing_key FROM node"), Consistency.LINEARIZABLE
        )
        try:
            await self._store.batch(
                [
                    *guard(
                        Statement(
                            "SELECT (SELECT max(id) FROM data_key WHERE state = 'active') IS ?",
                            (old_id,),
                        )
                    ),
                    Statement("UPDATE data_key SET state = 'retiring' WHERE state = 'active'"),
                    Statement(
                        "INSERT INTO data_key (id, state, created_at_ms) VALUES (?, 'active', ?)",
                        (fresh.id, self._clock.now_ms()),
                    ),
                    *[_wrap(fresh, str(row["id"]), str(row["sealing_key"])) for row in nodes],
                    *guard(_EVERY_MEMBER_HAS_EVERY_KEY),
                ]
            )
        except (Stale, Conflict):
            # A member joined, or another was faster; or an earlier attempt, whose answer was
            # lost, had reached the database with this very key. Our caller looks again.
            if not await self._is_known(fresh.id):
                return
        self._files.promote(fresh.id)

    async def _is_known(self, key_id: str) -> bool:
        rows = await self._store.query(
            Statement("SELECT 1 AS known FROM data_key WHERE id = ?", (key_id,)),
            Consistency.LINEARIZABLE,
        )
        return bool(rows)

    async def _unwrap(self, key_id: str) -> DataKey:
        rows = await self._store.query(
            Statement(
                "SELECT wrapped FROM data_key_wrap WHERE data_key_id = ? AND node_id = ?",
                (key_id, self._node.id),
            ),
            Consistency.LINEARIZABLE,
        )
        if not rows:
            raise NotFound(
                f"this node cannot get data key {key_id}",
                hint="import the recovery export here, or have a member admit this node",
                id=key_id,
            )
        content = crypto.unwrap(
            crypto.from_base64(str(rows[0]["wrapped"])),
            self._node.sealing_key.reveal(),
            _wrap_context(key_id, self._node.id),
        )
        key = data_key_of(content)
        if key.id != key_id:
            raise Corrupt(f"what was wrapped to this node as data key {key_id} is another key")
        self._files.add(key)
        return key

    async def _refuse_other_keys(self, node: NodePublic) -> None:
        rows = await self._store.query(
            Statement("SELECT signing_key, sealing_key FROM node WHERE id = ?", (node.id,)),
            Consistency.LINEARIZABLE,
        )
        keys = [(row["signing_key"], row["sealing_key"]) for row in rows]
        if keys and keys[0] != (node.signing_key, node.sealing_key):
            raise Conflict(
                f"node {node.id} is already known with another key pair",
                hint="bring the node key back, or let the node start with a new one",
                id=node.id,
            )


def _wrap(key: DataKey, node_id: str, sealing_key: str) -> Statement:
    wrapped = crypto.wrap(
        key.key.reveal(), crypto.from_base64(sealing_key), _wrap_context(key.id, node_id)
    )
    return Statement(
        "INSERT INTO data_key_wrap (data_key_id, node_id, wrapped) VALUES (?, ?, ?)"
        " ON CONFLICT (data_key_id, node_id) DO NOTHING",
        (key.id, node_id, crypto.to_base64(wrapped)),
    )


def _wrap_context(key_id: str, node_id: str) -> bytes:
    return crypto.context_of("data key", key_id, node_id)
