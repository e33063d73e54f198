"""A line on the terminal that tells that the program is at work, and how long it has been."""

import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import click

from appliance.core.text import escape_controls

_SILENT_S: Final = 1.0


@contextmanager
def progress(what: str) -> Generator[None]:
    """Tell `what` takes its time on standard error, if that is a terminal; wiped at the end."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    ticker = threading.Thread(target=_tick, args=(escape_controls(what), done), daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()


def _tick(what: str, done: threading.Event) -> None:
    started = time.monotonic()
    told = ""
    while not done.wait(_SILENT_S):
        told = f"{what}: {time.monotonic() - started:.0f} s"
        click.echo(f"\r{told}", nl=False, err=True)
    if told:
        click.echo("\r" + " " * len(told) + "\r", nl=False, err=True)
