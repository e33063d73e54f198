"""What an agent is, as every layer names it."""

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
