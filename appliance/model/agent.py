"""What an agent is, as every layer names it."""

from dataclasses import dataclass, field
from enum import StrEnum


class AgentType(StrEnum):
    """The contract's agent types, and the in-guest one that it never shows."""

    KIWI = "Kiwi"
    KAKTUS = "Kaktus"
    KONTROLLER = "Kontroller"


class CredentialKind(StrEnum):
    NONE = "none"  # registered, no key yet: cannot connect
    HMAC = "hmac"  # registered through the API; a shared key
    ED25519 = "ed25519"  # an enrolled node; the key pair was born there


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """What Kahuna checks an agent's hello against.

    Attributes:
        id: 24 hex digits.
        type: the stored type; one that the agent claims is compared with it.
        credential: which proof counts.
        verifier: key of the HMAC, for `hmac` only; as secret as the agent's key.
        public_key: Ed25519, raw, for `ed25519` only.
        serial: rises with each change of the credential; a session of a lower one is closed.
        expires_at_ms: wall-clock end of the credential; None: it does not end.
    """

    id: str
    type: AgentType
    credential: CredentialKind
    verifier: bytes | None = field(repr=False)
    public_key: bytes | None
    serial: int
    expires_at_ms: int | None
