"""Images in storage pools: what is desired, what is observed, and the driver that joins them.

An image is named by the id of the object that it belongs to (a template, a volume, an instance for
its seed), never by a user's name: a rename touches no storage. Templates are images too.

A file or RBD image that does not bear such a name is not ours: drivers neither list nor touch it.
"""

import hashlib
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from appliance.model.fields import ObjectId, PositiveBytes, Sha256

SECTOR_BYTES: Final = 512
IMAGES_PER_LIST: Final = 2000  # some 600 KiB as JSON: it must fit into a message of the agent


class RbdPool(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="rbd"):
    """A pool of a Ceph cluster, shared by every node that reaches its monitor.

    The credential is not here: each node has its own, named by its own configuration.
    """

    pool: Annotated[str, Meta(min_length=1, max_length=128)]
    monitor_address: Annotated[str, Meta(min_length=1, max_length=253)]
    monitor_port: Annotated[int, Meta(ge=1, le=65535)]


class LocalPool(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="local"):
    """A directory of sparse files on one node; must lie below a root that the node allows."""

    directory: Annotated[str, Meta(pattern=r"^/", max_length=4096)]


StoragePoolRef = RbdPool | LocalPool


class ImagePurpose(StrEnum):
    TEMPLATE = "template"
    VOLUME = "volume"
    SEED = "seed"


class TemplateSource(msgspec.Struct, frozen=True, kw_only=True):
    """A disk image to import: raw or qcow2, maybe compressed, without a backing file.

    Attributes:
        sha256: of the bytes as downloaded.
        allowed_sources: hosts, addresses and networks (CIDR) that may be asked although they are
            internal.
        refused_networks: networks of the cluster, refused beside loopback and link-local ones.
    """

    template_id: ObjectId
    url: Annotated[str, Meta(min_length=1, max_length=2048)]
    sha256: Sha256 | None = None
    allowed_sources: tuple[str, ...] = ()
    refused_networks: tuple[str, ...] = ()


class VolumeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A block device: empty, or a copy-on-write clone of a template in the same pool."""

    image_id: ObjectId
    size_bytes: PositiveBytes
    template_id: ObjectId | None = None


class SeedSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What cloud-init finds on the NoCloud CD-ROM of an instance. Holds secrets: never logged."""

    image_id: ObjectId
    user_data: str
    meta_data: str
    network_config: str

    def __repr__(self) -> str:
        return f"SeedSpec(image_id={self.image_id!r}, sha256={seed_digest(self)!r})"


class ObservedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image as it is.

    Attributes:
        size_bytes: what a guest sees; a whole number of sectors.
        allocated_bytes: what it takes in the pool; less than its size while it is sparse.
        template_id: the image it is a clone of.
        seed_sha256: `seed_digest` of the content; of seeds only.
    """

    image_id: ObjectId
    purpose: ImagePurpose
    size_bytes: int
    allocated_bytes: int
    template_id: ObjectId | None = None
    seed_sha256: Sha256 | None = None


class FileLocation(msgspec.Struct, frozen=True, kw_only=True):
    """Where QEMU on this node finds an image: a file, and the format to tell it, never to guess."""

    path: str
    format: Literal["qcow2", "raw"]


ImageLocation = FileLocation


class UnfinishedFile(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What work on an image keeps in its pool until it is done, and a crash may leave there."""

    image_id: ObjectId
    name: str


class PoolStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How full a storage pool is.

    For RBD, capacity and what is available are those of the cluster, after replication.
    """

    capacity_bytes: int
    available_bytes: int
    allocated_bytes: int


class ImportProgress(msgspec.Struct, frozen=True, kw_only=True):
    template_id: ObjectId
    done_bytes: int
    total_bytes: int | None  # unknown when the server does not tell


ProgressListener = Callable[[ImportProgress], None]


def whole_sectors(size_bytes: int) -> int:
    """Round up to what a virtual disk can be: qcow2 and virtio-blk count in sectors."""
    return -(-size_bytes // SECTOR_BYTES) * SECTOR_BYTES


def seed_digest(seed: SeedSpec) -> str:
    """Return the SHA-256 that identifies a seed's content, whoever builds the medium."""
    parts = (seed.user_data, seed.meta_data, seed.network_config)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


class StorageDriver(Protocol):
    """Everything a node does to images. Each call may be repeated, also after a crash inside it.

    What the arguments merely refer to and what is not there is Invalid, naming the field; NotFound
    is kept for the object that the call is about. Besides the errors named, each call raises
    Unavailable when the pool cannot be reached and DriverError when it refuses.
    """

    async def import_template(
        self, storage_pool: StoragePoolRef, source: TemplateSource, progress: ProgressListener
    ) -> ObservedImage:
        """Download a template and keep it as an image; one that exists is left as it is.

        Takes as long as the download; blocks no other call. The image appears under its name only
        when it is whole. After an interruption a repeat goes on where the download stopped, if
        the server can. `progress` is called in the event loop, from time to time and at the end;
        it must not block or raise.

        Raises:
            Invalid: the source is not there (HTTP 404), lies where it may not be asked, is no
                image that we take, has a backing file, or its checksum differs.
            Conflict: another kind of image has that name.
            InsufficientResource: the pool is full.
            Unavailable: the download broke off; what came is kept for the repeat.
        """
        ...

    async def ensure_image(self, storage_pool: StoragePoolRef, spec: VolumeSpec) -> ObservedImage:
        """Create the volume, or grow it to `size_bytes`; never shrink.

        The size is rounded up to whole sectors.

        Raises:
            Invalid: the template is not in the pool, or is larger than the volume.
            Conflict: the image exists and is larger, or stems from another template, or is no
                volume.
            Busy: it must grow and a running domain has it open in a pool where only that
                domain's hypervisor can grow it (`ComputeDriver.grow_disk`).
            InsufficientResource: larger than the whole pool.
        """
        ...

    async def ensure_seed(self, storage_pool: StoragePoolRef, seed: SeedSpec) -> ObservedImage:
        """Build the seed medium, or replace it when its content differs.

        A running guest may see the old medium until it is started anew.

        Raises:
            Conflict: another kind of image has that name.
        """
        ...

    async def ensure_image_absent(self, storage_pool: StoragePoolRef, image_id: str) -> None:
        """Delete an image of any purpose, with its snapshots; one that is not there is fine.

        Raises:
            Conflict: it is a template with clones.
            Busy: a running domain has it open.
        """
        ...

    async def ensure_snapshot(
        self, storage_pool: StoragePoolRef, image_id: str, snapshot_id: str
    ) -> None:
        """Keep a volume as it is now; a snapshot that exists is left as it is.

        Raises:
            NotFound: the volume does not exist.
            Conflict: the image is no volume.
            Busy: a running domain has it open in a pool that cannot make snapshots meanwhile.
            InsufficientResource: the pool is full.
        """
        ...

    async def ensure_snapshot_absent(
        self, storage_pool: StoragePoolRef, image_id: str, snapshot_id: str
    ) -> None:
        """Delete a snapshot; one that is not there, or whose volume is not there, is fine.

        Raises:
            Busy: as `ensure_snapshot`.
        """
        ...

    async def list_snapshots(self, storage_pool: StoragePoolRef, image_id: str) -> list[str]:
        """Return the ids of a volume's snapshots, sorted; raises NotFound without the volume."""
        ...

    async def restore_snapshot(
        self, storage_pool: StoragePoolRef, image_id: str, snapshot_id: str
    ) -> ObservedImage:
        """Make a volume what it was, its size too. The snapshot stays, and so do later ones.

        Raises:
            NotFound: the volume or the snapshot does not exist.
            Busy: a running domain has it open.
        """
        ...

    async def get_image(self, storage_pool: StoragePoolRef, image_id: str) -> ObservedImage:
        """Raises NotFound."""
        ...

    async def locate(self, storage_pool: StoragePoolRef, image_id: str) -> ImageLocation:
        """Tell where the node's hypervisor finds the image.

        Raises:
            NotFound: it does not exist.
            Invalid: the node does not serve pools of this kind (field `storage_pool`).
        """
        ...

    async def list_images(
        self, storage_pool: StoragePoolRef, *, after: str = "", limit: int = IMAGES_PER_LIST
    ) -> list[ObservedImage]:
        """Return the first `limit` images of ours whose id is above `after`, by id.

        Fewer than `limit`: there are no more. Unfinished imports are not among them.
        """
        ...

    async def list_unfinished(self, storage_pool: StoragePoolRef) -> list[UnfinishedFile]:
        """Return the first `IMAGES_PER_LIST` unfinished files, sorted; looks only."""
        ...

    async def get_pool_statistics(self, storage_pool: StoragePoolRef) -> PoolStatistics: ...
