"""The error taxonomy: a dozen classes with stable codes, known to every layer and to the wire.

    KowabungaError
     +- Invalid               input wrong; the context names the field
     +- Unauthenticated       no valid credential
     +- Forbidden             valid credential, not allowed
     +- NotFound
     +- Conflict              exists already, or is still referenced
     |   +- Busy              another operation works on it
     +- Stale                 lost a compare-and-set, a claim or a fence
     +- InsufficientResource  quota, no host fits, pool or subnet exhausted
     +- Unavailable           try again: no leader, agent offline, queue full
     +- DeadlineExceeded      the outcome is unknown
     +- DriverError           a device or library refused
     +- Corrupt               stored data cannot be trusted
     +- Cancelled             the caller withdrew the work

The HTTP status of a class lives in `api/problems.py`: nothing below the API knows HTTP.
"""

from typing import ClassVar, Final

import msgspec

ContextValue = str | int


class Problem(msgspec.Struct, omit_defaults=True):
    """An error on the wire or in a row: rebuilt by `from_problem` through a closed table.

    Fields that a newer peer adds are ignored.
    """

    code: str
    detail: str
    hint: str | None = None
    context: dict[str, ContextValue] = {}


class KowabungaError(Exception):
    """Base of every error that we raise on purpose.

    Args:
        detail: what failed, on which object: one sentence.
        hint: what to do about it.
        context: machine-readable particulars, such as `field` or `id`; never a secret.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, hint: str | None = None, **context: ContextValue) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.context = context

    def __str__(self) -> str:
        return f"{self.detail} ({self.hint})" if self.hint else self.detail

    def to_problem(self) -> Problem:
        return Problem(self.code, self.detail, self.hint, dict(self.context))


class Invalid(KowabungaError):
    code = "invalid"


class Unauthenticated(KowabungaError):
    code = "unauthenticated"


class Forbidden(KowabungaError):
    code = "forbidden"


class NotFound(KowabungaError):
    code = "not_found"


class Conflict(KowabungaError):
    code = "conflict"


class Busy(Conflict):
    code = "busy"


class Stale(KowabungaError):
    code = "stale"


class InsufficientResource(KowabungaError):
    code = "insufficient_resource"


class Unavailable(KowabungaError):
    code = "unavailable"
    retryable = True


class DeadlineExceeded(KowabungaError):
    code = "deadline_exceeded"
    retryable = True


class DriverError(KowabungaError):
    code = "driver_failed"


class Corrupt(KowabungaError):
    code = "corrupt"


class Cancelled(KowabungaError):
    code = "cancelled"


_BY_CODE: Final[dict[str, type[KowabungaError]]] = {
    error.code: error
    for error in (
        Invalid, Unauthenticated, Forbidden, NotFound, Conflict, Busy, Stale, InsufficientResource,
        Unavailable, DeadlineExceeded, DriverError, Corrupt, Cancelled,
    )
}  # fmt: skip


def from_problem(problem: Problem) -> KowabungaError:
    """Rebuild the error of a peer; an unknown code becomes the base class, never a guess."""
    kind = _BY_CODE.get(problem.code, KowabungaError)
    error = kind(problem.detail, hint=problem.hint)
    error.context.update(problem.context)  # not as keywords: a peer may name one of ours
    return error
