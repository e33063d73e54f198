"""Logs of the code under test: into memory, and put back as they were."""

import io
import logging
from collections.abc import Generator
from contextlib import contextmanager

import structlog

from appliance.core.logs import LogLevel, configure_logs


@contextmanager
def captured_logs(level: LogLevel = LogLevel.DEBUG) -> Generator[io.StringIO]:
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs(level, stream=stream)
    try:
        yield stream
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        logging.captureWarnings(capture=False)
        structlog.reset_defaults()
