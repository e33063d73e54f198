"""Errors as HTTP answers: the one place that knows which status an error has.

Every refusal of this server, the framework's own included, is `{status, error, reason}`. A reason
says what failed, on which object, and what to do; it never carries a traceback.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import msgspec
import structlog
from litestar.exceptions import HTTPException, ValidationException

from appliance.core.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    DriverError,
    Forbidden,
    InsufficientResource,
    Invalid,
    KowabungaError,
    NotFound,
    Stale,
    Unauthenticated,
    Unavailable,
)

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)

RETRY_AFTER_S: Final = 5


class ProblemBody(msgspec.Struct, frozen=True):
    """The body of every refusal; the contract's clients reject any further key."""

    status: int
    error: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal, ready to be sent."""

    body: ProblemBody
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class Malformed(Invalid):
    """The request cannot be read: bad JSON, an unknown field, a wrong type, a bad query."""


_TEXTS: Final[Mapping[int, str]] = {
    400: "The request cannot be read.",
    401: "A valid credential is missing.",
    403: "This is not allowed.",
    404: "There is no such object.",
    409: "It exists already, or others still need it.",
    422: "The request was read but cannot be carried out.",
    500: "Internal error.",
    503: "Not available now, try again.",
    504: "The deadline has passed; the work goes on.",
    507: "A quota or a capacity is exhausted.",
}

# The first class of an error's ancestry that is listed decides. What is not listed is a bug: 500.
_STATUS: Final[Mapping[type[KowabungaError], int]] = {
    Malformed: 400,
    Invalid: 422,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    Cancelled: 409,
    Stale: 412,
    InsufficientResource: 507,
    Unavailable: 503,
    DriverError: 503,  # beyond the contract only 503 and 504 may be answered
    DeadlineExceeded: 504,
}


def answer(error: Exception, request_id: str) -> Answer:
    """Turn any error into what the client is told; a bug is logged here, once."""
    if isinstance(error, ValidationException):
        error = Malformed(_describe(error))
    if isinstance(error, KowabungaError):
        status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)
        if status < HTTPStatus.INTERNAL_SERVER_ERROR or status in (503, 504, 507):
            headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
            return _answer(status, str(error), headers)
    elif isinstance(error, HTTPException) and error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        headers = {
            name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"
        }
        return _answer(error.status_code, error.detail or "refused", headers)
    _log.error("request_failed", exc_info=error)
    return _answer(500, f"a bug of the server; its log tells more under request {request_id}")


class _Fault(msgspec.Struct):
    """One entry of Litestar's list of what is wrong with a request."""

    message: str
    key: str = ""
    source: str = ""


def _describe(error: ValidationException) -> str:
    """Tell what is wrong with a query or a path, or that the body is missing."""
    faults = msgspec.convert(error.extra or [], list[_Fault])
    if any(fault.source == "body" for fault in faults):
        return "the request needs a body"
    told = [
        " ".join(part for part in (fault.source, fault.key, fault.message) if part)
        for fault in faults
    ]
    return "; ".join(told) or "the request cannot be read"


def _answer(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Answer:
    text = _TEXTS.get(status) or f"{HTTPStatus(status).phrase}."
    return Answer(ProblemBody(status, text, reason), headers or {})
