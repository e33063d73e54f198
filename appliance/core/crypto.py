"""The few cryptographic operations of the product, each a thin layer over `cryptography`.

Pure: no files, no rows, no clock. Needs cryptography >= 47, the first release with HPKE. No error
that is raised here carries key material or plaintext.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from typing import Final

import msgspec
from cryptography.exceptions import InvalidKey, InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from appliance.core.errors import Corrupt, Forbidden, Invalid
from appliance.core.secret import Secret

KEY_BYTES: Final = 32
API_KEY_PREFIX: Final = "kwb_"  # secret scanners, and our own test of the logs, look for it
GUEST_SECRET_PREFIX: Final = "kwg_"  # noqa: S105 - what such a secret begins with
_API_KEY: Final = re.compile(r"[A-Za-z0-9_-]{43,128}")
_NONCE_BYTES: Final = 12  # NIST SP 800-38D; random nonces are safe for 2**32 messages of a key
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)  # RFC 9180


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str) -> bytes:
    """Decode strictly.

    Raises:
        Corrupt: not base64; the text is not repeated.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Corrupt("a stored value is not base64") from None


def random_key() -> bytes:
    """Return 256 random bits."""
    return secrets.token_bytes(KEY_BYTES)


def identify_key(key: bytes) -> str:
    """Return 24 hex digits that name a random key by its content, and reveal nothing of it."""
    return hmac.digest(key, b"kowabunga data key id v1", "sha256").hex()[:24]


def generate_api_key() -> Secret:
    """Return a new key of 256 random bits as "kwb_" and 43 url-safe characters."""
    return Secret(API_KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES))


def generate_guest_secret() -> Secret:
    """Return 256 random bits, by which a guest proves which instance it is."""
    return Secret(GUEST_SECRET_PREFIX + secrets.token_urlsafe(KEY_BYTES))


def is_api_key(text: str) -> bool:
    """Tell whether `text` may be an API key: ours, or an owner's with room for 256 bits."""
    return _API_KEY.fullmatch(text) is not None


def hash_api_key(api_key: str) -> str:
    """Return the SHA-256 in hex under which a key is stored and found.

    A fast hash suffices: the keys are random, so there is nothing to guess.
    """
    return hashlib.sha256(api_key.encode()).hexdigest()


def hash_password(password: Secret) -> str:
    """Return the Argon2id hash of a password, in PHC string format; takes about 30 ms and 19 MiB.

    Parameters: OWASP Password Storage Cheat Sheet, the choice with the least memory per time.
    """
    return Argon2id(
        salt=os.urandom(16), length=KEY_BYTES, iterations=2, lanes=1, memory_cost=19 * 1024
    ).derive_phc_encoded(password.reveal())


def is_password(password: Secret, phc: str) -> bool:
    """Tell whether a password is the one of a hash; as expensive as making the hash."""
    try:
        Argon2id.verify_phc_encoded(password.reveal(), phc)
    except InvalidKey:
        return False
    return True


def derive_verifier(api_key: str) -> bytes:
    """Return the key of the hello's HMAC; agent and Kahuna both derive it from the API key.

    Key-equivalent: whoever holds it can say hello as this agent, so it is stored sealed. It does
    not reveal the API key itself.
    """
    return hmac.digest(api_key.encode(), b"kowabunga agent hello verifier v1", "sha256")


def same(left: bytes, right: bytes) -> bool:
    """Compare in time that does not depend on the content."""
    return hmac.compare_digest(left, right)


def context_of(purpose: str, *parts: str) -> bytes:
    """Join what a ciphertext is bound to; no two different lists give the same bytes."""
    return msgspec.json.encode([purpose, *parts])


def seal(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Encrypt with AES-256-GCM; returns the nonce, then the ciphertext and tag."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, associated)


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Undo `seal`.

    Raises:
        Corrupt: another key, other associated data, or a changed byte.
    """
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated)
    except (InvalidTag, ValueError):
        raise Corrupt("a sealed value was changed, moved, or sealed with another key") from None


def generate_signing_key() -> bytes:
    """Return a new Ed25519 private key, raw."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def signing_public_key(private_key: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def is_signing_public_key(data: bytes) -> bool:
    """Tell whether the bytes are a usable Ed25519 public key."""
    try:
        Ed25519PublicKey.from_public_bytes(data)
    except ValueError:
        return False
    return True


def sign(private_key: bytes, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private_key).sign(message)


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether the Ed25519 signature is good; a malformed key or signature is not."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def generate_sealing_key() -> bytes:
    """Return a new X25519 private key, raw."""
    return X25519PrivateKey.generate().private_bytes_raw()


def sealing_public_key(private_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def wrap(plaintext: bytes, public_key: bytes, info: bytes) -> bytes:
    """Encrypt to the holder of an X25519 key (HPKE base mode, RFC 9180).

    Raises:
        Invalid: the public key is malformed.
    """
    try:
        return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public_key), info)
    except ValueError:
        raise Invalid("a sealing key is not a usable X25519 public key") from None


def unwrap(wrapped: bytes, private_key: bytes, info: bytes) -> bytes:
    """Undo `wrap`.

    Raises:
        Corrupt: for another key, other info, or a changed byte.
    """
    try:
        return _SUITE.decrypt(wrapped, X25519PrivateKey.from_private_bytes(private_key), info)
    except (InvalidTag, ValueError):
        raise Corrupt("a wrapped key was changed, or wrapped to another node") from None


class _Passphrased(msgspec.Struct, forbid_unknown_fields=True):
    """The file that `seal_with_passphrase` writes; everything but `sealed` is authenticated."""

    purpose: str
    salt: str
    iterations: int
    lanes: int
    memory_kib: int
    sealed: str

    def associated(self) -> bytes:
        numbers = (self.iterations, self.lanes, self.memory_kib)
        return context_of(self.purpose, self.salt, *map(str, numbers))

    def key(self, passphrase: Secret) -> bytes:
        return Argon2id(
            salt=from_base64(self.salt),
            length=KEY_BYTES,
            iterations=self.iterations,
            lanes=self.lanes,
            memory_cost=self.memory_kib,
        ).derive(passphrase.reveal())


# RFC 9106, section 4, the second recommended option: for machines without 2 GiB to spare.
_ITERATIONS: Final = 3
_LANES: Final = 4
_MEMORY_KIB: Final = 64 * 1024
_SALT_BYTES: Final = 16


def seal_with_passphrase(passphrase: Secret, plaintext: bytes, purpose: str) -> bytes:
    """Encrypt for somebody who will only have the passphrase; takes about 0.2 s and 64 MiB."""
    salt = to_base64(os.urandom(_SALT_BYTES))
    file = _Passphrased(purpose, salt, _ITERATIONS, _LANES, _MEMORY_KIB, sealed="")
    file.sealed = to_base64(seal(file.key(passphrase), plaintext, file.associated()))
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def unseal_with_passphrase(passphrase: Secret, content: bytes, purpose: str) -> bytes:
    """Undo `seal_with_passphrase`.

    Raises:
        Invalid: not such a file, or made for another purpose.
        Forbidden: the passphrase is wrong, or a byte was changed: nobody can tell which.
    """
    try:
        file = msgspec.json.decode(content, type=_Passphrased)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Invalid(f"this is not a file of kind {purpose!r}, or it is damaged") from None
    if file.purpose != purpose:
        raise Invalid(f"this is a file of kind {file.purpose!r}, not {purpose!r}")
    # One set of parameters exists. Others could only come from someone who wants the derivation
    # cheap, or our memory exhausted.
    if (file.iterations, file.lanes, file.memory_kib) != (_ITERATIONS, _LANES, _MEMORY_KIB):
        raise Invalid(f"this file of kind {purpose!r} was changed: unknown Argon2id parameters")
    try:
        return unseal(file.key(passphrase), from_base64(file.sealed), file.associated())
    except (Corrupt, ValueError):
        raise Forbidden(
            "the passphrase is wrong or the file was changed",
            hint="try the passphrase again, then another copy of the file",
        ) from None
