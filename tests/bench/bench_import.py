"""Templates imported over HTTP into a local pool, against `qemu-img convert` of the same file.

The file has 512 MiB of content that does not compress in a disk of 2 GiB. The import downloads it
from a process beside, takes its SHA-256, checks and copies it. One baseline only copies, and syncs;
the other does by hand what the import does: curl, sha256sum, `qemu-img check` and the copy.
"""

import asyncio
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from appliance.core import command
from appliance.core.clock import SystemClock
from appliance.drivers.local_pool.storage import LocalPoolStorage
from appliance.model.storage import LocalPool, TemplateSource

_MIB: Final = 2**20
_CONTENT_BYTES: Final = 512 * _MIB
_DISK_BYTES: Final = 2048 * _MIB
_ROUNDS: Final = 3
_FORMS: Final = ("qcow2", "raw", "qcow2, compressed")


def run() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(directory: Path) -> dict[str, float]:
    await _make_images(directory)
    figures: dict[str, float] = {}
    async with _served(directory) as url:
        for form in _FORMS:
            path = directory / _name(form)
            imported: list[float] = []
            converted: list[float] = []
            by_hand: list[float] = []
            for _ in range(_ROUNDS):  # in turns: the machine's mood meets both
                converted.append(await _convert(path, directory / "converted.qcow2"))
                imported.append(await _import(directory, f"{url}/{path.name}"))
                by_hand.append(await _import_by_hand(directory, f"{url}/{path.name}"))
            figures |= {
                f"import MiB/s of content, {form}": _CONTENT_BYTES / _MIB / min(imported),
                f"import / qemu-img convert, {form}": min(imported) / min(converted),
                f"import / by hand, {form}": min(imported) / min(by_hand),
            }
    return figures


def _name(form: str) -> str:
    return form.replace(", ", ".")


async def _make_images(directory: Path) -> None:
    raw = directory / "raw"
    random_bytes = random.Random(1)
    with raw.open("wb") as file:
        file.write(bytes(510) + b"\x55\xaa")
        for _ in range(_CONTENT_BYTES // _MIB):
            file.write(random_bytes.randbytes(_MIB // 2) + os.urandom(_MIB // 2))
        file.truncate(_DISK_BYTES)
    for form in _FORMS:
        if form != "raw":
            options = ("-c",) if "compressed" in form else ()
            await _qemu_img("convert", *options, raw, directory / _name(form))


async def _qemu_img(verb: str, *arguments: str | Path) -> None:
    await command.run(["qemu-img", verb, "-O", "qcow2", *arguments], timeout_s=600)


async def _convert(source: Path, target: Path) -> float:
    began = time.perf_counter()
    await _qemu_img("convert", "-f", "raw" if source.name == "raw" else "qcow2", source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    took = time.perf_counter() - began
    target.unlink()
    return took


async def _import(directory: Path, url: str) -> float:
    root = directory / "pools"
    root.mkdir()
    storage = LocalPoolStorage([root], memory=root / "known-pools.json", clock=SystemClock())
    source = TemplateSource(template_id="a" * 24, url=url, allowed_sources=("127.0.0.1",))
    began = time.perf_counter()
    await storage.import_template(LocalPool(directory=f"{root}/a"), source, lambda _: None)
    took = time.perf_counter() - began
    storage.close()
    shutil.rmtree(root)
    return took


async def _import_by_hand(directory: Path, url: str) -> float:
    image = directory / "by-hand"
    image.mkdir()
    image /= url.rpartition("/")[2]
    began = time.perf_counter()
    await command.run(["curl", "-sSf", "-o", image, url], timeout_s=600)
    await command.run(["sha256sum", image], timeout_s=600)
    if image.name != "raw":
        await command.run(["qemu-img", "check", "-q", "-f", "qcow2", image], timeout_s=600)
    await _convert(image, image.with_name("converted.qcow2"))
    took = time.perf_counter() - began
    shutil.rmtree(image.parent)
    return took


@asynccontextmanager
async def _served(directory: Path) -> AsyncGenerator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = await command.start(
        [
            sys.executable, "-m", "http.server", "--bind", "127.0.0.1",
            "--directory", directory, str(port),
        ]
    )  # fmt: skip
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            break
        yield f"http://127.0.0.1:{port}"
    finally:
        await command.kill(server)
