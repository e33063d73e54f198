"""Simulated storage: images have sizes, parents and locks as real ones have, and no content."""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import Busy, Conflict, InsufficientResource, Invalid, NotFound
from appliance.drivers.fake.faults import Faults
from appliance.drivers.fake.images import Images
from appliance.drivers.fake.world import World
from appliance.model.storage import (
    IMAGES_PER_LIST,
    FileLocation,
    ImageLocation,
    ImagePurpose,
    ImportProgress,
    LocalPool,
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

GIB: Final = 1024**3
_DOWNLOAD: Final = "download"
_DOWNLOAD_STEPS: Final = 10
_SEED_BYTES: Final = 380_928  # an ISO 9660 image of three small files, as genisoimage makes it


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the simulated Internet: the disk image at a URL, and its real checksum if known."""

    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Internet:
    """What simulated downloads find.

    Every http(s) URL leads to a file of `default`, but those in `files`, and those below the
    top-level domain "invalid" (RFC 2606: it never exists), which lead nowhere.
    """

    default: RemoteFile = RemoteFile(2 * GIB)
    files: dict[str, RemoteFile] = field(default_factory=dict[str, RemoteFile])
    bytes_per_s: float = 0  # 0: no time passes

    def seconds(self, size_bytes: int) -> float:
        return size_bytes / self.bytes_per_s if self.bytes_per_s else 0

    def fetch(self, source: TemplateSource) -> RemoteFile:
        url = urlsplit(source.url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise Invalid(f"{source.url} is no http or https URL", field="url")
        if url.hostname.rpartition(".")[2] == "invalid":
            raise Invalid(f"{source.url} leads nowhere", hint="check the URL", field="url")
        return self.files.get(source.url, self.default)


class _Download(msgspec.Struct, frozen=True):
    """How much of a template has come: a repeated import goes on from there."""

    template_id: str
    url: str
    done_bytes: int


class FakeStorageDriver:
    """Implements `StorageDriver` on a simulated world."""

    def __init__(
        self, world: World, images: Images, faults: Faults, clock: Clock, internet: Internet
    ) -> None:
        self._world = world
        self._images = images
        self._faults = faults
        self._clock = clock
        self._internet = internet

    async def import_template(
        self, storage_pool: StoragePoolRef, source: TemplateSource, progress: ProgressListener
    ) -> ObservedImage:
        async with self._faults.around("storage.import_template"):
            image = self._find(storage_pool, source.template_id, ImagePurpose.TEMPLATE)
            if image is not None:
                return image
            file = self._internet.fetch(source)
            self._check_room(storage_pool, file.size_bytes)
            await self._download(storage_pool, source, file, progress)
            if None not in (source.sha256, file.sha256) and source.sha256 != file.sha256:
                raise Invalid(
                    f"{source.url} has the SHA-256 {file.sha256}, not {source.sha256}",
                    hint="correct the checksum, or the URL",
                    field="sha256",
                )
            return self._images.put(
                storage_pool,
                ObservedImage(
                    image_id=source.template_id,
                    purpose=ImagePurpose.TEMPLATE,
                    size_bytes=whole_sectors(file.size_bytes),
                    allocated_bytes=file.size_bytes,
                ),
            )

    async def ensure_image(self, storage_pool: StoragePoolRef, spec: VolumeSpec) -> ObservedImage:
        async with self._faults.around("storage.ensure_image"):
            image = self._find(storage_pool, spec.image_id, ImagePurpose.VOLUME)
            if image is None:
                return self._create(storage_pool, spec)
            if image.template_id != spec.template_id:
                raise Conflict(
                    f"image {spec.image_id} is a clone of {image.template_id}, not of"
                    f" {spec.template_id}",
                    id=spec.image_id,
                )
            grows = whole_sectors(spec.size_bytes) > image.size_bytes
            if grows and isinstance(storage_pool, LocalPool):
                hint = "grow it through that domain, or stop the domain"
                self._check_closed(storage_pool, spec.image_id, hint)
            return self._images.grow(storage_pool, image, spec.size_bytes)

    async def ensure_seed(self, storage_pool: StoragePoolRef, seed: SeedSpec) -> ObservedImage:
        async with self._faults.around("storage.ensure_seed"):
            image = self._find(storage_pool, seed.image_id, ImagePurpose.SEED)
            digest = seed_digest(seed)
            if image is not None and image.seed_sha256 == digest:
                return image
            texts = (seed.user_data, seed.meta_data, seed.network_config)
            size_bytes = _SEED_BYTES + whole_sectors(sum(len(text.encode()) for text in texts))
            return self._images.put(
                storage_pool,
                ObservedImage(
                    image_id=seed.image_id,
                    purpose=ImagePurpose.SEED,
                    size_bytes=size_bytes,
                    allocated_bytes=size_bytes,
                    seed_sha256=digest,
                ),
            )

    async def ensure_image_absent(self, storage_pool: StoragePoolRef, image_id: str) -> None:
        async with self._faults.around("storage.ensure_image_absent"):
            self._world.remove(self._images.place(storage_pool), _DOWNLOAD, image_id)
            image = self._images.find(storage_pool, image_id)
            if image is None:
                return
            self._check_closed(storage_pool, image_id)
            if image.purpose is ImagePurpose.TEMPLATE:
                clones = [
                    other.image_id
                    for other in self._images.list_images(storage_pool)
                    if other.template_id == image_id
                ]
                if clones:
                    raise Conflict(
                        f"template image {image_id} has {len(clones)} clones, {clones[0]} is one",
                        hint="delete the volumes made from it first",
                        id=image_id,
                    )
            self._images.remove(storage_pool, image_id)

    async def ensure_snapshot(
        self, storage_pool: StoragePoolRef, image_id: str, snapshot_id: str
    ) -> None:
        async with self._faults.around("storage.ensure_snapshot"):
            image = self._volume(storage_pool, image_id)
            if snapshot_id in self._images.list_snapshots(storage_pool, image_id):
                return
            if isinstance(storage_pool, LocalPool):
                self._check_closed(storage_pool, image_id)
            self._images.put_snapshot(storage_pool, image, snapshot_id)

    async def ensure_snapshot_absent(
        self, storage_pool: StoragePoolRef, image_id: str, snapshot_id: str
    ) -> None:
        async with self._faults.around("storage.ensure_snapshot_absent"):
            if snapshot_id not in self._images.list_snapshots(storage_pool, image_id):
                return
            if isinstance(storage_pool, LocalPool):
                self._check_closed(storage_pool, image_id)
            self._images.remove_snapshot(storage_pool, image_id, snapshot_id)

    async def list_snapshots(self, storage_pool: StoragePoolRef, image_id: str) -> list[str]:
        async with self._faults.around("storage.list_snapshots"):
            self._volume(storage_pool, image_id)
            return self._images.list_snapshots(storage_pool, image_id)

    async def restore_snapshot(
        self, storage_pool: StoragePoolRef, image_id: str, snapshot_id: str
    ) -> ObservedImage:
        async with self._faults.around("storage.restore_snapshot"):
            self._volume(storage_pool, image_id)
            image = self._images.find_snapshot(storage_pool, image_id, snapshot_id)
            if image is None:
                raise NotFound(f"image {image_id} has no snapshot {snapshot_id}", id=snapshot_id)
            self._check_closed(storage_pool, image_id)
            return self._images.put(storage_pool, image)

    async def get_image(self, storage_pool: StoragePoolRef, image_id: str) -> ObservedImage:
        async with self._faults.around("storage.get_image"):
            image = self._images.find(storage_pool, image_id)
            if image is None:
                raise NotFound(f"image {image_id} does not exist", id=image_id)
            return image

    async def locate(self, storage_pool: StoragePoolRef, image_id: str) -> ImageLocation:
        async with self._faults.around("storage.locate"):
            if self._images.find(storage_pool, image_id) is None:
                raise NotFound(f"image {image_id} does not exist", id=image_id)
            if isinstance(storage_pool, LocalPool):
                return FileLocation(
                    path=f"{storage_pool.directory}/{image_id}.qcow2", format="qcow2"
                )
            return FileLocation(path=f"/dev/rbd/{storage_pool.pool}/{image_id}", format="raw")

    async def list_unfinished(self, storage_pool: StoragePoolRef) -> list[UnfinishedFile]:
        async with self._faults.around("storage.list_unfinished"):
            begun = self._world.list_things(
                self._images.place(storage_pool), _DOWNLOAD, _Download, limit=IMAGES_PER_LIST
            )
            return [
                UnfinishedFile(image_id=each.template_id, name=f".{each.template_id}.part")
                for each in begun
            ]

    async def list_images(
        self, storage_pool: StoragePoolRef, *, after: str = "", limit: int = IMAGES_PER_LIST
    ) -> list[ObservedImage]:
        async with self._faults.around("storage.list_images"):
            return self._images.list_images(storage_pool, after=after, limit=limit)

    async def get_pool_statistics(self, storage_pool: StoragePoolRef) -> PoolStatistics:
        async with self._faults.around("storage.get_pool_statistics"):
            return self._statistics(storage_pool)

    def _find(
        self, storage_pool: StoragePoolRef, image_id: str, purpose: ImagePurpose
    ) -> ObservedImage | None:
        """Raises Conflict when an image of another purpose has the name."""
        image = self._images.find(storage_pool, image_id)
        if image is not None and image.purpose is not purpose:
            raise Conflict(f"image {image_id} is a {image.purpose}, no {purpose}", id=image_id)
        return image

    def _volume(self, storage_pool: StoragePoolRef, image_id: str) -> ObservedImage:
        image = self._find(storage_pool, image_id, ImagePurpose.VOLUME)
        if image is None:
            raise NotFound(f"image {image_id} does not exist", id=image_id)
        return image

    def _check_closed(
        self, storage_pool: StoragePoolRef, image_id: str, hint: str = "stop that domain first"
    ) -> None:
        holder = self._images.opened_by(storage_pool, image_id)
        if holder is not None:
            raise Busy(
                f"image {image_id} is open in domain {holder.domain_id}", hint=hint, id=image_id
            )

    def _create(self, storage_pool: StoragePoolRef, spec: VolumeSpec) -> ObservedImage:
        size_bytes = whole_sectors(spec.size_bytes)
        self._images.check_fits(spec.image_id, size_bytes)
        if spec.template_id is not None:
            template = self._images.find(storage_pool, spec.template_id)
            if template is None or template.purpose is not ImagePurpose.TEMPLATE:
                raise Invalid(
                    f"template image {spec.template_id} is not in the storage pool",
                    hint="import the template into this pool first",
                    field="template_id",
                )
            if template.size_bytes > size_bytes:
                raise Invalid(
                    f"volume {spec.image_id} of {size_bytes} bytes is smaller than its template"
                    f" of {template.size_bytes}",
                    field="size_bytes",
                )
        return self._images.put(
            storage_pool,
            ObservedImage(
                image_id=spec.image_id,
                purpose=ImagePurpose.VOLUME,
                size_bytes=size_bytes,
                allocated_bytes=0,
                template_id=spec.template_id,
            ),
        )

    async def _download(
        self,
        storage_pool: StoragePoolRef,
        source: TemplateSource,
        file: RemoteFile,
        progress: ProgressListener,
    ) -> None:
        """Let the time of a download pass, noting how far it came."""
        place = self._images.place(storage_pool)
        begun = self._world.find(place, _DOWNLOAD, source.template_id, _Download)
        done_bytes = begun.done_bytes if begun is not None and begun.url == source.url else 0
        step_bytes = -(-file.size_bytes // _DOWNLOAD_STEPS)
        while done_bytes < file.size_bytes:
            chunk_bytes = min(step_bytes, file.size_bytes - done_bytes)
            await self._clock.sleep(self._internet.seconds(chunk_bytes) * self._faults.factor)
            done_bytes += chunk_bytes
            come = _Download(source.template_id, source.url, done_bytes)
            self._world.put(place, _DOWNLOAD, source.template_id, come)
            progress(
                ImportProgress(
                    template_id=source.template_id,
                    done_bytes=done_bytes,
                    total_bytes=file.size_bytes,
                )
            )
        self._world.remove(place, _DOWNLOAD, source.template_id)

    def _check_room(self, storage_pool: StoragePoolRef, size_bytes: int) -> None:
        available_bytes = self._statistics(storage_pool).available_bytes
        if size_bytes > available_bytes:
            raise InsufficientResource(
                f"{size_bytes} bytes do not fit into the {available_bytes} bytes that are free",
                hint="delete templates that are no longer used, or add storage",
            )

    def _statistics(self, storage_pool: StoragePoolRef) -> PoolStatistics:
        allocated_bytes = sum(
            image.allocated_bytes for image in self._images.list_images(storage_pool)
        )
        return PoolStatistics(
            capacity_bytes=self._images.capacity_bytes,
            available_bytes=max(0, self._images.capacity_bytes - allocated_bytes),
            allocated_bytes=allocated_bytes,
        )
