"""The recovery export: what a database backup needs to be of use on a new machine.

A file under a passphrase with the data keys, the cluster's id and its authorities' certificates.
It belongs in another place than the backups: together they are the whole cluster.
"""

from typing import Final

import msgspec
import structlog

from appliance.core import crypto
from appliance.core.aio import BlockingPool
from appliance.core.clock import Clock
from appliance.core.errors import Conflict, Corrupt, Invalid
from appliance.core.secret import Secret
from appliance.services.cluster import RAISE_EPOCH, Cluster, get_cluster
from appliance.services.key_files import data_key_of
from appliance.services.keyring import Keyring
from appliance.services.node_identity import NodePublic
from appliance.store.base import Consistency, Statement, Store

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_PURPOSE: Final = "kowabunga recovery export v1"
_MIN_PASSPHRASE: Final = 12


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    cluster_id: str
    created_at_ms: int
    data_keys: list[str]  # base64; each names itself
    authorities: dict[str, str]  # id: PEM


class Recovery:
    """Export and import; deriving a key from a passphrase runs in `pool`."""

    def __init__(self, store: Store, keyring: Keyring, clock: Clock, pool: BlockingPool) -> None:
        self._store = store
        self._keyring = keyring
        self._clock = clock
        self._pool = pool

    async def export(self, passphrase: Secret) -> bytes:
        """Return the content of the file; make a new one after each rotation.

        Raises:
            Invalid: the passphrase is too short.
            NotFound: this node cannot get all the data keys.
        """
        if len(passphrase.reveal()) < _MIN_PASSPHRASE:
            raise Invalid(
                f"the passphrase must have at least {_MIN_PASSPHRASE} characters",
                hint="take five random words",
                field="passphrase",
            )
        content = _Content(
            cluster_id=(await get_cluster(self._store)).id,
            created_at_ms=self._clock.now_ms(),
            data_keys=[crypto.to_base64(key.key.reveal()) for key in await self._keyring.all()],
            authorities=await self._authorities(),
        )
        sealed = await self._pool.run(
            None, crypto.seal_with_passphrase, passphrase, msgspec.json.encode(content), _PURPOSE
        )
        _log.info("recovery_exported", data_keys=len(content.data_keys))
        return sealed

    async def restore(
        self, export: bytes, passphrase: Secret, node: NodePublic, node_name: str
    ) -> Cluster:
        """Make a restored database readable here, on a node with a new identity.

        The node takes the place of one that had its name. The epoch rises, so that commands of
        the time after the backup lose against new ones. Repeat it if it was interrupted.

        Raises:
            Forbidden: the passphrase is wrong, or the file was changed.
            Invalid: not such a file, or older than a data key of the database.
            Conflict: it belongs to another cluster.
            Corrupt: an authority in the database is not the exported one.
        """
        content = _decode(
            await self._pool.run(None, crypto.unseal_with_passphrase, passphrase, export, _PURPOSE)
        )
        cluster = await get_cluster(self._store)
        if cluster.id != content.cluster_id:
            raise Conflict(
                f"the export belongs to cluster {content.cluster_id}, the database to {cluster.id}",
                hint="take the export and the backup of one cluster",
            )
        for authority_id, certificate in (await self._authorities()).items():
            if content.authorities.get(authority_id, certificate) != certificate:
                raise Corrupt(
                    f"certificate authority {authority_id} is not the one that was exported",
                    hint="the database was changed; take another backup",
                )
        keys = {key.id: key for key in map(data_key_of, map(crypto.from_base64, content.data_keys))}
        in_use = await self._store.query(
            Statement("SELECT id FROM data_key ORDER BY id"), Consistency.LINEARIZABLE
        )
        missing = [str(row["id"]) for row in in_use if row["id"] not in keys]
        if missing:
            raise Invalid(
                f"the export does not have data key {missing[0]} of this database",
                hint="a rotation came between them; take the export made after it",
            )
        self._keyring.keep([keys[str(row["id"])] for row in in_use])
        await self._keyring.admit(
            node,
            node_name,
            beside=[
                Statement("DELETE FROM node WHERE name = ? AND id <> ?", (node_name, node.id)),
                RAISE_EPOCH,
            ],
        )
        restored = await get_cluster(self._store)
        _log.info("recovery_imported", cluster=restored.id, epoch=restored.epoch)
        return restored

    async def _authorities(self) -> dict[str, str]:
        rows = await self._store.query(
            Statement("SELECT id, certificate FROM certificate_authority ORDER BY id"),
            Consistency.LINEARIZABLE,
        )
        return {str(row["id"]): str(row["certificate"]) for row in rows}


def _decode(plaintext: bytes) -> _Content:
    try:
        return msgspec.json.decode(plaintext, type=_Content)
    except msgspec.DecodeError:
        raise Invalid("the export was written by another release") from None
