"""Proofs of identity over one transcript; pure functions, no secret ever leaves in a frame.

The transcript covers both nonces, the agent's id, type, credential kind, boot id and version, both
protocol ranges, the chosen version, the Kahuna's name and the hash of the server's certificate. So
a proof cannot be replayed, moved to another server, or survive a downgrade.

kind     agent proves by                     Kahuna proves by
hmac     HMAC-SHA256, key derived "agent"    HMAC-SHA256, key derived "kahuna"
ed25519  signature                           TLS alone: the agent trusts only the cluster's CA;
                                             on plain loopback there is no proof
"""

import hashlib
import hmac
from typing import Final, Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from appliance.core import crypto
from appliance.model.agent import AgentIdentity, CredentialKind
from appliance.rpc.methods import Challenge, Hello

_LABEL: Final = b"kowabunga rpc hello v1"


class AgentCredential(Protocol):
    """The agent's end: proves itself, and checks Kahuna's proof."""

    kind: CredentialKind

    def prove(self, transcript: bytes) -> bytes: ...

    def accepts(self, transcript: bytes, proof: bytes) -> bool: ...


class HmacCredential:
    """A key shared with Kahuna, derived from the agent's API key."""

    kind = CredentialKind.HMAC

    def __init__(self, verifier: bytes) -> None:
        self._verifier = verifier

    def prove(self, transcript: bytes) -> bytes:
        return _mac(self._verifier, b"agent", transcript)

    def accepts(self, transcript: bytes, proof: bytes) -> bool:
        return crypto.same(_mac(self._verifier, b"kahuna", transcript), proof)


class Ed25519Credential:
    """A key pair born on this node; TLS with the cluster's CA is Kahuna's proof."""

    kind = CredentialKind.ED25519

    def __init__(self, private_key: bytes) -> None:
        self._private_key = private_key

    def prove(self, transcript: bytes) -> bytes:
        return crypto.sign(self._private_key, transcript)

    def accepts(self, transcript: bytes, proof: bytes) -> bool:
        return not proof


def transcript_of(hello: Hello, challenge: Challenge, certificate_sha256: bytes) -> bytes:
    """Return the digest that both ends prove; fields are length-prefixed, so none can shift."""
    fields = (
        hello.agent_id.encode(),
        hello.type.encode(),
        hello.credential.encode(),
        hello.nonce,
        hello.boot_id.encode(),
        hello.version.encode(),
        b"%d-%d" % (hello.protocol_min, hello.protocol_max),
        challenge.nonce,
        b"%d-%d" % (challenge.protocol_min, challenge.protocol_max),
        b"%d" % challenge.protocol,
        challenge.kahuna.encode(),
        certificate_sha256,
    )
    digest = hashlib.sha256(_LABEL)
    for field in fields:
        digest.update(len(field).to_bytes(4, "big"))
        digest.update(field)
    return digest.digest()


def check_agent(
    identity: AgentIdentity | None, kind: CredentialKind, transcript: bytes, proof: bytes
) -> bool:
    """Tell whether the proof is the agent's; an unknown agent costs as much time as a known one."""
    if kind is CredentialKind.ED25519:
        public_key = (identity and identity.public_key) or _NOBODY_PUBLIC
        good = crypto.verify(public_key, proof, transcript)
    else:
        verifier = (identity and identity.verifier) or _NOBODY_SECRET
        good = crypto.same(_mac(verifier, b"agent", transcript), proof)
    stored_kind = CredentialKind.NONE if identity is None else identity.credential
    return good and kind is stored_kind and kind is not CredentialKind.NONE


def prove_kahuna(identity: AgentIdentity, transcript: bytes) -> bytes:
    """Return Kahuna's proof to this agent; empty where TLS is the proof."""
    return b"" if identity.verifier is None else _mac(identity.verifier, b"kahuna", transcript)


def _mac(verifier: bytes, direction: bytes, transcript: bytes) -> bytes:
    # One key per direction: a proof reflected to its sender is worthless.
    key = HKDF(SHA256(), 32, salt=None, info=_LABEL + b" " + direction).derive(verifier)
    return hmac.digest(key, transcript, "sha256")


_NOBODY_SECRET: Final = crypto.random_key()
_NOBODY_PUBLIC: Final = crypto.signing_public_key(crypto.generate_signing_key())
