"""Kahunas and agents as processes of their own, and the command line to ask them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.wait import until_now

_START_S = 120.0

_KAHUNA = """
import sys
from pathlib import Path
from appliance.core.logs import LogLevel, configure_logs
from appliance.core.service import run_service
from appliance.roles.kahuna import KahunaConfig, run_kahuna
configure_logs(LogLevel.DEBUG)
state, port = Path(sys.argv[1]), int(sys.argv[2])
config = KahunaConfig(state=state, host="127.0.0.1", port=port, node_name="n1")
run_service(run_kahuna(config, ready=lambda ready: print("ready", ready.url, flush=True)))
"""

_AGENT = """
import sys
from pathlib import Path
from appliance.core.logs import LogLevel, configure_logs
from appliance.core.service import run_service
from appliance.model.agent import AgentType
from appliance.roles.agent_role import AgentRoleConfig, run_agent
configure_logs(LogLevel.DEBUG)
state, kind, credential, url = sys.argv[1:5]
config = AgentRoleConfig(
    state=Path(state), type=AgentType(kind), name="n1",
    kahunas=(url,) if url else (), credential_file=Path(credential) if credential else None,
)
run_service(run_agent(config, ready=lambda: print("agent is up", flush=True)))
"""


@dataclass(slots=True)
class Daemon:
    process: subprocess.Popen[bytes]
    log: Path

    def says(self, text: str) -> bool:
        return text in self.log.read_text()

    def until(self, text: str) -> None:
        def said() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.says(text)

        until_now(said, f"{text!r} in {self.log}", timeout_s=_START_S)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)


@dataclass(slots=True)
class Place:
    """A directory with the state of one node, its processes and their logs."""

    directory: Path
    daemons: list[Daemon] = field(default_factory=list[Daemon])

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def socket(self) -> Path:
        return self.state / "run/api.sock"

    def kahuna(self, port: int = 0) -> Daemon:
        daemon = self._start("-c", _KAHUNA, str(self.state), str(port))
        daemon.until("ready https://")
        return daemon

    def simulation(self, listen: str, key: Path) -> Daemon:
        daemon = self._start(
            "-m", "appliance", "serve", "--simulate", "--listen", listen,
            "--state", str(self.state), "--api-key-file", str(key),
        )  # fmt: skip
        daemon.until("kahuna_ready")
        return daemon

    def agent(self, kind: str, *, credential: Path | None = None, url: str = "") -> Daemon:
        return self._start("-c", _AGENT, str(self.state), kind, str(credential or ""), url)

    def cli(self, *words: object, code: int = 0) -> str:
        """Run a command over the local socket; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "appliance", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "KOWABUNGA_SOCKET": str(self.socket)},
        )
        with (self.directory / "cli.log").open("a") as log:
            log.write(f"{words}\n{done.stdout}\n{done.stderr}\n")
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout if code == 0 else done.stderr

    def ask(self, *words: object) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.cli(*words, "-o", "json"))

    def connected(self, agent_id: str) -> bool:
        return bool(self.ask("agent", "show", agent_id)["sessions"])

    def _start(self, *words: str) -> Daemon:
        log = self.directory / f"{len(self.daemons)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen([sys.executable, *words], stdout=out, stderr=out)
        self.daemons.append(Daemon(process, log))
        return self.daemons[-1]

    def close(self) -> None:
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()


@pytest.fixture
def place(tmp_path: Path) -> Generator[Place]:
    with closing(Place(tmp_path)) as made:
        yield made
