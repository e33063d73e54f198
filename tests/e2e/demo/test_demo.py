"""The README's first command gives a real virtual machine, and takes everything away again.

It builds the image of the guest, unless that is in the cache, and boots it: minutes of emulation.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from tests.support.needs import lack, need, need_root

pytestmark = pytest.mark.timeout(1500)
_TOP: Final = Path(__file__).resolve().parents[3]
_LIBVIRT: Final = ("/run", "/etc", "/var/lib", "/var/cache", "/var/log")
_CGROUPS: Final = Path("/sys/fs/cgroup")


@pytest.fixture
def state() -> Generator[Path]:
    need_root()
    need("apt-get")  # it installs what is missing
    if Path("/sys/class/net/kdemo-gw").exists():
        lack("a demo runs on this machine already")
    # Not pytest's own directory: the path of a socket has room for 107 characters.
    with tempfile.TemporaryDirectory(prefix="kw-demo-", dir="/var/tmp") as parent:
        place = Path(parent) / "state"
        try:
            yield place
        finally:
            demo(place, "down")


def demo(state: Path, *arguments: str, check: bool = True) -> str:
    done = subprocess.run(
        [_TOP / "build.sh", "demo", *arguments, "--state", state],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1400,
        check=False,
    )
    if check and done.returncode != 0:
        log = state / "run" / "node.log"
        pytest.fail(f"{done.stdout}\n{log.read_text()[-5000:] if log.exists() else ''}")
    return done.stdout


def inventory(state: Path) -> dict[str, object]:
    """Return all that a demo could leave on this machine."""
    links = json.loads(_run("ip", "-json", "link"))
    return {
        "links": sorted(link["ifname"] for link in links),
        "addresses": _run("ip", "-brief", "address").split(),
        "routes": sorted(_run("ip", "route", "show", "table", "all").splitlines()),
        "nftables": _run("nft", "list", "tables"),
        "forwarding": {
            file.parent.name: file.read_text()
            for file in Path("/proc/sys/net/ipv4/conf").glob("*/forwarding")
        },
        "libvirt": [list(Path(parent).glob("libvirt/**/*")) for parent in _LIBVIRT],
        "node": [path for path in map(Path, ("/etc/kowabunga", "/run/kowabunga")) if path.exists()],
        "cgroups": sorted(path for path in _CGROUPS.glob("**/machine*") if path.is_dir()),
        "processes": sorted(_processes(state)),
        "files": state.exists(),
    }


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _processes(state: Path) -> Generator[str]:
    """Yield what names the demo's directory, or has it mounted somewhere."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            mounts = (process / "mountinfo").read_text()
        except OSError:  # it ended meanwhile
            continue
        if int(process.name) != os.getpid() and (str(state) in words or str(state) in mounts):
            yield words.replace("\0", " ")


def test_the_demo_runs_a_machine_and_leaves_nothing_behind(state: Path) -> None:
    before = inventory(state)

    said = demo(state)
    assert "\nLinux demo-1 " in said
    for named in ("https://127.0.0.1:", "master.key", "ssh -i ", "./build.sh demo down"):
        assert named in said
    key = (state / "master.key").read_text().strip()
    assert key not in said
    during = _processes(state)
    assert not any(key in words for words in during)
    kompute = _list(state, "kompute")
    assert [one["name"] for one in kompute] == ["demo-1"]

    again = demo(state)
    assert "\nLinux demo-1 " in again
    assert "boots" not in again
    assert _list(state, "kompute") == kompute
    assert "kaktus  running" in demo(state, "status")

    demo(state, "down")
    assert inventory(state) == before
    assert "nothing is there" in demo(state, "down")


def _list(state: Path, kind: str) -> list[dict[str, object]]:
    """Ask as the demo tells one to: with the command line, by the file that it wrote."""
    command = f". {state}/env; exec {_TOP}/dist/kowabunga {kind} list -o json"
    found: list[dict[str, object]] = json.loads(_run("sh", "-c", command))
    return found
