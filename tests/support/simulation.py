"""`kowabunga serve --simulate` as a process of its own."""

import re
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from tests.support.wait import until_now

_START_S: Final = 120.0
_STOP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """A running one; `url` and `key_file` as it told them."""

    url: str
    key_file: Path
    log: Path
    process: subprocess.Popen[bytes]

    def client(self, timeout_s: float = 60.0) -> httpx.Client:
        """Return a client with the master key."""
        key = self.key_file.read_text(encoding="ascii").strip()
        return httpx.Client(
            base_url=self.url, headers={"x-api-key": key}, timeout=timeout_s, trust_env=False
        )


@contextmanager
def simulation(
    directory: Path, *, nodes: int = 0, program: Sequence[str] = ("appliance",)
) -> Generator[Simulated]:
    """Run one with its state in `directory` for the life of the block.

    `program`: the module to run, and what comes before its command.
    """
    log, key_file = directory / "serve.log", directory / "master.key"
    command = [
        sys.executable, "-m", *program, "serve", "--simulate", "--listen", "127.0.0.1:0",
        "--simulate-nodes", str(nodes), "--state", str(directory / "state"),
        "--api-key-file", str(key_file),
    ]  # fmt: skip
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            until_now(
                lambda: process.poll() is not None or "serving " in log.read_text(),
                f"{log} tells where it serves",
                timeout_s=_START_S,
            )
            told = re.search(r"serving (\S+), key in", log.read_text())
            assert told is not None, log.read_text()
            yield Simulated(told[1], key_file, log, process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            finally:
                process.kill()
