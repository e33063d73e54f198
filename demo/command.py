"""Run a command of the system: it ends in time, and what it says is kept for the error."""

import subprocess
from collections.abc import Mapping
from os import environ

from demo.progress import Failed

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(
    *argv: object,
    timeout_s: float = 60,
    stdin: str = "",
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return what it printed; with `check` off, also of one that failed."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**environ, "PATH": PATH, **(environment or {})},
        )
    except FileNotFoundError as missing:
        raise Failed(f"{words[0]} is not installed") from missing
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{' '.join(words)}: did not end within {timeout_s:g} s") from late
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout
