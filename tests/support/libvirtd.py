"""A libvirtd of the tests' own: private directories, network and process ids.

All of it, every QEMU too, ends with one process, and that one ends when the tests do, however.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.support.needs import need, need_root

_STATE: Final = Path("/run/libvirt/qemu")
# Looking at every QEMU binary takes libvirtd 8 s; it keeps what it finds.
_CAPABILITIES: Final = Path(__file__).parents[2] / ".cache" / "libvirt-capabilities"
_LIMIT_S: Final = 100.0
HALF_STARTED: Final = "<domstatus state='paused' reason='starting up' pid='0'>"
# QEMU runs as root and unconfined here: the kernel of a test machine has no AppArmor, and there is
# no user libvirt-qemu in every one.
_CONFIGURATION: Final = {
    "libvirtd.conf": 'auth_unix_rw = "none"\nhost_uuid = "6b2d9c3e-6b4f-4a8e-9c1d-0123456789ab"\n',
    "qemu.conf": """
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
""",
}
_HOLDER: Final = """
echo $$ > "$1/holder.pid"
exec unshare --mount --net --pid --fork --mount-proc --kill-child sh -c '
    set -e
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 run /run
    mount --bind "$1/log" /var/log
    mkdir -p /run/libvirt /var/cache/libvirt /var/log/libvirt
    mount --bind "$1/run" /run/libvirt
    mount --bind "$2" /var/cache/libvirt
    mount --bind "$1/etc" /etc/libvirt
    mount --bind "$1/lib" /var/lib/libvirt
    ip link set lo up
    echo > "$1/ready"
    exec env --ignore-signal=CHLD cat # what is left to this process leaves no zombie
' sh "$1" "$2"
"""


class Libvirtd:
    """One daemon, which may be killed and started again while its QEMUs go on."""

    def __init__(self, directory: Path, init_pid: int) -> None:
        self.directory = directory
        self.uri = f"qemu+unix:///system?socket={directory}/run/libvirt-sock"
        self._init_pid = init_pid

    def run(self, *argv: str | Path) -> str:
        """Run a command inside, and return what it says."""
        inside = ["nsenter", f"--target={self._init_pid}", "--mount", "--net", "--pid", "--"]
        done = subprocess.run(
            [*inside, *argv],
            check=True,
            capture_output=True,
            timeout=_LIMIT_S,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout.decode()

    def start(self) -> None:
        """Start the daemon; it answers when this returns.

        What a libvirtd was about to start when it was killed, libvirt 9.0 never lets go of: here
        done is what the administrator is told to do then.
        """
        for status in (self.directory / "run" / "qemu").glob("*.xml"):
            if HALF_STARTED in status.read_text():
                status.unlink()
        self.start_as_it_is()

    def start_as_it_is(self) -> None:
        self.run("libvirtd", "--daemon", "--pid-file=/run/libvirt/libvirtd.pid")

    def signal(self, name: str) -> None:
        self.run("sh", "-c", f"kill -{name} $(cat /run/libvirt/libvirtd.pid)")

    def kill(self) -> None:
        """Kill the daemon as a crash does, and return once it is gone."""
        self.signal("KILL")
        self.run("sh", "-c", "while kill -0 $(cat /run/libvirt/libvirtd.pid); do sleep 0.02; done")

    def signal_qemu(self, domain: str, name: str) -> None:
        self.run("sh", "-c", f"kill -{name} $(cat {_STATE}/{domain}.pid)")


@contextmanager
def private_libvirtd() -> Generator[Libvirtd]:
    """Run a libvirtd until the end of the block."""
    need_root()
    for tool in ("libvirtd", "nsenter", "unshare", "setsid", "ip"):
        need(tool)
    # Short: the sockets of consoles lie below it.
    directory = Path(tempfile.mkdtemp(prefix="kwlv"))
    for name in ("run", "etc", "lib", "log"):
        (directory / name).mkdir()
    _CAPABILITIES.mkdir(parents=True, exist_ok=True)
    for file, text in _CONFIGURATION.items():
        (directory / "etc" / file).write_text(text)
    until, hold = os.pipe()
    try:
        places = [str(directory), str(_CAPABILITIES)]
        holder = ["setsid", "--fork", "sh", "-c", _HOLDER, "sh", *places]
        with (directory / "holder.log").open("wb") as log:
            subprocess.run(holder, check=True, stdin=until, stdout=log, stderr=log)
        _wait_for(directory / "ready")
        holder_pid = int((directory / "holder.pid").read_text())
        children = Path(f"/proc/{holder_pid}/task/{holder_pid}/children").read_text()
        daemon = Libvirtd(directory, int(children))
        daemon.start()
        yield daemon
    finally:
        os.close(until)
        os.close(hold)
        with suppress(FileNotFoundError):
            holder_pid = int((directory / "holder.pid").read_text())
            while Path(f"/proc/{holder_pid}").exists():
                time.sleep(0.02)
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError((file.parent / "holder.log").read_text())
        time.sleep(0.02)
