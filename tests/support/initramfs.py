"""A root file system for a small guest, made of what this machine has: no download, no build.

It holds this machine's own Python, the commands asked for with their libraries, kernel modules and
Python packages. A guest that boots from it runs the code under test on Debian's whole kernel.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tests.support.needs import need

_LOST: Final = re.compile(r"config-.*|test|tests|idlelib|lib2to3|distutils|dist-packages")
_FILE: Final = 0o100755
_FOLDER: Final = 0o040755


class Initramfs:
    """Collects files and writes them as an archive in the kernel's "newc" format."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, int]] = {}

    def add(self, target: str, content: bytes) -> None:
        self._files[target.lstrip("/")] = content, 0

    def add_file(self, source: Path, target: str | None = None) -> None:
        """Add a file with its time, by which Python judges what it has compiled before."""
        name = target or str(source)
        self._files[name.lstrip("/")] = source.read_bytes(), int(source.stat().st_mtime)

    def add_tree(self, source: Path, target: str | None = None) -> None:
        """Add what Python imports from a folder."""
        for path in _walk(source):
            self.add_file(path, f"{target or source}/{path.relative_to(source)}")
            if path.suffix == ".so":
                self.add_command(path)

    def add_command(self, command: Path) -> None:
        """Add an executable or a library, at its own place, with the libraries it needs."""
        done = subprocess.run(["ldd", command], check=False, capture_output=True, text=True)
        for library in [command, *map(Path, re.findall(r"(/\S+) \(0x", done.stdout))]:
            self.add_file(library)

    def add_python(self) -> None:
        """Add this interpreter's distribution, as /usr/bin/python3, without what is installed."""
        python = Path(sys.executable).resolve()
        library = Path(sys.base_prefix, "lib", f"python3.{sys.version_info.minor}")
        self.add_command(python)
        self.add_file(python, "/usr/bin/python3")
        self.add_tree(library)

    def add_modules(self, kernel: str, names: Iterable[str]) -> list[str]:
        """Add modules of that kernel and return their files in the order to load them."""
        order: list[str] = []
        for name in names:
            command = [str(need("modprobe")), "-S", kernel, "--show-depends", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            for path in re.findall(r"^insmod (\S+)", done.stdout, re.MULTILINE):
                if path not in order:
                    order.append(path)
                    self.add_file(Path(path))
        return order

    def write(self, path: Path) -> None:
        folders = {str(folder) for name in self._files for folder in Path(name).parents} - {"."}
        folders |= {"proc", "dev", "tmp"}
        with path.open("wb") as archive:
            number = 1
            for name in sorted(folders):
                archive.write(_entry(number, name, _FOLDER, b""))
                number += 1
            for name, (content, time) in self._files.items():
                archive.write(_entry(number, name, _FILE, content, time))
                number += 1
            archive.write(_entry(0, "TRAILER!!!", 0, b""))


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if _LOST.fullmatch(path.name):
            continue
        if path.is_dir():
            yield from _walk(path)
        elif path.suffix in (".py", ".pyc", ".so", ".sql"):
            yield path


def _entry(number: int, name: str, mode: int, content: bytes, time: int = 0) -> bytes:
    """Return a file of the archive: Documentation/driver-api/early-userspace/buffer-format.rst."""
    encoded = name.encode() + b"\0"
    fields = [number, mode, 0, 0, 1, time, len(content), 0, 0, 0, 0, len(encoded), 0]
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return _aligned(header) + _aligned(content)


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
