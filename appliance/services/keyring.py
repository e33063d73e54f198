"""The data keys of the cluster: files here, wraps in the database, and never a row in clear.

Each data key is a 0600 file on every member, and is wrapped in the database to the node key of
each member, so that a member with nothing but its node key can get it. The id of a key is taken
from its content: a file or a wrap that holds another key is noticed and refused.

Out of reach of this design: who can write the database can make a key of his own the active one,
just as he can insert an API key of his own. Who can only read it learns nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from appliance.core import crypto
from appliance.core.clock import Clock
from appliance.core.errors import Conflict, Corrupt, NotFound, Stale, Unavailable
from appliance.core.files import (
    create_private,
    ensure_private_directory,
    read_private,
    remove_durably,
    sync_directory,
)
from appliance.core.secret import Secret
from appliance.services.node_identity import NodeIdentity, NodePublic
from appliance.store.base import Consistency, Statement, Store, guard

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_KEY: Final = ".key"
_PENDING: Final = ".new"  # durable, but its row may not be: the next attempt takes it up
_ATTEMPTS: Final = 5  # each lost one means that a member joined or a key was rotated meanwhile

_ACTIVE: Final = Statement("SELECT id FROM data_key WHERE state = 'active'")
_EVERY_MEMBER_HAS_EVERY_KEY: Final = Statement(
    "SELECT NOT EXISTS (SELECT 1 FROM data_key CROSS JOIN node WHERE NOT EXISTS ("
    "SELECT 1 FROM data_key_wrap WHERE data_key_id = data_key.id AND node_id = node.id))"
)


@dataclass(frozen=True, slots=True)
class DataKey:
    id: str
    key: Secret


def data_key_of(key: bytes) -> DataKey:
    """Name a key by its content, so that one id can never stand for two keys."""
    return DataKey(crypto.identify_key(key), Secret(key))


class Keyring:
    """The data keys as this node holds them; open it once before use."""

    def __init__(self, store: Store, keys: Path, node: NodeIdentity, clock: Clock) -> None:
        self._store = store
        self._directory = keys / "data"
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
        ensure_private_directory(self._directory)
        await self.admit(self._node.public(), node_name)
        while await self._active_id() is None:
            await self._activate(instead_of=None)
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
            known = self._read(key_id) or await self._unwrap(key_id)
            self._known[key_id] = known
        return known

    async def all(self) -> list[DataKey]:
        """Return every key that is in use."""
        rows = await self._store.query(
            Statement("SELECT id FROM data_key ORDER BY id"), Consistency.LINEARIZABLE
        )
        return [await self.get(str(row["id"])) for row in rows]

    async def admit(self, node: NodePublic, name: str) -> None:
        """Make a node a member: its row, and every data key wrapped to it, in one batch.

        Idempotent; a member may change its name.

        Raises:
            Conflict: the name is another node's, or the id is that of another key pair.
            NotFound: this node does not have all the keys itself.
        """
        for _ in range(_ATTEMPTS):
            try:
                await self._store.batch(
                    [
                        Statement(
                            "INSERT INTO node (id, name, signing_key, sealing_key, created_at_ms)"
                            " VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
                            " SET name = excluded.name",
                            (node.id, name, node.signing_key, node.sealing_key, self._now()),
                        ),
                        *guard(
                            Statement(
                                "SELECT EXISTS (SELECT 1 FROM node"
                                " WHERE id = ? AND signing_key = ? AND sealing_key = ?)",
                                (node.id, node.signing_key, node.sealing_key),
                            )
                        ),
                        *[_wrap(key, node.id, node.sealing_key) for key in await self.all()],
                        *guard(_EVERY_MEMBER_HAS_EVERY_KEY),
                    ]
                )
            except Stale:
                await self._refuse_other_keys(node)
                continue
            except Conflict as taken:
                raise Conflict(
                    f"cannot admit node {name!r}: its name or key belongs to another node",
                    hint="choose another name; if this machine replaces that node, import the"
                    " recovery export",
                    name=name,
                ) from taken
            return
        raise Unavailable(f"data keys kept changing while node {name!r} was admitted")

    async def replace_active(self, old_id: str) -> None:
        """Put a new key in place of `old_id`, which becomes retiring.

        Idempotent: does nothing when `old_id` is not active (any more). A crash at any point
        leaves either the old key active, with a file that the next attempt takes up, or the new.
        """
        while await self._active_id() == old_id:
            await self._activate(instead_of=old_id)

    async def retire(self, key_id: str) -> bool:
        """Forget a retiring key for good; False while a secret is still sealed with it.

        Idempotent. The row goes first: a file without a use is better than the reverse.
        """
        try:
            await self._store.batch(
                [
                    *guard(
                        Statement(
                            "SELECT NOT EXISTS (SELECT 1 FROM data_key"
                            " WHERE id = ? AND state = 'active')",
                            (key_id,),
                        )
                    ),
                    Statement(
                        "INSERT INTO data_key_retired (id, retired_at_ms)"
                        " SELECT id, ? FROM data_key WHERE id = ?",
                        (self._now(), key_id),
                    ),
                    Statement("DELETE FROM data_key WHERE id = ?", (key_id,)),
                ]
            )
        except Conflict:
            return False
        await self.purge_retired()
        return True

    async def purge_retired(self) -> None:
        """Delete the files of retired keys on this member."""
        rows = await self._store.query(Statement("SELECT id FROM data_key_retired"))
        for key_id in sorted(str(row["id"]) for row in rows):
            self._known.pop(key_id, None)
            for suffix in (_KEY, _PENDING):
                if self._path(key_id, suffix).exists():
                    remove_durably(self._path(key_id, suffix))
                    _log.info("data_key_file_removed", data_key=key_id)

    def keep(self, keys: Sequence[DataKey]) -> None:
        """Write the files of keys that came from elsewhere; those that exist must be the same."""
        ensure_private_directory(self._directory)
        for key in keys:
            if self._read(key.id) is None:
                create_private(self._path(key.id), _encode(key))

    async def _active_id(self) -> str | None:
        rows = await self._store.query(_ACTIVE, Consistency.LINEARIZABLE)
        return str(rows[0]["id"]) if rows else None

    async def _activate(self, *, instead_of: str | None) -> None:
        """Try once to make our pending key the active one; losing to another is fine."""
        await self.purge_retired()
        fresh = self._pending()
        nodes = await self._store.query(
            Statement("SELECT id, sealing_key FROM node"), Consistency.LINEARIZABLE
        )
        wraps = [_wrap(fresh, str(row["id"]), str(row["sealing_key"])) for row in nodes]
        try:
            await self._store.batch(
                [
                    *guard(
                        Statement(
                            "SELECT (SELECT max(id) FROM data_key WHERE state = 'active') IS ?",
                            (instead_of,),
                        )
                    ),
                    Statement("UPDATE data_key SET state = 'retiring' WHERE state = 'active'"),
                    Statement(
                        "INSERT INTO data_key (id, state, created_at_ms) VALUES (?, 'active', ?)",
                        (fresh.id, self._now()),
                    ),
                    *wraps,
                    *guard(_EVERY_MEMBER_HAS_EVERY_KEY),
                ]
            )
        except (Stale, Conflict):
            return  # a member joined, or another was faster: the caller looks again
        self._promote(fresh.id)

    def _pending(self) -> DataKey:
        """Return the key of an interrupted attempt, or a new one; durable either way."""
        for path in sorted(self._directory.glob(f"*{_PENDING}")):
            return _decode(path, path.stem)
        fresh = data_key_of(crypto.random_key())
        create_private(self._path(fresh.id, _PENDING), _encode(fresh))
        return fresh

    def _promote(self, key_id: str) -> None:
        self._path(key_id, _PENDING).replace(self._path(key_id))
        sync_directory(self._directory)

    def _read(self, key_id: str) -> DataKey | None:
        path = self._path(key_id)
        if not path.exists():
            if not self._path(key_id, _PENDING).exists():
                return None
            self._promote(key_id)
        return _decode(path, key_id)

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
        create_private(self._path(key_id), _encode(key))
        return key

    async def _refuse_other_keys(self, node: NodePublic) -> None:
        rows = await self._store.query(
            Statement("SELECT name, signing_key, sealing_key FROM node WHERE id = ?", (node.id,)),
            Consistency.LINEARIZABLE,
        )
        keys = [(row["signing_key"], row["sealing_key"]) for row in rows]
        if keys and keys[0] != (node.signing_key, node.sealing_key):
            raise Conflict(
                f"node {node.id} is already known with another key pair",
                hint="bring the node key back, or let the node start with a new one",
                id=node.id,
            )

    def _path(self, key_id: str, suffix: str = _KEY) -> Path:
        return self._directory / f"{key_id}{suffix}"

    def _now(self) -> int:
        return self._clock.now_ms()


def _encode(key: DataKey) -> bytes:
    return crypto.to_base64(key.key.reveal()).encode() + b"\n"


def _decode(path: Path, key_id: str) -> DataKey:
    content = read_private(path)
    try:
        key = data_key_of(crypto.from_base64(content.decode("ascii").strip()))
    except (Corrupt, UnicodeDecodeError):
        raise Corrupt(f"{path} is not a data key", hint="import the recovery export") from None
    if key.id != key_id:
        raise Corrupt(f"{path} holds another data key", hint="import the recovery export")
    return key


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
