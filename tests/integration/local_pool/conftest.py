"""A local pool on a directory of the test, real qemu-img, and a web server that misbehaves."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.core.command import run
from appliance.drivers.local_pool.known_pools import MARK
from appliance.drivers.local_pool.storage import LocalPoolStorage
from appliance.model.storage import (
    LocalPool,
    ObservedImage,
    ProgressListener,
    TemplateSource,
    VolumeSpec,
)
from tests.contract.drivers.rig import ignore, some_id
from tests.contract.drivers.rig_local_pool import LOOPBACK, local_storage, small_image
from tests.support.needs import need, need_root
from tests.support.web import Page, Web, open_web


@dataclass
class Bench:
    """What a test of local pools works with.

    Attributes:
        make: a driver made anew, as after a restart of the agent.
        image: a qcow2 file.
    """

    make: Callable[[], LocalPoolStorage]
    storage: LocalPoolStorage
    pool: LocalPool
    web: Web
    image: bytes
    scratch: Path

    @property
    def directory(self) -> Path:
        return Path(self.pool.directory)

    def names(self) -> list[str]:
        """Return what lies in the pool's directory, besides its mark."""
        return sorted(entry.name for entry in self.directory.iterdir() if entry.name != MARK)

    def source(
        self, url: str, *, template_id: str = "", sha256: str | None = None
    ) -> TemplateSource:
        return TemplateSource(
            template_id=template_id or some_id(), url=url, sha256=sha256, allowed_sources=LOOPBACK
        )

    async def import_page(
        self,
        page: Page,
        *,
        template_id: str = "",
        sha256: str | None = None,
        progress: ProgressListener = ignore,
    ) -> ObservedImage:
        source = self.source(self.web.put("/image", page), template_id=template_id, sha256=sha256)
        return await self.storage.import_template(self.pool, source, progress)

    async def volume(self, size_bytes: int, *, template_id: str | None = None) -> str:
        spec = VolumeSpec(image_id=some_id(), size_bytes=size_bytes, template_id=template_id)
        return (await self.storage.ensure_image(self.pool, spec)).image_id

    async def volume_again(self, image_id: str, size_bytes: int) -> None:
        spec = VolumeSpec(image_id=image_id, size_bytes=size_bytes)
        await self.storage.ensure_image(self.pool, spec)

    async def content(self, image_id: str) -> bytes:
        """Return what a guest would read, its zeros at the end left out."""
        location = await self.storage.locate(self.pool, image_id)
        raw = self.scratch / "content.raw"
        await qemu("convert", "-f", location.format, "-O", "raw", location.path, raw)
        return raw.read_bytes().rstrip(b"\0")


async def qemu(*arguments: str | Path) -> bytes:
    done = await run([need("qemu-img"), *arguments], timeout_s=100)
    return done.stdout


@pytest_asyncio.fixture
async def bench(tmp_path: Path, stall_s: float) -> AsyncGenerator[Bench]:
    image = await small_image(tmp_path / "image.qcow2")
    root = tmp_path / "pools"
    root.mkdir()
    async with local_storage(root, stall_s=stall_s) as make, open_web() as web:
        pool = LocalPool(directory=f"{root}/a")
        storage = make()
        await storage.list_images(pool)
        yield Bench(make, storage, pool, web, image, tmp_path)


@pytest_asyncio.fixture
async def small(tmp_path: Path) -> AsyncGenerator[Bench]:
    """A pool on a file system of 16 MiB."""
    need_root()
    image = await small_image(tmp_path / "image.qcow2")
    root = tmp_path / "pools"
    root.mkdir()
    await run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", root], timeout_s=60)
    try:
        async with local_storage(root) as make, open_web() as web:
            pool = LocalPool(directory=f"{root}/a")
            storage = make()
            await storage.list_images(pool)
            yield Bench(make, storage, pool, web, image, tmp_path)
    finally:
        await run(["umount", root], timeout_s=60)


@pytest.fixture
def stall_s() -> float:
    return 60.0
