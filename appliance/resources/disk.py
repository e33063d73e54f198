"""Disks: what steps do to the image of a volume, whoever the volume belongs to."""

from typing import Final

from appliance.core.errors import Conflict, DriverError, NotFound
from appliance.model.storage import VolumeSpec
from appliance.model.target import target
from appliance.operations.step import StepContext
from appliance.resources.work import PoolPlace, Work
from appliance.rpc.compute import COMPUTE_GROW_DISK, DomainGrowDisk
from appliance.rpc.storage import (
    STORAGE_ENSURE_IMAGE,
    STORAGE_ENSURE_IMAGE_ABSENT,
    STORAGE_GET_IMAGE,
    ImageEnsure,
    ImageRef,
)
from appliance.store.base import Statement

_DISKS: Final = """
SELECT volume.id, volume.storage_pool_id, template_id, size_bytes, instance_id,
    observed_generation > 0 AS is_made, observed_generation = volume.generation AS is_current,
    storage_pool.pool, ceph_address, ceph_port
FROM volume JOIN storage_pool ON storage_pool.id = volume.storage_pool_id
"""


class Disk(PoolPlace, frozen=True):
    """A volume as a step sees it.

    Attributes:
        is_made: its image has existed: if it is gone now, an empty one must not take its place.
        is_current: its image is what it should be.
    """

    id: str
    template_id: str | None
    size_bytes: int
    instance_id: str | None
    is_made: bool
    is_current: bool


def disk(volume_id: str) -> Statement:
    """Select one `Disk`."""
    return Statement(_DISKS + "WHERE volume.id = ?", (volume_id,))


def disks_of_kompute(kompute_id: str) -> Statement:
    """Select each `Disk` of a Kompute."""
    return Statement(_DISKS + "WHERE volume.kompute_id = ? ORDER BY volume.id", (kompute_id,))


async def ensure_disk(context: StepContext[Work], disk: Disk) -> None:
    """Make the image, or grow it, through the domain that has it open if one does.

    Raises:
        DriverError: the image is gone.
        KowabungaError: the agent's own.
    """
    if disk.is_current:
        return
    if disk.is_made:
        await _require_image(context, disk)
        if disk.instance_id is not None and await _grow_in_domain(context, disk, disk.instance_id):
            return
    await context.call(
        context.arguments.storage_agents[disk.storage_pool_id],
        STORAGE_ENSURE_IMAGE,
        ImageEnsure(
            disk.ref,
            VolumeSpec(image_id=disk.id, size_bytes=disk.size_bytes, template_id=disk.template_id),
        ),
        target=target("volume", disk.id),
    )


async def ensure_disk_absent(context: StepContext[Work], disk: Disk) -> None:
    await context.call(
        context.arguments.storage_agents[disk.storage_pool_id],
        STORAGE_ENSURE_IMAGE_ABSENT,
        ImageRef(disk.ref, disk.id),
        target=target("volume", disk.id),
    )


async def _require_image(context: StepContext[Work], disk: Disk) -> None:
    agent_id = context.arguments.storage_agents[disk.storage_pool_id]
    try:
        await context.call(
            agent_id,
            STORAGE_GET_IMAGE,
            ImageRef(disk.ref, disk.id),
            target=target("volume", disk.id),
        )
    except NotFound as gone:
        raise DriverError(
            f"the image of volume {disk.id} is gone from its storage pool",
            hint="restore it, or delete what uses the volume",
            id=disk.id,
        ) from gone


async def _grow_in_domain(context: StepContext[Work], disk: Disk, instance_id: str) -> bool:
    """Tell whether a running domain has grown the disk; the pool does it while none runs."""
    try:
        await context.call(
            context.arguments.host_agent,
            COMPUTE_GROW_DISK,
            DomainGrowDisk(instance_id, disk.id, disk.size_bytes),
            target=target("instance", instance_id),
        )
    except (Conflict, NotFound):
        return False
    return True
