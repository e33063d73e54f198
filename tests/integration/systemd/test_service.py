"""The node as a service of a real systemd: process 1 of a Debian root in namespaces."""

import functools
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from tests.support.executable import built_executable
from tests.support.needs import need, need_root
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(900)  # the root is made once: 80 s

_TOP: Final = Path(__file__).resolve().parents[3]
_ARCHIVE: Final = _TOP / ".cache" / "systemd-debian-12.tar"
_MAX_AGE_S: Final = 14 * 86400
_PACKAGES: Final = "systemd,systemd-sysv,dbus,python3,iproute2,procps"


@functools.cache
def debian_root() -> Path:
    mmdebstrap = need("mmdebstrap")
    if not _ARCHIVE.exists() or time.time() - _ARCHIVE.stat().st_mtime > _MAX_AGE_S:
        _ARCHIVE.parent.mkdir(exist_ok=True)
        fresh = _ARCHIVE.with_suffix(".new")
        subprocess.run(
            [mmdebstrap, "--quiet", "--format=tar", "--variant=minbase", f"--include={_PACKAGES}",
             '--aptopt=Apt::Install-Recommends "false"', "bookworm", fresh],
            check=True, timeout=300,
        )  # fmt: skip
        fresh.replace(_ARCHIVE)
    return _ARCHIVE


class Machine:
    """A machine that systemd runs; `run` runs a command in it."""

    def __init__(self, init: int) -> None:
        self._init = init

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        namespaces = ("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup")
        done = subprocess.run(
            ["nsenter", f"--target={self._init}", *namespaces, "--root", "--wd=/", *argv],
            env={"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}\n{self._journal()}"
        return done

    def is_booted(self) -> bool:
        done = self.run("systemctl", "is-system-running", check=False)
        return done.stdout.strip() in {"running", "degraded"}

    def property(self, name: str) -> str:
        return self.run("systemctl", "show", "kowabunga", "-p", name, "--value").stdout.strip()

    def write(self, path: str, text: str) -> None:
        Path(f"/proc/{self._init}/root{path}").write_text(text)

    def read(self, path: str) -> str:
        return Path(f"/proc/{self._init}/root{path}").read_text()

    def _journal(self) -> str:
        return self.run("journalctl", "-u", "kowabunga", "--no-pager", check=False).stdout


@pytest.fixture
def machine(tmp_path: Path) -> Generator[Machine]:
    need_root()
    command: list[str | Path] = [
        need("unshare"), "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net", "--fork",
        "--kill-child", Path(__file__).with_name("boot.sh"),
        tmp_path, debian_root(), built_executable(),
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as box:
        children = Path(f"/proc/{box.pid}/task/{box.pid}/children")
        try:
            until_now(lambda: children.read_text() != "", "the box has a process 1")
            init = int(children.read_text())
            name = Path(f"/proc/{init}/comm")
            until_now(lambda: name.read_text() == "systemd\n", "systemd runs")
            made = Machine(init)
            until_now(made.is_booted, "systemd has booted")
            yield made
        finally:
            box.kill()


def test_the_node_is_a_service_of_systemd(machine: Machine) -> None:
    # What the service could not see is refused before anything is changed.
    machine.run("cp", "/usr/local/bin/kowabunga", "/root/kowabunga")
    refused = machine.run("/root/kowabunga", "role", "set", "kahuna", check=False)
    assert refused.returncode != 0
    assert "copy it to /usr/local/bin" in refused.stderr
    assert machine.run("ls", "/etc/kowabunga/node.yaml", check=False).returncode != 0

    done = machine.run("kowabunga", "role", "set", "kahuna,kiwi")
    assert done.stdout == ""
    assert "started the node's supervisor" in done.stderr
    assert machine.property("ActiveState") == "active"
    assert machine.property("UnitFileState") == "enabled"
    assert machine.property("StatusText") == "kahuna running, kiwi running"
    (agent,) = machine.run("kowabunga", "agent", "list").stdout.splitlines()[1:]
    assert agent.split()[-2:] == ["ed25519", "yes"]
    assert machine.run("kowabunga", "role", "set", "kahuna,kiwi").stderr == "nothing to do\n"
    assert machine.property("NRestarts") == "0"

    # A change by hand is noticed by the running service, a broken one is refused by it.
    process = machine.property("MainPID")
    machine.write("/etc/kowabunga/node.yaml", "roles: [kahuna]\nkahuna: {lisen: x}\n")
    until_now(lambda: "no such field" in show(machine), "refused")
    machine.write("/etc/kowabunga/node.yaml", "roles: [kahuna]\n")
    until_now(lambda: machine.property("StatusText") == "kahuna running", "applied")
    assert machine.property("MainPID") == process

    # systemd starts a dead supervisor again, and the roles come back with it.
    machine.run("kill", "-9", process)
    until_now(
        lambda: (
            machine.property("StatusText") == "kahuna running"
            and machine.property("MainPID") not in {"0", process}
        ),
        "started again",
    )
    assert machine.property("NRestarts") == "1"

    machine.run("kowabunga", "role", "stop")
    assert machine.property("ActiveState") == "inactive"
    assert machine.property("UnitFileState") == "disabled"
    assert machine.run("pgrep", "-f", "kowabunga", check=False).stdout == ""
    assert "roles: [kahuna]" in machine.read("/etc/kowabunga/node.yaml")


def show(machine: Machine) -> str:
    return machine.run("kowabunga", "role", "show", check=False).stderr
