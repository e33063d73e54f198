"""A guest that boots in seconds and runs one Python program: for what this kernel lacks."""

import asyncio
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.support.initramfs import Initramfs
from tests.support.needs import need, need_cloud_kernel

_PACKAGES: Final = "/packages"
_REPORT: Final = "report "
_INIT: Final = """\
#!/usr/bin/python3
import ctypes, os, sys, traceback

libc = ctypes.CDLL(None)
libc.mount(b"proc", b"/proc", b"proc", 0, None)
libc.mount(b"devtmpfs", b"/dev", b"devtmpfs", 0, None)
os.symlink("/proc/self/fd/0", "/dev/stdin")
for module in {modules!r}:
    with open(module, "rb") as file:
        libc.syscall(313, file.fileno(), b"", 0)  # finit_module
os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
sys.path.insert(0, {packages!r})
try:
    import {program}
    {program}.main()
except BaseException:
    traceback.print_exc()
sys.stdout.flush()
libc.reboot(0x4321FEDC)  # power off
"""


class PythonGuest:
    """A running guest; the program tells of itself with `report {JSON}` on lines of its own."""

    def __init__(self, process: Process, control: Path) -> None:
        self._process = process
        self._control = control
        self._said: list[str] = []

    def tell(self, line: str) -> None:
        """Send a line to the program's standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def save(self, file: Path) -> None:
        """Keep all of the guest but its disk; it stands still from now on."""
        reader, writer = await asyncio.open_unix_connection(self._control)
        capabilities = [{"capability": "events", "state": True}]
        for command, arguments in (  # QEMU's QMP, docs/interop/qemu-qmp-ref
            ("qmp_capabilities", {}),
            ("migrate-set-capabilities", {"capabilities": capabilities}),
            ("migrate", {"uri": f"exec:cat >{file}"}),
        ):
            writer.write(msgspec.json.encode({"execute": command, "arguments": arguments}))
        said: dict[str, Any] = {}
        while (said.get("event"), said.get("data")) != ("MIGRATION", {"status": "completed"}):
            said = msgspec.json.decode(await reader.readline())
            assert "error" not in said, said
        writer.close()

    async def report(self) -> Any:  # noqa: ANN401 - JSON
        """Return what the program reports next."""
        assert self._process.stdout is not None
        while raw := await self._process.stdout.readline():
            line = raw.decode(errors="replace").strip()
            if line.startswith(_REPORT):
                return msgspec.json.decode(line.removeprefix(_REPORT))
            self._said.append(line)
        raise AssertionError("the guest has ended:\n" + "\n".join(self._said[-40:]))


@asynccontextmanager
async def python_guest(
    directory: Path,
    *,
    program: str,
    packages: Iterable[Path],
    commands: Iterable[str],
    modules: Iterable[str],
    network: str = "user,id=n,restrict=on",
    medium: Path | None = None,
    disk: Path | None = None,
    memory_mib: int = 512,
    saved: Path | None = None,
) -> AsyncGenerator[PythonGuest]:
    """Run `main()` of the module `program` as the only process of a guest.

    `packages`: folders and single files of what it imports.
    `network`: the back end of its network card, as QEMU's -netdev has it, with the id "n".
    `medium`: what lies in its CD-ROM drive, /dev/sr0.
    `disk`: an image that is its disk, /dev/vda. What it wrote and did not flush ends with it.
    `saved`: where `save` has kept a guest made with all the same; it goes on from there.
    """
    kernel, qemu = need_cloud_kernel(), need("qemu-system-x86_64")
    image, control = directory / "initramfs", directory / "control"
    if saved is None:
        files = Initramfs()
        files.add_python()
        for package in packages:
            add = files.add_tree if package.is_dir() else files.add_file
            add(package, f"{_PACKAGES}/{package.name}")
        for command in commands:
            files.add_command(need(command))
        order = files.add_modules(kernel.name.removeprefix("vmlinuz-"), modules)
        init = _INIT.format(modules=order, packages=_PACKAGES, program=program)
        files.add("init", init.encode())
        files.write(image)
    more: list[str] = []
    if medium is not None:
        more = ["-drive", f"if=none,id=m,media=cdrom,format=raw,file={medium}",
                 "-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=m"]  # fmt: skip
    if disk is not None:
        more += ["-drive", f"if=none,id=d,format=raw,file={disk}",
                  "-device", "virtio-blk-pci,drive=d"]  # fmt: skip
    if saved is not None:
        more += ["-incoming", f"exec:cat {saved}"]
    process = await asyncio.create_subprocess_exec(
        qemu, "-accel", "tcg,tb-size=128", "-cpu", "max", "-m", str(memory_mib),
        "-nodefaults", "-no-user-config",
        "-display", "none", "-serial", "stdio", "-no-reboot",
        "-qmp", f"unix:{control},server=on,wait=off", "-kernel", kernel, "-initrd", image,
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
        "-netdev", network, "-device", "virtio-net-pci,netdev=n,romfile=", *more,
        stdin=PIPE, stdout=PIPE, stderr=STDOUT,
    )  # fmt: skip
    try:
        yield PythonGuest(process, control)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
