"""Passwords of users: how they are hashed, checked, and when one is too weak.

A hash costs 19 MiB and some 30 ms on purpose, so few are computed at once and few may wait: a
storm of log-ins is refused, and does not take the machine's memory.
"""

import math
import re
from typing import Final

from appliance.core import crypto
from appliance.core.aio import BlockingPool
from appliance.core.errors import Invalid, Unavailable
from appliance.core.secret import Secret

MIN_BITS: Final = 70
MAX_LENGTH: Final = 255
_AT_ONCE: Final = 2
_MAX_WAITING: Final = 64
_LIMIT_S: Final = 30.0
# How many characters one of these kinds is drawn from.
_KINDS: Final = (
    (re.compile(r"[a-z]"), 26),
    (re.compile(r"[A-Z]"), 26),
    (re.compile(r"[0-9]"), 10),
    (re.compile(r"[ -/:-@\[-`{-~]"), 33),
    (re.compile(r"[^ -~]"), 100),
)
# A character that merely repeats or continues the two before it surprises nobody: "aaa", "abc".
_MAX_STEP: Final = 1


class Passwords:
    def __init__(self) -> None:
        self._pool = BlockingPool("passwords", _AT_ONCE)
        self._waiting = 0

    def close(self) -> None:
        self._pool.close()

    async def hash(self, password: Secret) -> str:
        """Return what to store.

        Raises:
            Unavailable: too many wait already.
        """
        self._enter()
        try:
            return await self._pool.run(_LIMIT_S, crypto.hash_password, password)
        finally:
            self._waiting -= 1

    async def is_right(self, password: Secret, stored: str | None) -> bool:
        """Compare a password with what was stored; without anything stored it takes as long.

        Raises:
            Unavailable: too many wait already.
        """
        self._enter()
        try:
            right = await self._pool.run(
                _LIMIT_S, crypto.is_password, password, stored or _nobodys_password()
            )
        finally:
            self._waiting -= 1
        return right and stored is not None

    def _enter(self) -> None:
        if self._waiting >= _MAX_WAITING:
            raise Unavailable("too many people log in at once", hint="try again in a moment")
        self._waiting += 1


def check_password(password: str, field: str = "value") -> None:
    """Accept a password that a user chose; the message never shows it.

    Raises:
        Invalid: too long, not printable, or too easy to guess.
    """
    if len(password) > MAX_LENGTH or not password.isprintable():
        raise Invalid(f"{field} must be at most {MAX_LENGTH} printable characters", field=field)
    bits = estimate_bits(password)
    if bits < MIN_BITS:
        raise Invalid(
            f"{field} has some {bits:.0f} bits, {MIN_BITS} are needed",
            field=field,
            hint="make it longer: 15 random letters suffice",
        )


def estimate_bits(password: str) -> float:
    """Return how much there is to guess, if its characters were drawn at random.

    Runs count once, and so does what repeats: "abcabcabc" is no better than "ac".
    """
    kept: list[str] = []
    for character in password:
        step = ord(character) - ord(kept[-1]) if kept else None
        if step is not None and abs(step) <= _MAX_STEP:
            kept[-1] = character
        else:
            kept.append(character)
    alphabet = sum(size for kind, size in _KINDS if kind.search(password))
    distinct = len({tuple(kept[index : index + 2]) for index in range(len(kept))})
    return distinct * math.log2(alphabet) if alphabet else 0.0


def _nobodys_password() -> str:
    """Return a hash that no password has, made as all others are."""
    return (
        "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA"
        "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    )
