"""The key pair of this node: born here, kept in one 0600 file, never sent anywhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from appliance.core import crypto
from appliance.core.errors import Corrupt
from appliance.core.files import create_private, ensure_private_directory, read_private
from appliance.core.ids import new_id
from appliance.core.secret import Secret

_FILE: Final = "node.key"


@dataclass(frozen=True, slots=True)
class NodePublic:
    """What others know of a node: raw public keys, base64, as in the `node` table."""

    id: str
    signing_key: str
    sealing_key: str


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """The private keys, raw: Ed25519 to sign, X25519 to receive data keys."""

    id: str
    signing_key: Secret
    sealing_key: Secret

    def public(self) -> NodePublic:
        return NodePublic(
            self.id,
            crypto.to_base64(crypto.signing_public_key(self.signing_key.reveal())),
            crypto.to_base64(crypto.sealing_public_key(self.sealing_key.reveal())),
        )


class _KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    signing_key: str
    sealing_key: str


def ensure_node_identity(keys: Path) -> NodeIdentity:
    """Return the identity in `keys`/node.key, making directory and file on the first start.

    Raises:
        Forbidden: others may read the file.
        Corrupt: the file is not what we wrote.
    """
    ensure_private_directory(keys)
    path = keys / _FILE
    fresh = _KeyFile(
        new_id(),
        crypto.to_base64(crypto.generate_signing_key()),
        crypto.to_base64(crypto.generate_sealing_key()),
    )
    if not path.exists():
        create_private(path, msgspec.json.encode(fresh))
    return _read(path)


def _read(path: Path) -> NodeIdentity:
    try:
        file = msgspec.json.decode(read_private(path), type=_KeyFile)
        identity = NodeIdentity(
            file.id,
            Secret(crypto.from_base64(file.signing_key)),
            Secret(crypto.from_base64(file.sealing_key)),
        )
        identity.public()
    except (msgspec.DecodeError, ValueError, Corrupt):
        raise Corrupt(
            f"{path} is not a node key",
            hint="bring it back from a backup, or restore this node from the recovery export",
        ) from None
    return identity
