"""One line for each step, with the time that it took."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

NAME_WIDTH = 58


class Failed(Exception):
    """What went wrong, for whoever started the demo."""


class Step:
    def __init__(self) -> None:
        self.said = ""

    def note(self, text: str) -> None:
        """Add something to the step's line."""
        self.said = f"  {text}" if text else ""


class Steps:
    def __init__(self) -> None:
        self._begin = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Print the name now, and how long it took when it is done."""
        sys.stdout.write(f"{name:<{NAME_WIDTH}} ")
        sys.stdout.flush()
        begin = time.monotonic()
        step = Step()
        try:
            yield step
        except BaseException:
            sys.stdout.write("failed\n")
            raise
        sys.stdout.write(f"{time.monotonic() - begin:5.1f} s{step.said}\n")
        sys.stdout.flush()

    def end(self) -> None:
        print(f"{'in all':<{NAME_WIDTH}} {time.monotonic() - self._begin:5.1f} s")
