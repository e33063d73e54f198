"""Local pools in a directory of the test: real qemu-img, and a web server on loopback."""

import hashlib
import random
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from appliance.core.clock import SystemClock
from appliance.core.command import run
from appliance.drivers.local_pool.connect import Resolve
from appliance.drivers.local_pool.storage import LocalPoolStorage
from appliance.model.storage import LocalPool
from tests.contract.drivers.rig import MIB, StorageRig
from tests.support.needs import need
from tests.support.web import Page, Web, open_web

LOOPBACK: Final = ("127.0.0.0/8",)
_TEMPLATE_BYTES: Final = 64 * MIB


async def small_image(path: Path, *, content_bytes: int = 4 * MIB) -> bytes:
    """Return a qcow2 file of `_TEMPLATE_BYTES`, with some content that does not compress."""
    raw = path.with_suffix(".raw")
    raw.write_bytes(random.Random(1).randbytes(content_bytes))
    with raw.open("r+b") as file:
        file.truncate(_TEMPLATE_BYTES)
    await run([need("qemu-img"), "convert", "-f", "raw", "-O", "qcow2", raw, path], timeout_s=100)
    raw.unlink()
    return path.read_bytes()


@asynccontextmanager
async def local_storage(
    *roots: Path,
    resolve: Resolve | None = None,
    tls: ssl.SSLContext | None = None,
    stall_s: float = 60.0,
) -> AsyncGenerator[Callable[[], LocalPoolStorage]]:
    """Let drivers be made over the same directories; all are closed at the end."""
    made: list[LocalPoolStorage] = []

    def make() -> LocalPoolStorage:
        made.append(
            LocalPoolStorage(
                roots,
                memory=roots[0].with_name("known-pools.json"),
                clock=SystemClock(),
                resolve=resolve,
                tls=tls,
                stall_s=stall_s,
            )
        )
        return made[-1]

    try:
        yield make
    finally:
        for storage in made:
            storage.close()


@asynccontextmanager
async def local_pool_rig(directory: Path) -> AsyncGenerator[StorageRig]:
    content = await small_image(directory / "template.qcow2")
    root = directory / "pools"
    root.mkdir()
    async with local_storage(root) as make, open_web() as web:
        url = web.put("/debian.qcow2", Page(content=content))
        yield _rig(make, LocalPool(directory=f"{root}/a"), web, url, content)


def _rig(
    make: Callable[[], LocalPoolStorage], pool: LocalPool, web: Web, url: str, content: bytes
) -> StorageRig:
    return StorageRig(
        storage=make(),
        storage_pool=pool,
        template_url=url,
        template_bytes=_TEMPLATE_BYTES,
        template_sha256=hashlib.sha256(content).hexdigest(),
        missing_url=f"{web.base}/missing.qcow2",
        allowed_sources=LOOPBACK,
        reopen=lambda: _rig(make, pool, web, url, content),
    )
