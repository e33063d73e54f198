"""Implements `StorageDriver` on directories of this node.

Every image has a lock of its own, so that the calls about one image follow each other, and a slow
one, an import above all, holds up no other image.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from appliance.core.aio import BlockingPool
from appliance.core.clock import Clock
from appliance.core.errors import (
    Busy,
    Conflict,
    InsufficientResource,
    Invalid,
    NotFound,
)
from appliance.drivers.local_pool import qemu_img
from appliance.drivers.local_pool.connect import Resolve, resolver
from appliance.drivers.local_pool.directory import (
    SEED,
    VOLUME,
    ImageFile,
    PoolDirectory,
    PoolRoots,
)
from appliance.drivers.local_pool.importer import Importer
from appliance.drivers.local_pool.known_pools import KnownPools
from appliance.drivers.local_pool.os_errors import told_as_ours
from appliance.drivers.local_pool.threads import Threads
from appliance.drivers.seed_iso import build_seed
from appliance.model.storage import (
    IMAGES_PER_LIST,
    FileLocation,
    ImageLocation,
    ImagePurpose,
    ObservedImage,
    PoolStatistics,
    ProgressListener,
    SeedSpec,
    StoragePoolRef,
    TemplateSource,
    UnfinishedFile,
    VolumeSpec,
    seed_digest,
    whole_sectors,
)

_STALL_S: Final = 60.0
_IMPORTS: Final = 4  # at once; each may keep a thread busy
_NEW: Final = "new"


class LocalPoolStorage:
    """The local pools of a node: directories below `roots`."""

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        memory: Path,
        clock: Clock,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        stall_s: float = _STALL_S,
    ) -> None:
        """Serve the pools below `roots`; which ones were there is kept in the file `memory`."""
        self._roots = PoolRoots(roots, KnownPools(memory))
        self._threads = Threads("local-pool", 4)
        self._names = BlockingPool("template-host", 2)
        self._importer = Importer(
            threads=Threads("template-import", _IMPORTS),
            clock=clock,
            resolve=resolve or resolver(self._names),
            tls=tls or ssl.create_default_context(),
            stall_s=stall_s,
        )
        self._imports = asyncio.Semaphore(_IMPORTS)
        self._locks: WeakValueDictionary[tuple[Path, str], asyncio.Lock] = WeakValueDictionary()

    def close(self) -> None:
        """Let go of the threads; calls under way end by being cancelled."""
        self._threads.close()
        self._importer.threads.close()
        self._names.close()

    async def import_template(
        self, storage_pool: StoragePoolRef, source: TemplateSource, progress: ProgressListener
    ) -> ObservedImage:
        async with self._opened(storage_pool, source.template_id) as directory:
            found = await self._threads.run(
                directory.find, source.template_id, ImagePurpose.TEMPLATE
            )
            if found is not None:
                return await self._threads.run(directory.settle, found[0])
            async with self._imports:
                return await self._importer.run(directory, source, progress)

    async def ensure_image(self, storage_pool: StoragePoolRef, spec: VolumeSpec) -> ObservedImage:
        async with self._opened(storage_pool, spec.image_id) as directory:
            found = await self._threads.run(directory.find, spec.image_id, ImagePurpose.VOLUME)
            size_bytes = whole_sectors(spec.size_bytes)
            await self._check_fits(directory, spec.image_id, size_bytes)
            if found is None:
                return await self._create(directory, spec, size_bytes)
            file, image = found
            if image.template_id != spec.template_id:
                raise Conflict(
                    f"image {spec.image_id} is a clone of {image.template_id}, not of"
                    f" {spec.template_id}",
                    id=spec.image_id,
                )
            if image.size_bytes > size_bytes:
                raise Conflict(
                    f"image {spec.image_id} has {image.size_bytes} bytes and cannot shrink to"
                    f" {size_bytes}",
                    id=spec.image_id,
                )
            if image.size_bytes == size_bytes:
                return await self._threads.run(directory.settle, file)
            await self._check_closed(file, "grow it through that domain, or stop the domain")
            await qemu_img.resize(file.path, size_bytes)
            return await self._threads.run(directory.settle, file)

    async def ensure_seed(self, storage_pool: StoragePoolRef, seed: SeedSpec) -> ObservedImage:
        async with self._opened(storage_pool, seed.image_id) as directory:
            return await self._threads.run(_ensure_seed, directory, seed)

    async def ensure_image_absent(self, storage_pool: StoragePoolRef, image_id: str) -> None:
        async with (
            self._opened(storage_pool, image_id) as directory,
            self._lock(directory, f"clones of {image_id}"),
        ):
            file = await self._threads.run(directory.find_file, image_id)
            if file is not None:
                await self._check_closed(file, "stop that domain first")
                if file.kind.purpose is ImagePurpose.TEMPLATE:
                    await self._threads.run(_check_childless, directory, image_id)
                await self._threads.run(directory.remove, file)
            await self._threads.run(directory.forget, image_id)
            await self._threads.run(directory.settle_names)

    async def ensure_snapshot(
        self, storage_pool: StoragePoolRef, image_id: str, snapshot_id: str
    ) -> None:
        async with self._opened(storage_pool, image_id) as directory:
            file = await self._volume(directory, image_id)
            if snapshot_id in await qemu_img.list_snapshots(file.path):
                return
            await self._check_closed(file, "stop that domain first")
            await qemu_img.create_snapshot(file.path, snapshot_id)
            await self._threads.run(directory.settle, file)

    async def ensure_snapshot_absent(
        self, storage_pool: StoragePoolRef, image_id: str, snapshot_id: str
    ) -> None:
        async with self._opened(storage_pool, image_id) as directory:
            file = await self._threads.run(directory.find_file, image_id)
            if file is None or file.kind is not VOLUME:
                return
            if snapshot_id not in await qemu_img.list_snapshots(file.path):
                return
            await self._check_closed(file, "stop that domain first")
            await qemu_img.delete_snapshot(file.path, snapshot_id)
            await self._threads.run(directory.settle, file)

    async def list_snapshots(self, storage_pool: StoragePoolRef, image_id: str) -> list[str]:
        with told_as_ours():
            directory = await self._threads.run(self._roots.open, storage_pool)
            file = await self._volume(directory, image_id)
            return sorted(await qemu_img.list_snapshots(file.path))

    async def restore_snapshot(
        self, storage_pool: StoragePoolRef, image_id: str, snapshot_id: str
    ) -> ObservedImage:
        async with self._opened(storage_pool, image_id) as directory:
            file = await self._volume(directory, image_id)
            if snapshot_id not in await qemu_img.list_snapshots(file.path):
                raise NotFound(f"image {image_id} has no snapshot {snapshot_id}", id=snapshot_id)
            await self._check_closed(file, "stop that domain first")
            await qemu_img.restore_snapshot(file.path, snapshot_id)
            return await self._threads.run(directory.settle, file)

    async def get_image(self, storage_pool: StoragePoolRef, image_id: str) -> ObservedImage:
        with told_as_ours():
            directory = await self._threads.run(self._roots.open, storage_pool)
            found = await self._threads.run(directory.find, image_id)
            if found is None:
                raise NotFound(f"image {image_id} does not exist", id=image_id)
            return found[1]

    async def locate(self, storage_pool: StoragePoolRef, image_id: str) -> ImageLocation:
        with told_as_ours():
            directory = await self._threads.run(self._roots.open, storage_pool)
            file = await self._threads.run(directory.find_file, image_id)
            if file is None:
                raise NotFound(f"image {image_id} does not exist", id=image_id)
            return FileLocation(path=str(file.path), format=file.kind.format)

    async def list_images(
        self, storage_pool: StoragePoolRef, *, after: str = "", limit: int = IMAGES_PER_LIST
    ) -> list[ObservedImage]:
        with told_as_ours():
            directory = await self._threads.run(self._roots.open, storage_pool)
            return await self._threads.run(directory.list_images, after=after, limit=limit)

    async def list_unfinished(self, storage_pool: StoragePoolRef) -> list[UnfinishedFile]:
        with told_as_ours():
            directory = await self._threads.run(self._roots.open, storage_pool)
            return await self._threads.run(directory.list_unfinished, IMAGES_PER_LIST)

    async def get_pool_statistics(self, storage_pool: StoragePoolRef) -> PoolStatistics:
        with told_as_ours():
            directory = await self._threads.run(self._roots.open, storage_pool)
            return await self._threads.run(directory.statistics)

    async def _volume(self, directory: PoolDirectory, image_id: str) -> ImageFile:
        file = await self._threads.run(directory.find_file, image_id, ImagePurpose.VOLUME)
        if file is None:
            raise NotFound(f"image {image_id} does not exist", id=image_id)
        return file

    async def _create(
        self, directory: PoolDirectory, spec: VolumeSpec, size_bytes: int
    ) -> ObservedImage:
        async with AsyncExitStack() as stack:
            parent = None
            if spec.template_id is not None:
                # Nobody removes the template until the clone is there.
                await stack.enter_async_context(
                    self._lock(directory, f"clones of {spec.template_id}")
                )
                parent = await self._threads.run(_parent, directory, spec, size_bytes)
            unfinished = await self._threads.run(directory.reserve, spec.image_id, _NEW)
            try:
                await qemu_img.create(unfinished, size_bytes, parent=parent)
                return await self._threads.run(
                    directory.publish, unfinished, directory.new(spec.image_id, VOLUME)
                )
            except BaseException:
                await self._threads.run(directory.forget, spec.image_id)
                raise

    async def _check_fits(self, directory: PoolDirectory, image_id: str, size_bytes: int) -> None:
        pool = await self._threads.run(directory.statistics)
        if size_bytes > pool.capacity_bytes:
            raise InsufficientResource(
                f"image {image_id} of {size_bytes} bytes is larger than its pool of"
                f" {pool.capacity_bytes}",
                hint="make it smaller, or choose a larger pool",
                id=image_id,
            )

    async def _check_closed(self, file: ImageFile, hint: str) -> None:
        if await self._threads.run(file.is_open):
            raise Busy(f"image {file.image_id} is open in a domain", hint=hint, id=file.image_id)

    def _lock(self, directory: PoolDirectory, name: str) -> asyncio.Lock:
        return self._locks.setdefault((directory.path, name), asyncio.Lock())

    @asynccontextmanager
    async def _opened(
        self, storage_pool: StoragePoolRef, image_id: str
    ) -> AsyncGenerator[PoolDirectory]:
        """Hold an image of a pool: no other call changes it meanwhile."""
        with told_as_ours():
            directory = await self._threads.run(self._roots.open, storage_pool)
            async with self._lock(directory, image_id):
                yield directory


def _parent(directory: PoolDirectory, spec: VolumeSpec, size_bytes: int) -> ImageFile:
    assert spec.template_id is not None
    found = directory.find(spec.template_id)
    if found is None or found[0].kind.purpose is not ImagePurpose.TEMPLATE:
        raise Invalid(
            f"template image {spec.template_id} is not in the storage pool",
            hint="import the template into this pool first",
            field="template_id",
        )
    file, template = found
    if template.size_bytes > size_bytes:
        raise Invalid(
            f"volume {spec.image_id} of {size_bytes} bytes is smaller than its template of"
            f" {template.size_bytes}",
            field="size_bytes",
        )
    return file


def _check_childless(directory: PoolDirectory, template_id: str) -> None:
    clones = directory.clones(template_id)
    if clones:
        raise Conflict(
            f"template image {template_id} has {len(clones)} clones, {clones[0]} is one",
            hint="delete the volumes made from it first",
            id=template_id,
        )


def _ensure_seed(directory: PoolDirectory, seed: SeedSpec) -> ObservedImage:
    found = directory.find(seed.image_id, ImagePurpose.SEED)
    if found is not None and found[1].seed_sha256 == seed_digest(seed):
        return directory.settle(found[0])
    unfinished = directory.reserve(seed.image_id, _NEW)
    try:
        unfinished.write_bytes(build_seed(seed))
        return directory.publish(unfinished, directory.new(seed.image_id, SEED))
    except BaseException:
        directory.forget(seed.image_id)
        raise
