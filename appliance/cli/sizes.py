"""Sizes as people write them: 512MiB, 10G, 4096. One letter means the same as with iB: 1024s."""

import re
from decimal import Decimal
from typing import Final

_UNITS: Final = ("", "K", "M", "G", "T", "P")
_SIZE: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?) ?(?:([KMGTP])(?:iB)?|B)?")


def parse_size(text: str) -> int:
    """Return the number of bytes.

    Raises:
        ValueError: not a size, or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write bytes, or for instance 512MiB or 10GiB")
    size = Decimal(match[1]) * 1024 ** _UNITS.index(match[2] or "")
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def human_size(size: int) -> str:
    """Return a size in the largest unit that leaves it at 1 or more, rounded to a tenth."""
    power = 0
    while abs(size) >= 1024 ** (power + 1) and power + 1 < len(_UNITS):
        power += 1
    if power == 0:
        return f"{size}B"
    return f"{Decimal(size) / 1024**power:.1f}".removesuffix(".0") + f"{_UNITS[power]}iB"
