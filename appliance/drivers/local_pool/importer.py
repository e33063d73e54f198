"""Import a template: download, prove, unpack, judge, convert, publish.

Until it is published there are only files whose names begin with a dot. What the network broke off
is kept for the repeat; what is wrong, or does not fit, is removed at once.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.core.clock import Clock
from appliance.core.errors import InsufficientResource, Invalid
from appliance.drivers.local_pool import qemu_img
from appliance.drivers.local_pool.connect import Resolve
from appliance.drivers.local_pool.directory import RAW_TEMPLATE, TEMPLATE, PoolDirectory
from appliance.drivers.local_pool.download import Download
from appliance.drivers.local_pool.kept_file import note_name
from appliance.drivers.local_pool.os_errors import told_as_ours
from appliance.drivers.local_pool.qcow2 import (
    MAX_HEAD_BYTES,
    BadQcow2,
    check_importable,
    parse_header,
)
from appliance.drivers.local_pool.recognise import COMPRESSED, Content, recognise
from appliance.drivers.local_pool.threads import Threads
from appliance.drivers.local_pool.unpack import unpack
from appliance.model.storage import ObservedImage, ProgressListener, TemplateSource, whole_sectors

_DOWNLOAD: Final = "download"
_UNPACKED: Final = "unpacked"
_CONVERTED: Final = "converted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """How this node downloads.

    Attributes:
        stall_s: after how long without a byte a download is given up.
    """

    threads: Threads
    clock: Clock
    resolve: Resolve
    tls: ssl.SSLContext
    stall_s: float

    async def run(
        self, directory: PoolDirectory, source: TemplateSource, progress: ProgressListener
    ) -> ObservedImage:
        """Import what is not there yet; raises as `StorageDriver.import_template` does."""
        try:
            with told_as_ours():
                return await self._import(directory, source, progress)
        except (Invalid, InsufficientResource):
            await self.threads.run(directory.forget, source.template_id)
            raise
        except BaseException:
            await self.threads.run(
                directory.forget, source.template_id, but=(_DOWNLOAD, note_name(_DOWNLOAD))
            )
            raise

    async def _import(
        self, directory: PoolDirectory, source: TemplateSource, progress: ProgressListener
    ) -> ObservedImage:
        template_id = source.template_id
        download = Download(
            source,
            directory.unfinished(template_id, _DOWNLOAD),
            room_bytes=await self.threads.run(_room_for_download, directory, template_id),
            room=directory.room,
            progress=progress,
            threads=self.threads,
            clock=self.clock,
            resolve=self.resolve,
            tls=self.tls,
            stall_s=self.stall_s,
        )
        sha256 = await download.run()
        if source.sha256 not in (None, sha256):
            raise Invalid(
                f"{source.url} has the SHA-256 {sha256}, not {source.sha256}",
                hint="correct the checksum, or the URL",
                field="sha256",
            )
        content = await self.threads.run(recognise, download.path)
        image = download.path
        if content in COMPRESSED:
            image = await self.threads.run(directory.reserve, template_id, _UNPACKED)
            await self._unpack(directory, content, download.path, image)
            content = await self.threads.run(recognise, image)
        if content is Content.QCOW2:
            observed = await self._publish_qcow2(directory, template_id, image)
        elif content is Content.RAW:
            observed = await self.threads.run(_publish_raw, directory, template_id, image)
        else:
            raise Invalid(
                f"the image is compressed twice, the second time by {content}", field="url"
            )
        await self.threads.run(directory.forget, template_id)
        return observed

    async def _unpack(
        self, directory: PoolDirectory, content: Content, source: Path, target: Path
    ) -> None:
        pool = await self.threads.run(directory.statistics)
        await self.threads.run_until(
            unpack,
            content,
            source,
            target,
            length_bytes=pool.capacity_bytes,
            room=directory.room,
        )

    async def _publish_qcow2(
        self, directory: PoolDirectory, template_id: str, image: Path
    ) -> ObservedImage:
        await self.threads.run(_check_qcow2, directory, image)
        await qemu_img.check(image)
        converted = await self.threads.run(directory.reserve, template_id, _CONVERTED)
        room_bytes = await self.threads.run(directory.room)
        await qemu_img.convert(image, converted, limit_bytes=room_bytes)
        return await self.threads.run(
            directory.publish, converted, directory.new(template_id, TEMPLATE)
        )


def _room_for_download(directory: PoolDirectory, template_id: str) -> int:
    """Return the room, with that which an interrupted download has taken already."""
    download = directory.unfinished(template_id, _DOWNLOAD)
    taken = download.lstat().st_blocks * 512 if download.exists() else 0
    return directory.room() + taken


def _check_qcow2(directory: PoolDirectory, image: Path) -> None:
    with image.open("rb") as file:
        head = file.read(MAX_HEAD_BYTES)
    try:
        header = parse_header(head, image.stat().st_size)
    except BadQcow2 as bad:
        raise Invalid(f"the qcow2 image is damaged: {bad}", field="url") from bad
    check_importable(header)
    _check_size(directory, header.virtual_bytes)


def _check_size(directory: PoolDirectory, virtual_bytes: int) -> None:
    capacity_bytes = directory.statistics().capacity_bytes
    if virtual_bytes > capacity_bytes:
        raise InsufficientResource(
            f"the image is a disk of {virtual_bytes} bytes, larger than its pool of"
            f" {capacity_bytes}",
            hint="take a larger pool, or a smaller image",
        )


def _publish_raw(directory: PoolDirectory, template_id: str, image: Path) -> ObservedImage:
    size_bytes = whole_sectors(image.stat().st_size)
    _check_size(directory, size_bytes)
    with image.open("r+b") as file:
        file.truncate(size_bytes)
    return directory.publish(image, directory.new(template_id, RAW_TEMPLATE))
