"""Small disks of a test's own: to fill, to make read-only, to take away."""

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.needs import lack, need, need_root

_LIMIT_S: Final = 100.0
_HOG: Final = "hog"


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A file system mounted on `path`."""

    path: Path

    def fill(self, *, but: int = 0) -> None:
        """Take all that is free, but for so many bytes."""
        with (self.path / _HOG).open("ab", buffering=0) as hog:
            for piece in (2**16, 2**12, 1):
                with suppress(OSError):
                    while True:
                        hog.write(b"x" * piece)
            hog.truncate(max(0, hog.tell() - but))

    def fill_inodes(self) -> None:
        """Take every file that could still be made."""
        (self.path / _HOG).mkdir()
        with suppress(OSError):
            for number in range(10_000):
                (self.path / _HOG / str(number)).touch()

    def relieve(self) -> None:
        """Give back what was taken."""
        hog = self.path / _HOG
        if hog.is_dir():
            for file in hog.iterdir():
                file.unlink()
            hog.rmdir()
        else:
            hog.unlink()

    def remount(self, option: str) -> None:
        _run("mount", "-o", f"remount,{option}", self.path)

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob("*"))


@contextmanager
def small_disk(path: Path, size: str, *options: str) -> Generator[SmallDisk]:
    """Mount an empty disk of memory on `path` for the life of the block."""
    need_root()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", ",".join((f"size={size},mode=700", *options)), "small", path)
    try:
        yield SmallDisk(path)
    finally:
        _unmount(path)


class FailingDisk:
    """An ext4 in a file, which the kernel makes read-only when it is damaged."""

    def __init__(self, path: Path, image: Path) -> None:
        self.path = path
        self._image = image

    def mount(self) -> None:
        _run("mount", "-o", "loop,errors=remount-ro", self._image, self.path)

    def unmount(self) -> None:
        _unmount(self.path)

    def fail(self) -> None:
        """Have the kernel find damage: ext4(5), errors=remount-ro."""
        device = self.path.stat().st_dev
        name = (Path("/sys/dev/block") / f"{os.major(device)}:{os.minor(device)}").resolve().name
        (Path("/sys/fs/ext4") / name / "trigger_fs_error").write_text("a test")

    def mend(self) -> None:
        """Mount what is left of it, after it was looked through; nobody may have it open.

        A copy: namespaces of other tests may keep the old one mounted.
        """
        self.unmount()
        self._image = shutil.copyfile(self._image, self._image.with_suffix(".mended"))
        subprocess.run(
            [need("e2fsck"), "-fy", self._image], check=False, capture_output=True, timeout=_LIMIT_S
        )
        self.mount()


@contextmanager
def failing_disk(path: Path, image: Path) -> Generator[FailingDisk]:
    need_root()
    need("mkfs.ext4")
    if not Path("/dev/loop-control").exists():
        lack("this machine has no loop devices")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(32 * 2**20)
    _run("mkfs.ext4", "-q", "-F", image)
    disk = FailingDisk(path, image)
    disk.mount()
    try:
        path.chmod(0o700)
        yield disk
    finally:
        disk.unmount()


def _unmount(path: Path) -> None:
    _run("umount", path)


def _run(tool: str, *arguments: str | Path) -> None:
    subprocess.run([need(tool), *arguments], check=True, capture_output=True, timeout=_LIMIT_S)
