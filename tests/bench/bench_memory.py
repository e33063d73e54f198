"""Memory of an idle node: resident size of its Kahuna and of its agent, from the executable.

The node is a real one with both roles, its agent enrolled and connected, in a directory of its own.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from appliance.roles.node_file import NodeFiles, read_status

_TOP: Final = Path(__file__).resolve().parents[2]
_EXECUTABLE: Final = _TOP / "dist" / "kowabunga"
_IDLE_S: Final = 10.0


def run() -> dict[str, float]:
    build()
    memory = idle_node("")
    return {f"idle_{role}_rss_mb": size for role, size in memory.items()}


def build() -> None:
    """Build the executable that `idle_node` runs."""
    subprocess.run([_TOP / "build.sh", "zipapp"], check=True, stdout=subprocess.DEVNULL)


def idle_node(kaktus: str) -> dict[str, float]:
    """Run a node for a while, with this section for its Kaktus, and return each role's memory."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        config, runtime = place / "node.yaml", place / "run"
        config.write_text(f"state: {place / 'state'}\nkahuna:\n  listen: 127.0.0.1:0\n{kaktus}")
        options = ["--config", str(config), "--runtime", str(runtime)]
        environment = {"SHIV_ROOT": str(place / "unpacked"), "PATH": os.environ["PATH"]}

        def role(*words: str) -> None:
            subprocess.run(
                [_EXECUTABLE, "role", *words, *options],
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

        role("set", "kahuna,kaktus")
        try:
            time.sleep(_IDLE_S)
            status = read_status(NodeFiles(config, runtime))
            assert status is not None
            return {
                name: _resident_mb(each.pid)
                for name, each in status.roles.items()
                if each.pid is not None
            }
        finally:
            role("stop")


def _resident_mb(pid: int) -> float:
    """Return VmRSS: proc(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(f"process {pid} has no memory")
