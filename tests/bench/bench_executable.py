"""The executable: how long `--version` takes above a bare Python, and how large the archive is."""

import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

_TOP: Final = Path(__file__).resolve().parents[2]
_EXECUTABLE: Final = _TOP / "dist" / "kowabunga"
_RUNS: Final = 30


def run() -> dict[str, float]:
    subprocess.run([_TOP / "build.sh", "zipapp"], check=True, stdout=subprocess.DEVNULL)
    bare, version, command = [], [], []
    with tempfile.TemporaryDirectory() as unpacked:
        environment = {"SHIV_ROOT": unpacked}
        begin = time.perf_counter()
        _time([str(_EXECUTABLE), "role", "--help"], environment)
        first = time.perf_counter() - begin
        # In turns, so that noise of the machine falls on all alike.
        for _ in range(_RUNS):
            bare.append(_time(["/usr/bin/python3", "-I", "-c", "pass"], {}))
            version.append(_time([str(_EXECUTABLE), "--version"], environment))
            command.append(_time([str(_EXECUTABLE), "role", "--help"], environment))
    python = statistics.median(bare)
    return {
        "bare_python_ms": python * 1000,
        "version_above_bare_python_ms": (statistics.median(version) - python) * 1000,
        "help_above_bare_python_ms": (statistics.median(command) - python) * 1000,
        "first_start_ms": first * 1000,
        "archive_mb": _EXECUTABLE.stat().st_size / 1e6,
    }


def _time(argv: list[str], environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin
