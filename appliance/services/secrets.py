"""Secrets in the database, each sealed with the active data key and bound to its owner and name.

A row that was changed, or copied over another, does not open. Nothing here logs, and no error
carries a value.
"""

from collections.abc import Callable, Sequence
from typing import Final

from appliance.core import crypto
from appliance.core.errors import Conflict, Corrupt, NotFound, Unavailable
from appliance.core.secret import Secret
from appliance.services.key_files import DataKey
from appliance.services.keyring import Keyring
from appliance.store.base import Consistency, Row, Statement, Store, guard

CLUSTER: Final = "cluster"  # the owner of what belongs to no single object
_ATTEMPTS: Final = 5  # each lost one means that the data key was rotated meanwhile
_PAGE: Final = 50


class Sealer:
    """Makes the statements that store secrets, for a batch of `Secrets.batch`."""

    def __init__(self, key: DataKey) -> None:
        self._key = key

    def put(self, owner: str, name: str, value: Secret) -> Statement:
        """Store or replace a secret.

        Args:
            owner: a target ("agent/0123.."), or `CLUSTER`.
            name: unique below its owner.
            value: what to seal.
        """
        return Statement(
            "INSERT INTO secret (owner, name, data_key_id, sealed) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (owner, name) DO UPDATE"
            " SET data_key_id = excluded.data_key_id, sealed = excluded.sealed",
            (owner, name, self._key.id, _seal(self._key, owner, name, value)),
        )

    def put_new(self, owner: str, name: str, value: Secret) -> Statement:
        """Store a secret unless there is one already."""
        return Statement(
            "INSERT INTO secret (owner, name, data_key_id, sealed) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (owner, name) DO NOTHING",
            (owner, name, self._key.id, _seal(self._key, owner, name, value)),
        )

    def replace(self, owner: str, name: str, row: Row, value: Secret) -> Statement:
        """Seal a secret anew, if its row is still the one that was read."""
        return Statement(
            "UPDATE secret SET data_key_id = ?, sealed = ?"
            " WHERE owner = ? AND name = ? AND data_key_id = ? AND sealed = ?",
            (
                self._key.id,
                _seal(self._key, owner, name, value),
                owner,
                name,
                row["data_key_id"],
                row["sealed"],
            ),
        )


def forget(owner: str, name: str) -> Statement:
    return Statement("DELETE FROM secret WHERE owner = ? AND name = ?", (owner, name))


def forget_all(owner: str) -> Statement:
    return Statement("DELETE FROM secret WHERE owner = ?", (owner,))


class Secrets:
    def __init__(self, store: Store, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring

    async def batch(self, build: Callable[[Sealer], Sequence[Statement]]) -> list[int]:
        """Run a batch that stores secrets beside other rows; `build` may be called again.

        Raises what `Store.batch` raises.
        """
        for _ in range(_ATTEMPTS):
            key = await self._keyring.active()
            try:
                return await self._store.batch(build(Sealer(key)))
            except Conflict as refused:
                # A rotation may have retired the key between our look and our write.
                if refused.context.get("constraint") != "foreign_key":
                    raise
                if (await self._keyring.active()).id == key.id:
                    raise
        raise Unavailable("the data key was rotated again and again while a secret was written")

    async def put(self, owner: str, name: str, value: Secret) -> None:
        await self.batch(lambda sealer: [sealer.put(owner, name, value)])

    async def find(self, owner: str, name: str) -> Secret | None:
        """Return a secret, or None when there is none.

        Raises:
            Corrupt: the row was tampered with.
            NotFound: this node cannot get its data key.
        """
        repeats = 0
        while rows := await self._store.query(_select(owner, name), Consistency.LINEARIZABLE):
            try:
                return await self.open(owner, name, rows[0])
            except NotFound:
                # A rotation sealed it anew and dropped the key between the two reads. If not,
                # the key is out of this node's reach.
                repeats += 1
                if repeats == _ATTEMPTS:
                    raise
        return None

    async def ensure(self, owner: str, name: str, fresh: Secret, *, while_: Statement) -> Secret:
        """Return the secret that is there; without one, keep and return `fresh`.

        Of several callers at once all get the same. `while_` selects 1 as long as the owner exists.

        Raises:
            Stale: the owner is gone.
            Corrupt: the row was tampered with.
            NotFound: this node cannot get its data key.
        """
        for _ in range(_ATTEMPTS):
            if (found := await self.find(owner, name)) is not None:
                return found
            opened, closed = guard(while_)
            await self.batch(
                lambda sealer: (opened, sealer.put_new(owner, name, fresh), closed)  # noqa: B023 - called at once
            )
        raise Unavailable(f"secret {name!r} of {owner} kept vanishing while it was made")

    async def take(self, owner: str, name: str) -> Secret | None:
        """Return a secret and delete it: of several takers exactly one gets it.

        Gone for good once this returns, or fails with DeadlineExceeded.
        """
        for _ in range(_ATTEMPTS):
            rows = await self._store.query(_select(owner, name), Consistency.LINEARIZABLE)
            if not rows:
                return None
            try:
                value = await self.open(owner, name, rows[0])
            except NotFound:
                continue  # a rotation sealed it anew and dropped the key between the two reads
            [taken] = await self._store.batch(
                [
                    Statement(
                        "DELETE FROM secret WHERE owner = ? AND name = ? AND sealed = ?",
                        (owner, name, rows[0]["sealed"]),
                    )
                ]
            )
            if taken:
                return value
        raise Unavailable(f"secret {name!r} of {owner} kept changing while it was taken")

    async def open(self, owner: str, name: str, row: Row) -> Secret:
        """Open a row (`data_key_id`, `sealed`) that a query of another service brought along.

        Raises:
            Corrupt: the row was tampered with.
            NotFound: its data key is not to be had: retired since the row was read, perhaps.
        """
        key = await self._keyring.get(str(row["data_key_id"]))
        return _open(key, owner, name, str(row["sealed"]))

    async def reseal(self) -> None:
        """Seal with the active key what a retiring one seals; other writers may go on meanwhile.

        Resumable: a row counts as done by its key id, and is only replaced as it was read.

        Raises:
            Corrupt: some rows do not open; all others are done.
        """
        unreadable: list[str] = []
        after = ("", "")
        while rows := await self._store.query(
            Statement(
                "SELECT owner, name, data_key_id, sealed FROM secret WHERE data_key_id IN"
                " (SELECT id FROM data_key WHERE state = 'retiring')"
                " AND (owner, name) > (?, ?) ORDER BY owner, name LIMIT ?",
                (*after, _PAGE),
            ),
            Consistency.LINEARIZABLE,
        ):
            unreadable += await self._reseal_page(rows)
            after = (str(rows[-1]["owner"]), str(rows[-1]["name"]))
        if unreadable:
            raise Corrupt(
                f"these secrets cannot be read: {', '.join(unreadable)}",
                hint="set them again, then repeat the rotation",
            )

    async def _reseal_page(self, rows: Sequence[Row]) -> list[str]:
        """Return which of the rows do not open."""
        values: list[tuple[str, str, Row, Secret]] = []
        unreadable: list[str] = []
        for row in rows:
            owner, name = str(row["owner"]), str(row["name"])
            try:
                values.append((owner, name, row, await self.open(owner, name, row)))
            except Corrupt:
                unreadable.append(f"{owner}/{name}")
            except NotFound:
                continue  # sealed anew by another since we read it
        if values:
            await self.batch(lambda sealer: [sealer.replace(*value) for value in values])
        return unreadable


def _select(owner: str, name: str) -> Statement:
    return Statement(
        "SELECT data_key_id, sealed FROM secret WHERE owner = ? AND name = ?", (owner, name)
    )


def _seal(key: DataKey, owner: str, name: str, value: Secret) -> str:
    return crypto.to_base64(
        crypto.seal(key.key.reveal(), value.reveal(), crypto.context_of("secret", owner, name))
    )


def _open(key: DataKey, owner: str, name: str, sealed: str) -> Secret:
    context = crypto.context_of("secret", owner, name)
    try:
        return Secret(crypto.unseal(key.key.reveal(), crypto.from_base64(sealed), context))
    except Corrupt:
        raise Corrupt(
            f"secret {name!r} of {owner} was changed or moved in the database",
            hint="set it again, or restore a backup",
            owner=owner,
        ) from None
