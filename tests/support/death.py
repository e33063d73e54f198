"""How a test tells a process of ours at which point to die, as if by kill -9: through a file."""

import os
import signal
from pathlib import Path
from typing import Final

import structlog

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


def arm(file: Path, point: str) -> None:
    """Have the process that looks at this file die at a point."""
    written = file.with_suffix(".new")
    written.write_text(point)
    written.replace(file)


class Death:
    """Looks at each point whether it is the one to die at; the file is gone then."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pass_by(self, point: str) -> None:
        _log.info("passed_by", point=point)
        if self._file.exists() and self._file.read_text() == point:
            self._file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
