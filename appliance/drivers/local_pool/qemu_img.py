"""Run qemu-img: always told the format, always within limits.

A crafted image can make QEMU allocate, loop or write without end; the limits of the process end
that. The size of what it writes is limited to what the pool can spare.
"""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from appliance.core.command import Finished, explain, run
from appliance.core.errors import Busy, DriverError, InsufficientResource, Invalid
from appliance.drivers.local_pool.directory import ImageFile

_ADDRESS_SPACE_BYTES: Final = 4 * 2**30
_QUICK_S: Final = 50.0  # less than what Kahuna waits for
_CONVERT_S: Final = 3600.0
_FULL: Final = ("No space left on device", "Disk quota exceeded", "File too large")
_TOLD_CHARACTERS: Final = 400
_SOUND: Final = (0, 3)  # 3: clusters that nothing uses, which costs room only
_LOCKED: Final = 'Failed to get "'


async def create(path: Path, size_bytes: int, *, parent: ImageFile | None = None) -> None:
    """Create an empty image, or a clone. The parent is named relatively, so that a pool can move.

    Raises:
        InsufficientResource: the disk is full.
        DriverError: qemu-img refused.
    """
    backing = ("-b", parent.path.name, "-F", parent.kind.format) if parent else ()
    await _run("create", "-q", "-f", "qcow2", "-o", "compat=1.1", *backing, path, str(size_bytes))


async def resize(path: Path, size_bytes: int) -> None:
    """Grow an image.

    Raises:
        Busy: a domain has it open.
    """
    await _run("resize", "-q", "-f", "qcow2", path, str(size_bytes))


async def check(path: Path) -> None:
    """Look for damage. Without this, QEMU reads zeros where tables point behind the file's end.

    Raises:
        Invalid: the image is damaged.
    """
    done = await _start(["check", "-q", "-f", "qcow2", path], timeout_s=_CONVERT_S)
    if done.status not in _SOUND:
        raise Invalid(f"the qcow2 image is damaged: {_words(done)}", field="url")


async def convert(source: Path, target: Path, *, limit_bytes: int) -> None:
    """Copy the content of a qcow2 file, and nothing else of it, into a new one.

    What comes out holds no snapshots, bitmaps, compressed clusters or tables made by others.

    Raises:
        InsufficientResource: the copy needs more than `limit_bytes`, or the disk is full.
        DriverError: the source is broken.
    """
    await _run(
        "convert", "-q", "-f", "qcow2", "-O", "qcow2", "-o", "compat=1.1", source, target,
        limit_bytes=limit_bytes, timeout_s=_CONVERT_S,
    )  # fmt: skip


async def create_snapshot(path: Path, name: str) -> None:
    await _run("snapshot", "-q", "--image-opts", "-c", name, _options(path))


async def delete_snapshot(path: Path, name: str) -> None:
    await _run("snapshot", "-q", "--image-opts", "-d", name, _options(path))


async def restore_snapshot(path: Path, name: str) -> None:
    await _run("snapshot", "-q", "--image-opts", "-a", name, _options(path))


async def list_snapshots(path: Path) -> list[str]:
    """Return the names of the snapshots inside an image, which a domain may have open."""
    done = await _run("info", "-U", "-f", "qcow2", "--output=json", path)
    return [snapshot.name for snapshot in msgspec.json.decode(done.stdout, type=_Info).snapshots]


class _Snapshot(msgspec.Struct):
    name: str


class _Info(msgspec.Struct):
    snapshots: list[_Snapshot] = []


def _options(path: Path) -> str:
    """Tell the format where there is no option -f. A comma in a value is doubled."""
    name = str(path).replace(",", ",,")
    return f"driver=qcow2,file.driver=file,file.filename={name}"


async def _run(
    *arguments: str | Path, limit_bytes: int | None = None, timeout_s: float = _QUICK_S
) -> Finished:
    done = await _start(arguments, timeout_s=timeout_s, limit_bytes=limit_bytes)
    if done.status == 0:
        return done
    said = _words(done)
    action = f"qemu-img {arguments[0]}"
    if done.status == -signal.SIGXFSZ or any(text in said for text in _FULL):
        raise InsufficientResource(
            f"{action}: the pool has no room for it",
            hint="delete templates that are no longer used, or add storage",
        )
    if _LOCKED in said:
        raise Busy(f"{action}: a domain has the image open", hint="stop that domain first")
    raise DriverError(f"{action} failed: {said}", status=done.status)


async def _start(
    arguments: Sequence[str | Path], *, timeout_s: float, limit_bytes: int | None = None
) -> Finished:
    limits = [
        f"--as={_ADDRESS_SPACE_BYTES}",
        f"--cpu={int(timeout_s)}",
        "--core=0",
        *([f"--fsize={limit_bytes}"] if limit_bytes is not None else []),
    ]
    argv = ["prlimit", *limits, "qemu-img", *arguments]
    return await run(argv, timeout_s=timeout_s, check=False)


def _words(done: Finished) -> str:
    said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
    return said[:_TOLD_CHARACTERS] or explain(done.status)
