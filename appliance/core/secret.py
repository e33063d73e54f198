"""A value that must not be seen: masked wherever Python would show it.

It protects from accidents (logs, tracebacks, f-strings), not from code that asks for the value.
"""

import hmac
from typing import Final, NoReturn

_MASK: Final = "Secret(***)"


class Secret:
    """Bytes or text that only `reveal` and `reveal_text` give away; compared in constant time."""

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment] # a secret is no key of a dict

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else value

    def reveal(self) -> bytes:
        return self._value

    def reveal_text(self) -> str:
        return self._value.decode()

    def __repr__(self) -> str:
        return _MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never pickled or copied into a message")
