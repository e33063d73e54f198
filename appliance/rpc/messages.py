"""JSON-RPC 2.0 frames: their bytes and nothing else.

Strict about what it reads: ids are integers, batches are refused, and every frame that cannot be
used becomes a `Malformed` that says which standard code answers it. Must not do input or output.
"""

from enum import IntEnum
from itertools import islice
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from appliance.core.errors import (
    ContextValue,
    Invalid,
    KowabungaError,
    NotFound,
    Problem,
    from_problem,
)
from appliance.rpc.gateway import Command

R = TypeVar("R", bound=msgspec.Struct)

MAX_MESSAGE_BYTES: Final = 1 << 20
_MOST_TEXT: Final = 2000  # characters of an error's texts
_MOST_CONTEXT: Final = 32
_MAX_DEADLINE_MS: Final = 24 * 3600 * 1000

CallId = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class ErrorCode(IntEnum):
    """The standard's codes, and one for our own errors: there `data` is a Problem."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    PROBLEM = -32000


class CallParams(msgspec.Struct, frozen=True):
    """The envelope of every call: what is left of its deadline, its fence, its arguments."""

    deadline_ms: Annotated[int, Meta(ge=0, le=_MAX_DEADLINE_MS)] = 0
    command: Command | None = None
    arguments: Raw = Raw(b"{}")


class ErrorObject(msgspec.Struct, frozen=True, omit_defaults=True):
    code: int
    message: str
    data: Problem | None = None


class Frame(msgspec.Struct, frozen=True):
    """A call or notification (`method`), or the answer to one (`result` or `error`)."""

    jsonrpc: Literal["2.0"]
    id: CallId | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: CallParams | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: ErrorObject | UnsetType = UNSET


class Malformed(Exception):
    """A frame that cannot be used.

    Args:
        code: what the standard says about it.
        detail: one sentence.
        call_id: the id, if one could be read.
        is_answer: it was meant as an answer, so it must not be answered.
    """

    def __init__(
        self, code: ErrorCode, detail: str, *, call_id: int | None = None, is_answer: bool = False
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.call_id = call_id
        self.is_answer = is_answer


class _Salvage(msgspec.Struct):
    """What is read of a frame that does not fit, to answer it under its own id."""

    id: Raw = Raw(b"null")
    method: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _OutgoingParams(msgspec.Struct):
    deadline_ms: int
    command: Command | None
    arguments: msgspec.Struct


class _OutgoingCall(msgspec.Struct):
    id: int | UnsetType
    method: str
    params: _OutgoingParams
    jsonrpc: str = "2.0"


class _OutgoingResult(msgspec.Struct):
    id: int
    result: msgspec.Struct
    jsonrpc: str = "2.0"


class _OutgoingError(msgspec.Struct):
    id: int | None
    error: ErrorObject
    jsonrpc: str = "2.0"


_encoder: Final = msgspec.json.Encoder()
_frame_decoder: Final = msgspec.json.Decoder(Frame)
_salvage_decoder: Final = msgspec.json.Decoder(_Salvage)
_id_decoder: Final[msgspec.json.Decoder[int]] = msgspec.json.Decoder(CallId)
_NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_call(
    call_id: int | None,
    method: str,
    arguments: msgspec.Struct,
    *,
    deadline_ms: int = 0,
    command: Command | None = None,
) -> bytes:
    """Return the frame of a call, or of a notification if `call_id` is None.

    Raises:
        Invalid: it would be larger than MAX_MESSAGE_BYTES.
    """
    params = _OutgoingParams(min(deadline_ms, _MAX_DEADLINE_MS), command, arguments)
    frame = _encoder.encode(_OutgoingCall(UNSET if call_id is None else call_id, method, params))
    _check_size(frame, method)
    return frame


def encode_result(call_id: int, result: msgspec.Struct) -> bytes:
    """Return the frame of an answer.

    Raises:
        Invalid: it would be larger than MAX_MESSAGE_BYTES.
    """
    frame = _encoder.encode(_OutgoingResult(call_id, result))
    _check_size(frame, "the answer")
    return frame


def encode_problem(call_id: int | None, error: KowabungaError) -> bytes:
    """Return the frame of a failed call; the receiver rebuilds the error from its `data`."""
    code = ErrorCode.PROBLEM
    if isinstance(error, NotFound) and error.context.get("reason") == "unknown_method":
        code = ErrorCode.METHOD_NOT_FOUND
    elif isinstance(error, Invalid) and error.context.get("reason") == "bad_params":
        code = ErrorCode.INVALID_PARAMS
    elif error.code == KowabungaError.code:
        code = ErrorCode.INTERNAL_ERROR
    return _encode_error(call_id, code, error.to_problem())


def encode_refusal(refused: Malformed) -> bytes:
    """Return the answer to a frame that could not be used."""
    reason = refused.code.name.lower()
    problem = Problem(Invalid.code, refused.detail, context={"reason": reason})
    return _encode_error(refused.call_id, refused.code, problem)


def decode_frame(data: bytes) -> Frame:
    """Read one frame.

    Raises:
        Malformed: with the code that answers it; never anything else, whatever the bytes.
    """
    try:
        frame = _frame_decoder.decode(data)
    except _NOT_JSON as bad:
        raise _explain(data, bad) from bad
    if frame.id is None and frame.method is not UNSET:
        raise Malformed(ErrorCode.INVALID_REQUEST, "the id of a call is an integer, not null")
    if frame.method is UNSET and (frame.result is UNSET) == (frame.error is UNSET):
        raise Malformed(
            ErrorCode.INVALID_REQUEST,
            "a frame is a call with a method, or an answer with either result or error",
            call_id=frame.id or None,
        )
    return frame


def rebuild_error(error: ErrorObject) -> KowabungaError:
    """Return the error of the other side, no longer than what is kept and shown of it."""
    if error.data is None:
        return KowabungaError(f"the other side failed: {_short(error.message)} ({error.code})")
    told = error.data
    context = dict(islice(told.context.items(), _MOST_CONTEXT))
    return from_problem(
        Problem(
            told.code,
            _short(told.detail),
            None if told.hint is None else _short(told.hint),
            {_short(key): _short_value(value) for key, value in context.items()},
        )
    )


def _short(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 3] + "..."


def _short_value(value: ContextValue) -> ContextValue:
    if isinstance(value, str):
        return _short(value)
    return value if -(2**63) <= value < 2**63 else 0


def _encode_error(call_id: int | None, code: ErrorCode, problem: Problem) -> bytes:
    error = ErrorObject(code, problem.detail, problem)
    frame = _encoder.encode(_OutgoingError(call_id, error))
    if len(frame) <= MAX_MESSAGE_BYTES:
        return frame
    short = Problem(problem.code, problem.detail[:1000], context={"truncated": 1})
    return _encoder.encode(_OutgoingError(call_id, ErrorObject(code, short.detail, short)))


def _check_size(frame: bytes, what: str) -> None:
    if len(frame) > MAX_MESSAGE_BYTES:
        raise Invalid(
            f"{what} has {len(frame)} bytes, {MAX_MESSAGE_BYTES} fit into one message",
            hint="split it, or use a byte stream",
            reason="message_too_big",
        )


def _explain(data: bytes, bad: Exception) -> Malformed:
    """Find out why a frame was refused, and under which id to say so."""
    detail = str(bad)[:200]
    try:
        salvaged = _salvage_decoder.decode(data)
    except msgspec.ValidationError:
        if data.lstrip()[:1] == b"[":
            detail = "batches are not served: send one call per frame"
        return Malformed(ErrorCode.INVALID_REQUEST, detail)
    except _NOT_JSON:
        return Malformed(ErrorCode.PARSE_ERROR, detail)
    call_id = _salvage_id(salvaged.id)
    if salvaged.method is UNSET and (salvaged.result is not UNSET or salvaged.error is not UNSET):
        return Malformed(ErrorCode.INVALID_REQUEST, detail, call_id=call_id, is_answer=True)
    in_params = "$.params" in detail and call_id is not None
    code = ErrorCode.INVALID_PARAMS if in_params else ErrorCode.INVALID_REQUEST
    return Malformed(code, detail, call_id=call_id)


def _salvage_id(raw: Raw) -> int | None:
    try:
        return _id_decoder.decode(raw)
    except _NOT_JSON:
        return None


def decode_result(raw: Raw, kind: type[R]) -> R:
    """Convert a result.

    Raises:
        ValueError: it does not fit.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except RecursionError as bad:
        raise ValueError(str(bad)) from bad
