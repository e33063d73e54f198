"""The images of simulated storage pools, as both the storage and the compute twin see them.

An RBD pool is one place whoever asks; a local pool is one place per node.
"""

from typing import Final

import msgspec

from appliance.core.errors import Conflict, InsufficientResource
from appliance.drivers.fake.world import World
from appliance.model.storage import ObservedImage, RbdPool, StoragePoolRef, whole_sectors

_IMAGE: Final = "image"
_OPEN: Final = "open_image"
_SNAPSHOT: Final = "snapshot"


class OpenImage(msgspec.Struct, frozen=True):
    """A lock as QEMU takes it: one running domain, on one node, writes to an image."""

    node_id: str
    domain_id: str


class _Snapshot(msgspec.Struct, frozen=True):
    snapshot_id: str
    image: ObservedImage


class Images:
    """What one node can do to images without asking whether it should."""

    def __init__(self, world: World, node_id: str, *, capacity_bytes: int) -> None:
        self._world = world
        self._node_id = node_id
        self.capacity_bytes: Final = capacity_bytes

    def place(self, storage_pool: StoragePoolRef) -> str:
        """Return where in the world the pool's things are."""
        if isinstance(storage_pool, RbdPool):
            monitor = f"{storage_pool.monitor_address}:{storage_pool.monitor_port}"
            return f"rbd/{monitor}/{storage_pool.pool}"
        return f"local/{self._node_id}{storage_pool.directory}"

    def find(self, storage_pool: StoragePoolRef, image_id: str) -> ObservedImage | None:
        return self._world.find(self.place(storage_pool), _IMAGE, image_id, ObservedImage)

    def list_images(
        self, storage_pool: StoragePoolRef, *, after: str = "", limit: int = -1
    ) -> list[ObservedImage]:
        """Return images as `World.list_things` does."""
        return self._world.list_things(
            self.place(storage_pool), _IMAGE, ObservedImage, after=after, limit=limit
        )

    def put(self, storage_pool: StoragePoolRef, image: ObservedImage) -> ObservedImage:
        self._world.put(self.place(storage_pool), _IMAGE, image.image_id, image)
        return image

    def remove(self, storage_pool: StoragePoolRef, image_id: str) -> None:
        """Remove an image and its snapshots."""
        place = self.place(storage_pool)
        for snapshot_id in self.list_snapshots(storage_pool, image_id):
            self._world.remove(place, _SNAPSHOT, f"{image_id}.{snapshot_id}")
        self._world.remove(place, _IMAGE, image_id)

    def put_snapshot(
        self, storage_pool: StoragePoolRef, image: ObservedImage, snapshot_id: str
    ) -> None:
        name = f"{image.image_id}.{snapshot_id}"
        self._world.put(self.place(storage_pool), _SNAPSHOT, name, _Snapshot(snapshot_id, image))

    def remove_snapshot(
        self, storage_pool: StoragePoolRef, image_id: str, snapshot_id: str
    ) -> None:
        self._world.remove(self.place(storage_pool), _SNAPSHOT, f"{image_id}.{snapshot_id}")

    def list_snapshots(self, storage_pool: StoragePoolRef, image_id: str) -> list[str]:
        return [
            snapshot.snapshot_id
            for snapshot in self._world.list_things(
                self.place(storage_pool), _SNAPSHOT, _Snapshot, after=image_id
            )
            if snapshot.image.image_id == image_id
        ]

    def find_snapshot(
        self, storage_pool: StoragePoolRef, image_id: str, snapshot_id: str
    ) -> ObservedImage | None:
        """Return the image as it was."""
        snapshot = self._world.find(
            self.place(storage_pool), _SNAPSHOT, f"{image_id}.{snapshot_id}", _Snapshot
        )
        return snapshot.image if snapshot else None

    def grow(
        self, storage_pool: StoragePoolRef, image: ObservedImage, size_bytes: int
    ) -> ObservedImage:
        """Make the image `size_bytes` long, rounded up to sectors.

        Raises:
            Conflict: it is larger.
            InsufficientResource: it would be larger than its pool.
        """
        size_bytes = whole_sectors(size_bytes)
        if image.size_bytes > size_bytes:
            raise Conflict(
                f"image {image.image_id} has {image.size_bytes} bytes and cannot shrink to"
                f" {size_bytes}",
                id=image.image_id,
            )
        self.check_fits(image.image_id, size_bytes)
        if image.size_bytes == size_bytes:
            return image
        return self.put(storage_pool, msgspec.structs.replace(image, size_bytes=size_bytes))

    def check_fits(self, image_id: str, size_bytes: int) -> None:
        if size_bytes > self.capacity_bytes:
            raise InsufficientResource(
                f"image {image_id} of {size_bytes} bytes is larger than its pool of"
                f" {self.capacity_bytes}",
                id=image_id,
            )

    def opened_by(self, storage_pool: StoragePoolRef, image_id: str) -> OpenImage | None:
        return self._world.find(self.place(storage_pool), _OPEN, image_id, OpenImage)

    def check_openable(self, storage_pool: StoragePoolRef, image_id: str, domain_id: str) -> None:
        """Raise Conflict when another domain has the image open."""
        holder = self.opened_by(storage_pool, image_id)
        if holder is not None and holder != OpenImage(self._node_id, domain_id):
            raise Conflict(
                f"image {image_id} is open in domain {holder.domain_id}",
                hint="stop that domain first",
                id=image_id,
            )

    def open(self, storage_pool: StoragePoolRef, image_id: str, domain_id: str) -> None:
        opened = OpenImage(self._node_id, domain_id)
        self._world.put(self.place(storage_pool), _OPEN, image_id, opened)

    def close(self, storage_pool: StoragePoolRef, image_id: str) -> None:
        self._world.remove(self.place(storage_pool), _OPEN, image_id)
