"""Grows disks of active domains. Blocking: runs in the connection's threads."""

import os

import libvirt

from appliance.core.errors import Conflict, InsufficientResource, NotFound
from appliance.drivers.libvirt.definition import find_disks
from appliance.drivers.libvirt.look import get_handle
from appliance.drivers.libvirt.record import parse
from appliance.model.storage import whole_sectors


def grow(connection: libvirt.virConnect, domain_id: str, image_id: str, size_bytes: int) -> None:
    """Grow a disk, image and guest's view; never shrink.

    Raises:
        NotFound: no such domain, or it has no such disk.
        Conflict: it is not active, or the image is larger.
        InsufficientResource: larger than the file system it lies in.
    """
    domain = get_handle(connection, domain_id)
    if not domain.isActive():
        raise Conflict(
            f"domain {domain_id} does not run",
            hint="grow the image in its storage pool",
            id=domain_id,
        )
    disk = find_disks(parse(domain.XMLDesc())).get(image_id)
    source, target = (None, None) if disk is None else (disk.find("source"), disk.find("target"))
    if source is None or target is None:
        raise NotFound(f"domain {domain_id} has no disk {image_id}", id=image_id)
    wanted = whole_sectors(size_bytes)
    name = target.get("dev", "")
    present = domain.blockInfo(name)[0]
    if present > wanted:
        raise Conflict(f"image {image_id} has {present} bytes and never shrinks", id=image_id)
    around = os.statvfs(source.get("file", "/"))
    if wanted > around.f_blocks * around.f_frsize:
        raise InsufficientResource(f"image {image_id} would outgrow its pool", id=image_id)
    if wanted > present:
        domain.blockResize(name, wanted, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
