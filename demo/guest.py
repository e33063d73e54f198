"""The guest: its image, built once and kept, and the way into it."""

import hashlib
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copyfileobj

from demo.cloud import Machine
from demo.command import run
from demo.places import Places
from demo.progress import Failed, Steps

RECIPE = Path(__file__).parent / "guest-image"
FILES = Path(__file__).parent / "guest"
_BUILD_S = 1800
_SET_UP_S = 900.0  # emulated, on a machine that has other things to do


def image(cache: Path, steps: Steps) -> Path:
    """Return the Debian image, built where this recipe's is not in the cache."""
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    if suite not in {"bookworm", "trixie"}:
        raise Failed(
            f"this is no Debian 12 or 13 ({suite or 'unknown'}); name an image: --image URL"
        )
    recipe = hashlib.sha256(f"{suite} {platform.machine()}".encode())
    for file in sorted(one for one in (RECIPE, *FILES.rglob("*")) if one.is_file()):
        recipe.update(file.read_bytes())
    built = cache / f"{suite}-{recipe.hexdigest()[:16]}.qcow2"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with steps.step(f"guest image of Debian's packages ({suite}), minutes"):
            run(RECIPE, suite, built, timeout_s=_BUILD_S)
    return built


@contextmanager
def source(wanted: str | None, cache: Path, steps: Steps) -> Iterator[tuple[str, bool]]:
    """Yield the URL of the image for the node, and whether it is on this machine."""
    if wanted is not None and "://" in wanted:
        yield wanted, False
        return
    file = image(cache, steps) if wanted is None else Path(wanted).resolve()
    if not file.is_file():
        raise Failed(f"there is no file {file}")
    with serve(file) as url:
        yield url, True


@contextmanager
def serve(file: Path) -> Iterator[str]:
    """Give a file out on the loopback, for the life of the block; yields its URL."""

    class OneFile(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != f"/{file.name}":
                self.send_error(404)
                return
            with file.open("rb") as content:
                self.send_response(200)
                self.send_header("Content-Length", str(file.stat().st_size))
                self.end_headers()
                copyfileobj(content, self.wfile)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its parent's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), OneFile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{file.name}"
        server.shutdown()


def ensure_key(places: Places) -> None:
    """Make the key of the demo's project."""
    if not places.ssh_key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f", places.ssh_key)


def wait_until_set_up(places: Places, machine: Machine) -> None:
    """Wait until cloud-init in the guest is done."""
    end = time.monotonic() + _SET_UP_S
    while True:
        said = ssh(places, machine, "cloud-init status --wait", timeout_s=_SET_UP_S, check=False)
        if "status: done" in said:
            return
        if "status: error" in said:
            raise Failed(f"cloud-init failed: {ssh(places, machine, 'cloud-init status --long')}")
        if time.monotonic() > end:
            raise Failed(f"{machine.name} did not come up; its console: {_console(places)}")
        time.sleep(1)


def ssh(
    places: Places, machine: Machine, command: str, *, timeout_s: float = 60, check: bool = True
) -> str:
    """Run a command in the guest, with the project's key."""
    options = (
        *("-F", "none", "-i", places.ssh_key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
        *("-o", f"UserKnownHostsFile={places.known_hosts}", "-o", "LogLevel=ERROR"),
        *("-o", "StrictHostKeyChecking=accept-new", "-o", "ConnectTimeout=5"),
        *("-o", "ServerAliveInterval=15"),
    )
    return run(
        "ssh", *options, f"{machine.user}@{machine.address}", command,
        timeout_s=timeout_s, check=check,
    )  # fmt: skip


def _console(places: Places) -> str:
    """Return the end of what the guests' serial lines said."""
    logs = (places.node_state / "consoles").rglob("*.log")
    return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs) or "no output"
