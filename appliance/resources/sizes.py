"""Bounds of numbers. The contract's integers are int64 or int32, and SQLite's are int64."""

from typing import Final

from appliance.core.errors import Invalid

MAX_INT32: Final = 2**31 - 1
MAX_INT64: Final = 2**63 - 1

# Above any machine that exists, far below where sums of many would overflow 64 bits.
MAX_VCPUS: Final = 4096  # QEMU's q35 machine
MIN_MEMORY_BYTES: Final = 2**20
MAX_MEMORY_BYTES: Final = 2**46  # 64 TiB
MAX_DISK_BYTES: Final = 2**50  # 1 PiB


def check_between(value: int, field: str, minimum: int, maximum: int) -> None:
    """Accept a whole number from `minimum` to `maximum`.

    Raises:
        Invalid: outside.
    """
    if not minimum <= value <= maximum:
        # A huge number would make a huge message.
        shown = str(value) if abs(value) <= MAX_INT64 else "beyond 64 bits"
        raise Invalid(f"{field} is {shown}; {minimum} to {maximum} is allowed", field=field)


def check_vcpus(value: int, field: str = "vcpus") -> None:
    check_between(value, field, 1, MAX_VCPUS)


def check_memory(value: int, field: str = "memory") -> None:
    check_between(value, field, MIN_MEMORY_BYTES, MAX_MEMORY_BYTES)


def check_disk(value: int, field: str) -> None:
    check_between(value, field, 1, MAX_DISK_BYTES)


def check_not_smaller(value: int, stored: int, field: str) -> None:
    """Accept the new size of a disk: it can grow, since shrinking would cut off what is on it.

    Raises:
        Invalid: smaller than now.
    """
    if value < stored:
        raise Invalid(f"{field} is {stored} and cannot shrink to {value}", field=field)
