"""The built executable, and nodes that it runs, each in directories of its own."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

from appliance.model.node_status import NodeStatus
from appliance.roles.node_file import NodeFiles, read_status
from tests.support.executable import built_executable
from tests.support.wait import until_now

_MEMORY: Final = Path("/dev/shm")


@pytest.fixture(scope="session")
def executable() -> Path:
    return built_executable()


@pytest.fixture(scope="session")
def unpacked(executable: Path) -> Generator[Path]:
    """Return a SHIV_ROOT that is not tampered with."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as root:
        yield Path(root)


class RealNode:
    """A node whose file and run directory are below `directory`."""

    def __init__(
        self, directory: Path, executable: Path, unpacked: Path, *, listen: str = "127.0.0.1:0"
    ) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.files = NodeFiles(directory / "node.yaml", directory / "run")
        self._executable = executable
        self._unpacked = unpacked
        self._environment = {"SHIV_ROOT": str(unpacked), "PATH": os.environ["PATH"]}
        self.files.config.write_text(
            f"# a node of the tests\nstate: {self.state}\nkahuna:\n  listen: {listen}\n"
        )

    def another(self, name: str, listen: str) -> "RealNode":
        directory = self.directory / name
        directory.mkdir()
        return RealNode(directory, self._executable, self._unpacked, listen=listen)

    def role(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run("role", *arguments, *self.options, code=code)

    @property
    def options(self) -> tuple[str, ...]:
        return "--config", str(self.files.config), "--runtime", str(self.files.runtime)

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self._executable, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == code, self.told(done)
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self._executable, *arguments],
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def agents(self) -> list[dict[str, Any]]:
        socket = str(self.state / "run" / "api.sock")
        found: list[dict[str, Any]] = json.loads(
            self.run("agent", "list", "-o", "json", "--socket", socket).stdout
        )
        return found

    def status(self) -> NodeStatus | None:
        return read_status(self.files)

    def told(self, done: subprocess.CompletedProcess[str]) -> str:
        log = self.files.log.read_text() if self.files.log.exists() else "no log"
        return f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}\n{log}"


@pytest.fixture
def node(executable: Path, unpacked: Path) -> Generator[RealNode]:
    # A short path: sockets of consoles lie below it, whose paths are bounded.
    with tempfile.TemporaryDirectory(prefix="kwn") as directory:
        made = RealNode(Path(directory), executable, unpacked)
        yield made
        made.role("stop")
        options = b"\0".join(option.encode() for option in made.options)
        processes = Path("/proc").glob
        until_now(
            lambda: not any(options in _read(path) for path in processes("[0-9]*/cmdline")),
            "no supervisor is left",
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.fixture
def memory() -> Generator[Path]:
    """Return a directory in memory, where unpacking takes no time to speak of."""
    place = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
    yield place
    shutil.rmtree(place, ignore_errors=True)
