"""A libvirtd of the demo's own, in a mount namespace where libvirt's directories are the demo's.

The libvirt of this machine, if it has one, never notices: neither its sockets nor its guests are
seen or touched.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from demo.places import Places
from demo.progress import Failed
from demo.state import State

DIRECTORIES = {
    "run": Path("/run/libvirt"),
    "lib": Path("/var/lib/libvirt"),
    "etc": Path("/etc/libvirt"),
    "cache": Path("/var/cache/libvirt"),
    "log": Path("/var/log/libvirt"),
}
SOCKET = "libvirt-sock"
_START_S = 60.0  # the first start asks QEMU what it can do
_STOP_S = 30.0
_LIBVIRTD_CONF = 'auth_unix_rw = "none"\nunix_sock_rw_perms = "0600"\nlisten_tls = 0\n'
# Root, since nobody else may look into the demo's directory; no logd, no cgroups, no AppArmor
# profiles: they are the machine's.
_QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
"""


def uri(places: Places) -> str:
    return f"qemu+unix:///system?socket={places.libvirt / 'run' / SOCKET}"


def ensure(places: Places, state: State) -> None:
    """Have libvirtd running."""
    if any("libvirtd" in words for _, words in _processes(places)):
        return
    for name, real in DIRECTORIES.items():
        (places.libvirt / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_mount_point(real, state)
    (places.libvirt / "etc/libvirtd.conf").write_text(_LIBVIRTD_CONF)
    (places.libvirt / "etc/qemu.conf").write_text(_QEMU_CONF)
    mounts = [f"mount --bind {places.libvirt / name} {real}" for name, real in DIRECTORIES.items()]
    pid_file = places.libvirt / "run/demo.pid"
    start = f"exec libvirtd -f /etc/libvirt/libvirtd.conf -p {pid_file}"
    with places.log.open("ab") as log:
        subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-ec",
                "\n".join([*mounts, start]),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    end = time.monotonic() + _START_S
    while not (places.libvirt / "run" / SOCKET).exists() or not pid_file.exists():
        if time.monotonic() > end:
            raise Failed(f"libvirtd does not start, see {places.log}")
        time.sleep(0.1)


def stop(places: Places, state: State) -> None:
    """End libvirtd and every virtual machine of its."""
    end = time.monotonic() + _STOP_S
    number = signal.SIGTERM
    while found := [pid for pid, _ in _processes(places)]:
        for pid in found:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        if time.monotonic() > end:
            raise Failed(f"processes {found} do not end")
        time.sleep(0.2)
        if time.monotonic() > end - _STOP_S / 2:
            number = signal.SIGKILL
    for made in reversed(state.directories):
        if Path(made).is_dir():
            Path(made).rmdir()


def _make_mount_point(directory: Path, state: State) -> None:
    """Make a directory of libvirt's that this machine lacks; `stop` removes it."""
    if directory.is_dir():
        return
    _make_mount_point(directory.parent, state)
    state.directories.append(str(directory))
    state.save()
    directory.mkdir()


def _processes(places: Places) -> list[tuple[int, list[str]]]:
    """Return what runs in the mount namespace of our libvirtd.

    That namespace is known by a process in it, not in ours, which names our directory.
    """
    everybody = list(_everybody())
    ours = str(Path("/proc/self/ns/mnt").readlink())
    mark = f"{places.top}/"
    namespaces = {
        namespace
        for _, namespace, words in everybody
        if namespace != ours and any(mark in word for word in words)
    }
    return [(pid, words) for pid, namespace, words in everybody if namespace in namespaces]


def _everybody() -> Iterator[tuple[int, str, list[str]]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            namespace = str((entry / "ns/mnt").readlink())
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile, or is a thread of the kernel
            continue
        if words != [""]:
            yield int(entry.name), namespace, words
