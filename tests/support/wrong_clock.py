"""The program on a machine whose wall clock is set: wrong by what a file says at each look.

Run: python -m tests.support.wrong_clock FILE ARGUMENT...

The monotonic clock goes on as it is, as that of a real machine does.
"""

import sys
import time
from pathlib import Path

from appliance.cli.main import run


def set_clock(file: Path, seconds: float) -> None:
    """Have the clock be ahead by so many seconds from now on; fewer than none: behind."""
    new = file.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(file)


def clock_of(file: Path) -> Path:
    """Return the file of the clock of a process that has a file of its own."""
    return file.with_name(f"{file.name}.clock")


def skew(file: Path) -> None:
    """Have the clock of this process be as wrong as the file says."""
    right, right_ns = time.time, time.time_ns

    def ahead_s() -> float:
        return float(file.read_text())

    time.time = lambda: right() + ahead_s()
    time.time_ns = lambda: right_ns() + round(ahead_s() * 1e9)


if __name__ == "__main__":
    skew(Path(sys.argv[1]))
    sys.exit(run(sys.argv[2:]))
