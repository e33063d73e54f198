"""IPv4 addresses, networks and ranges as integers, and back as the very text that was sent.

Only one text is accepted for an address, so integer and text convert without loss: no leading
zeros (which some programs read as octal), no short forms.
"""

import re
from typing import Final, NamedTuple

from appliance.core.errors import Invalid
from appliance.resources.names import quoted

_OCTET: Final = r"(0|[1-9][0-9]{0,2})"
_ADDRESS: Final = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}")
_PREFIX_LENGTH: Final = re.compile(r"0|[1-9][0-9]?")


class Network(NamedTuple):
    """An address and the length of its network's prefix; bits below the prefix are kept."""

    address: int
    prefix_length: int

    @property
    def first(self) -> int:
        """The network's own address."""
        return self.address & ~(self.size - 1)

    @property
    def last(self) -> int:
        """The broadcast address."""
        return self.address | (self.size - 1)

    @property
    def size(self) -> int:
        return 1 << (32 - self.prefix_length)

    def __str__(self) -> str:
        return f"{format_address(self.address)}/{self.prefix_length}"

    def has(self, address: int) -> bool:
        return self.first <= address <= self.last

    def has_host(self, address: int) -> bool:
        """Tell whether a machine can have the address: neither the network's nor broadcast."""
        return self.first < address < self.last

    def within(self, other: "Network") -> bool:
        return other.first <= self.first and self.last <= other.last

    def overlaps(self, other: "Network") -> bool:
        return self.first <= other.last and other.first <= self.last


class Range(NamedTuple):
    """Addresses from `first` to `last`, both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{format_address(self.first)}-{format_address(self.last)}"

    def has(self, address: int) -> bool:
        return self.first <= address <= self.last

    def overlaps(self, other: "Range") -> bool:
        return self.first <= other.last and other.first <= self.last


def parse_address(text: str, field: str) -> int:
    """Read "a.b.c.d".

    Raises:
        Invalid: anything else.
    """
    match = _ADDRESS.fullmatch(text)
    octets = [int(octet) for octet in match.groups()] if match else []
    if not octets or max(octets) > 255:
        raise Invalid(
            f"{field} {quoted(text)} is not an IPv4 address",
            field=field,
            hint="four numbers from 0 to 255 without leading zeros, joined by dots",
        )
    return int.from_bytes(octets, "big")


def format_address(address: int) -> str:
    return ".".join(str(octet) for octet in address.to_bytes(4, "big"))


def parse_network(text: str, field: str) -> Network:
    """Read "a.b.c.d/n"; bits below the prefix may be set.

    Raises:
        Invalid: anything else.
    """
    address, slash, length = text.partition("/")
    if not slash or not _PREFIX_LENGTH.fullmatch(length) or int(length) > 32:
        raise Invalid(
            f"{field} {quoted(text)} is not an IPv4 network",
            field=field,
            hint="the form is 192.168.0.0/24",
        )
    return Network(parse_address(address, field), int(length))


def parse_range(first: str, last: str, field: str) -> Range:
    """Read the bounds of a range.

    Raises:
        Invalid: a bound is no address, or they stand in the wrong order.
    """
    found = Range(parse_address(first, f"{field}.first"), parse_address(last, f"{field}.last"))
    if found.first > found.last:
        raise Invalid(f"{field} {found} ends before it begins", field=f"{field}.last")
    return found
