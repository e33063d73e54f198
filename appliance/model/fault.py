"""What can be done to a simulated node."""

from enum import StrEnum


class FaultError(StrEnum):
    """Of which kind an injected failure is: the codes of three of our errors."""

    DRIVER_FAILED = "driver_failed"  # for good: a create is undone
    UNAVAILABLE = "unavailable"  # tried again until the deadline
    INSUFFICIENT_RESOURCE = "insufficient_resource"
