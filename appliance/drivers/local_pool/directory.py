"""The files of a pool: their names tell what they are, and only regular files count.

    ID.template.qcow2  ID.template.raw  ID.volume.qcow2  ID.seed.iso

A name that begins with a dot is unfinished work. An image appears under its name by rename(2) once
it is whole and on the disk, so that a crash leaves it there or not, never a part of it.
"""

import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog

from appliance.core.errors import Conflict, Corrupt, Invalid, Unavailable
from appliance.core.files import sync_directory
from appliance.drivers.local_pool.known_pools import KnownPools
from appliance.drivers.local_pool.qcow2 import HEAD_BYTES, BadQcow2, parse_header
from appliance.drivers.seed_iso import DIGEST_AREA_BYTES, read_digest
from appliance.model.storage import (
    ImagePurpose,
    LocalPool,
    ObservedImage,
    PoolStatistics,
    StoragePoolRef,
    UnfinishedFile,
    whole_sectors,
)

_KEPT_FREE: Final = 100  # one part of so many of a pool stays free
_DIRECTORY_MODE: Final = 0o711  # QEMU's user passes through, and cannot list
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    suffix: str
    purpose: ImagePurpose
    format: Literal["qcow2", "raw"]


TEMPLATE: Final = Kind("template.qcow2", ImagePurpose.TEMPLATE, "qcow2")
RAW_TEMPLATE: Final = Kind("template.raw", ImagePurpose.TEMPLATE, "raw")
VOLUME: Final = Kind("volume.qcow2", ImagePurpose.VOLUME, "qcow2")
SEED: Final = Kind("seed.iso", ImagePurpose.SEED, "raw")
_KINDS: Final = {kind.suffix: kind for kind in (TEMPLATE, RAW_TEMPLATE, VOLUME, SEED)}
_NAME: Final = re.compile(r"([0-9a-f]{24})\.(.+)")
_UNFINISHED: Final = re.compile(r"\.{1,2}([0-9a-f]{24})\.")

# fcntl_locking(2): struct flock. QEMU's locks lie on single bytes from 100 (what it uses) and 200
# (what it lets others do) on: block/file-posix.c. Whoever has an image open holds one of them.
_FLOCK: Final = struct.Struct("hhqqi4x")
_LOCK_BEGIN: Final = 100
_LOCK_BYTES: Final = 200


@dataclass(frozen=True, slots=True)
class ImageFile:
    image_id: str
    kind: Kind
    path: Path

    def is_open(self) -> bool:
        """Whether a QEMU has it open, to write or to read; also as the parent of a clone."""
        handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCK_BEGIN, _LOCK_BYTES, 0)
            told = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, asked)
        finally:
            os.close(handle)
        return bool(_FLOCK.unpack(told)[0] != fcntl.F_UNLCK)

    def observe(self) -> ObservedImage:
        """Raises Corrupt when the file does not hold what its name says."""
        handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            size_bytes, parent, digest = whole_sectors(status.st_size), None, None
            if self.kind is SEED:
                digest = read_digest(os.pread(handle, DIGEST_AREA_BYTES, 0))
            elif self.kind.format == "qcow2":
                size_bytes, parent = self._read_qcow2(handle, status.st_size)
        finally:
            os.close(handle)
        return ObservedImage(
            image_id=self.image_id,
            purpose=self.kind.purpose,
            size_bytes=size_bytes,
            allocated_bytes=status.st_blocks * 512,
            template_id=parent,
            seed_sha256=digest,
        )

    def _read_qcow2(self, handle: int, file_bytes: int) -> tuple[int, str | None]:
        try:
            header = parse_header(os.pread(handle, HEAD_BYTES, 0), file_bytes)
        except BadQcow2 as bad:
            raise Corrupt(f"image file {self.path}: {bad}", id=self.image_id) from bad
        parent = _NAME.fullmatch(header.backing_file or "")
        return header.virtual_bytes, parent and parent[1]


class PoolDirectory:
    """The files of one pool. Blocking: to be called in a thread."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path

    def new(self, image_id: str, kind: Kind) -> ImageFile:
        """Name an image, whether it is there or not."""
        return ImageFile(image_id, kind, self.path / f"{image_id}.{kind.suffix}")

    def unfinished(self, image_id: str, what: str) -> Path:
        return self.path / f".{image_id}.{what}"

    def find(
        self, image_id: str, purpose: ImagePurpose | None = None
    ) -> tuple[ImageFile, ObservedImage] | None:
        """Find an image; raise Conflict when it is there and not of the `purpose`."""
        file = self.find_file(image_id, purpose)
        return None if file is None else (file, file.observe())

    def find_file(self, image_id: str, purpose: ImagePurpose | None = None) -> ImageFile | None:
        for kind in _KINDS.values():
            file = self.new(image_id, kind)
            try:
                status = file.path.lstat()
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(status.st_mode):
                raise Conflict(f"{file.path} is no regular file", id=image_id)
            if purpose not in (None, kind.purpose):
                raise Conflict(f"image {image_id} is a {kind.purpose}, no {purpose}", id=image_id)
            return file
        return None

    def list_images(self, *, after: str, limit: int) -> list[ObservedImage]:
        """List images by id; one that is damaged has the size 0."""
        files = sorted(self._files(after), key=lambda file: file.image_id)
        observed: list[ObservedImage] = []
        for file in files:
            if len(observed) == limit:
                break
            try:
                observed.append(file.observe())
            except FileNotFoundError:
                continue  # deleted meanwhile
            except Corrupt as corrupt:
                _log.warning("image_unreadable", image=file.image_id, error=str(corrupt))
                observed.append(
                    ObservedImage(
                        image_id=file.image_id,
                        purpose=file.kind.purpose,
                        size_bytes=0,
                        allocated_bytes=0,
                    )
                )
        return observed

    def list_unfinished(self, limit: int) -> list[UnfinishedFile]:
        with os.scandir(self.path) as entries:
            found = [
                UnfinishedFile(image_id=name[1], name=entry.name)
                for entry in entries
                if (name := _UNFINISHED.match(entry.name))
            ]
        return sorted(found)[:limit]

    def clones(self, template_id: str) -> list[str]:
        """Return the ids of the images made from a template.

        Raises:
            Corrupt: one cannot be read, and may be a clone.
        """
        volumes = (file for file in self._files("") if file.kind is VOLUME)
        return sorted(
            file.image_id for file in volumes if file.observe().template_id == template_id
        )

    def statistics(self) -> PoolStatistics:
        filesystem = os.statvfs(self.path)
        allocated = 0
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    allocated += entry.stat(follow_symlinks=False).st_blocks * 512
        return PoolStatistics(
            capacity_bytes=filesystem.f_blocks * filesystem.f_frsize,
            available_bytes=filesystem.f_bavail * filesystem.f_frsize,
            allocated_bytes=allocated,
        )

    def room(self) -> int:
        """Return what may be used of it now: guests that write meanwhile need some, too."""
        filesystem = os.statvfs(self.path)
        kept = filesystem.f_blocks // _KEPT_FREE
        return max(0, filesystem.f_bavail - kept) * filesystem.f_frsize

    def reserve(self, image_id: str, what: str) -> Path:
        """Make an empty unfinished file that only its owner reads, whatever the umask."""
        path = self.unfinished(image_id, what)
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return path

    def forget(self, image_id: str, *, but: Sequence[str] = ()) -> None:
        """Remove what is unfinished of an image, temporary files of notes included."""
        kept = {self.unfinished(image_id, what).name for what in but}
        with os.scandir(self.path) as entries:
            for entry in entries:
                of_image = entry.name.startswith((f".{image_id}.", f"..{image_id}."))
                if of_image and entry.name not in kept:
                    Path(entry.path).unlink(missing_ok=True)

    def publish(self, unfinished: Path, file: ImageFile) -> ObservedImage:
        """Give a whole image its name, durably."""
        sync_file(unfinished)
        unfinished.rename(file.path)
        sync_directory(self.path)
        return file.observe()

    def settle(self, file: ImageFile) -> ObservedImage:
        """Bring an image to the disk: what changed of it, and its name.

        To be called for one that is as it should be, too: who made it so may have died before this.
        """
        sync_file(file.path)
        sync_directory(self.path)
        return file.observe()

    def remove(self, file: ImageFile) -> None:
        file.path.unlink(missing_ok=True)

    def settle_names(self) -> None:
        """Bring to the disk which images there are: who removed one may have died before this."""
        sync_directory(self.path)

    def _files(self, after: str) -> Iterator[ImageFile]:
        with os.scandir(self.path) as entries:
            for entry in entries:
                name = _NAME.fullmatch(entry.name)
                kind = _KINDS.get(name[2]) if name else None
                if name and kind and name[1] > after and entry.is_file(follow_symlinks=False):
                    yield ImageFile(name[1], kind, self.path / entry.name)


class PoolRoots:
    """Where pools may lie: below the directories that the node's owner named."""

    def __init__(self, roots: Sequence[Path], known: KnownPools) -> None:
        self._roots = tuple(roots)
        self._known = known

    def open(self, storage_pool: StoragePoolRef) -> PoolDirectory:
        """Return the pool's directory, made if no pool was there before.

        No link is followed below the root: who may write there could lead us anywhere. The root
        itself is never made, since a missing one is a disk that is not mounted.

        Raises:
            Invalid: it is no local pool, or does not lie where this node allows.
            Unavailable: the root is not there, or the pool that was there.
        """
        if not isinstance(storage_pool, LocalPool):
            raise Invalid(
                f"this node serves local pools; {storage_pool.pool} is a pool of Ceph",
                hint="choose a Kaktus of the pool's cluster",
                field="storage_pool",
            )
        asked = storage_pool.directory
        root = next((root for root in self._roots if Path(asked).is_relative_to(root)), None)
        if os.path.normpath(asked) != asked or root is None:
            allowed = ", ".join(str(root) for root in self._roots) or "none"
            raise Invalid(
                f"{asked} is no directory below those that this node allows for pools: {allowed}",
                hint="choose one below them, or add it to kaktus.pool_roots in node.yaml",
                field="storage_pool",
            )
        if not root.is_dir():
            raise Unavailable(
                f"{root}, where pools lie, is not there", hint=f"mount it, or: mkdir {root}"
            )
        self._known.check(Path(asked))
        here = root.resolve()
        for part in Path(asked).relative_to(root).parts:
            here = _enter(here, part)
        self._known.remember(Path(asked))
        return PoolDirectory(here)


def sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _enter(parent: Path, name: str) -> Path:
    directory = parent / name
    try:
        directory.mkdir(mode=_DIRECTORY_MODE)
    except FileExistsError:
        if directory.is_symlink() or not directory.is_dir():
            raise Invalid(
                f"{directory} is no directory (links are not followed)", field="storage_pool"
            ) from None
    else:
        directory.chmod(_DIRECTORY_MODE)  # whatever the umask
        sync_directory(parent)
    return directory
