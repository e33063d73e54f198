"""What the process tells its caller: stable, documented, one table."""

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    DONE = 0  # also: nothing had to change
    BUG = 1  # unexpected
    USAGE = 2  # invalid input
    NOT_FOUND = 3
    NOT_ALLOWED = 4  # not authenticated, or not allowed
    CONFLICT = 5  # exists, or a revision changed
    UNREACHABLE = 6  # endpoint not reached, or no quorum
    PRECONDITION = 7  # quota, capacity, state
    PLAN_HAS_CHANGES = 8
    TIMED_OUT = 9  # the work goes on
    REVERTED = 10  # automatically
    DEGRADED = 11  # done, but unhealthy
    UNSUPPORTED = 12  # by the server's version
    INTERRUPTED = 130


_BY_STATUS: Final = {
    400: ExitCode.USAGE,
    401: ExitCode.NOT_ALLOWED,
    403: ExitCode.NOT_ALLOWED,
    404: ExitCode.NOT_FOUND,
    405: ExitCode.UNSUPPORTED,
    409: ExitCode.CONFLICT,
    412: ExitCode.CONFLICT,
    413: ExitCode.USAGE,
    415: ExitCode.USAGE,
    422: ExitCode.USAGE,
    503: ExitCode.UNREACHABLE,
    504: ExitCode.TIMED_OUT,
    507: ExitCode.PRECONDITION,
}

_BY_ERROR_CODE: Final = {
    "invalid": ExitCode.USAGE,
    "unauthenticated": ExitCode.NOT_ALLOWED,
    "forbidden": ExitCode.NOT_ALLOWED,
    "not_found": ExitCode.NOT_FOUND,
    "conflict": ExitCode.CONFLICT,
    "busy": ExitCode.CONFLICT,
    "stale": ExitCode.CONFLICT,
    "cancelled": ExitCode.CONFLICT,
    "insufficient_resource": ExitCode.PRECONDITION,
    "unavailable": ExitCode.UNREACHABLE,
    "driver_failed": ExitCode.PRECONDITION,
    "deadline_exceeded": ExitCode.TIMED_OUT,
    "corrupt": ExitCode.PRECONDITION,
}


def of_status(status: int) -> ExitCode:
    """Return the code for a refusal of the server."""
    return _BY_STATUS.get(status, ExitCode.BUG)


def of_error(code: str) -> ExitCode:
    """Return the code for one of our errors, by its stable code."""
    return _BY_ERROR_CODE.get(code, ExitCode.BUG)
