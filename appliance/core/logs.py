"""Structured logs: one line of JSON per event, or readable text on a terminal.

`request_id` and `operation_id` come from contextvars (`bound`). What other libraries log goes the
same way. Nothing here makes it right to log a secret: masking is the last line of defence.
"""

import json
import logging
import re
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from typing import Final, TextIO, TypeAlias, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from appliance.core.text import escape_controls

# Our keys carry a prefix so that this net, and secret scanners elsewhere, can know them.
_SECRETS: Final = re.compile(
    r"(?P<prefix>kw[bg]_)[A-Za-z0-9_\-+/=.]{8,}"
    r"|-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----.*?"
    r"(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_MASK: Final = "***"
# Of one text of an event: what strangers send, a path for instance, must not fill a disk.
_MOST_CHARACTERS: Final = 2000
_MOST_OF_A_TRACEBACK: Final = 50_000

# Libraries that tell every request or frame at INFO or DEBUG, headers included.
_QUIET: Final = {
    "asyncio": logging.WARNING,
    "httpcore": logging.WARNING,
    "httpx": logging.WARNING,
    "uvicorn": logging.WARNING,
    "uvicorn.access": logging.WARNING,  # uvicorn itself takes it off the tree
    "websockets": logging.WARNING,
}

_Value: TypeAlias = object


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def bound(**context: str | int) -> AbstractContextManager[None]:
    """Add `context` (request_id=..., operation_id=...) to every event logged inside the block."""
    return structlog.contextvars.bound_contextvars(**context)


def mask_secrets(text: str) -> str:
    """Replace anything that looks like one of our keys or like a PEM private key."""
    return _SECRETS.sub(lambda found: (found["prefix"] or "") + _MASK, text)


def configure_logs(
    level: LogLevel = LogLevel.INFO, *, stream: TextIO | None = None, text: bool | None = None
) -> None:
    """Set up logging for this process; calling it again replaces the earlier set-up.

    `stream` is standard error by default: standard output belongs to data. `text` forces readable
    lines (True) or JSON (False); by default a terminal gets text.
    """
    out = stream or sys.stderr
    readable = out.isatty() if text is None else text
    render = (
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        )
        if readable
        else _JSON
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(_formatter(render))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, quiet in _QUIET.items():
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(quiet)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


@contextmanager
def copied_to(handler: logging.Handler, *, logger: str = "") -> Generator[None]:
    """Give `handler` the events below `logger` too (all by default), as JSON, inside the block."""
    handler.setFormatter(_formatter(_JSON))
    source = logging.getLogger(logger or None)
    source.addHandler(handler)
    try:
        yield
    finally:
        source.removeHandler(handler)


_JSON: Final = structlog.processors.JSONRenderer(serializer=json.dumps)


def _shared() -> list[Processor]:
    """Return what happens to every event, whoever logs it and whatever shows it."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Plain tracebacks: local variables, which may hold keys, are never shown.
        structlog.processors.format_exc_info,
        _clean,
    ]


def _formatter(render: Processor) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.PositionalArgumentsFormatter(), *_shared()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
    )


def _clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Shorten every text of the event, however deep, mask secrets and escape control characters."""
    for name, value in list(event.items()):
        if name == "exception":
            # A traceback keeps its lines; JSON escapes them anyway.
            event[name] = _clean_text(str(value), _MOST_OF_A_TRACEBACK, keep="\n")
        elif name not in ("_record", "_from_structlog"):
            event[name] = _cleaned(value)
    return event


def _cleaned(value: _Value) -> _Value:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        members = cast("dict[_Value, _Value]", value)
        return {str(_cleaned(key)): _cleaned(member) for key, member in members.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_cleaned(member) for member in cast("list[_Value]", value)]
    return _clean_text(str(value), _MOST_CHARACTERS)


def _clean_text(text: str, most: int, *, keep: str = "") -> str:
    left = f"... and {len(text) - most} characters more" if len(text) > most else ""
    return escape_controls(mask_secrets(text[:most]), keep=keep) + left
