"""The built executable, once per test run."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Final

_TOP: Final = Path(__file__).resolve().parents[2]


@functools.cache
def built_executable() -> Path:
    """Build it from this checkout, as `./build.sh zipapp` does."""
    return build(_TOP, _TOP / "dist" / "kowabunga", python=Path(sys.executable))


def build(checkout: Path, output: Path, *, python: Path) -> Path:
    command = [python, checkout / "bundle" / "build.py", output]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    return output
