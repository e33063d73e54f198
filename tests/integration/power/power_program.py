"""Runs in a guest whose power will fail, as its only process: a Kahuna's state and a node's pool.

Each time it starts it tells what the disk has kept, once what was under way has ended. Then it
makes, grows and deletes volumes, and changes secrets, keys, settings and files: it tells what it
begins, and what was acknowledged. `test_power_cut.py` cuts the power, and judges.
"""

import asyncio
import ctypes
import fcntl
import json
import os
import random
import struct
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from appliance.agent.dispatch import Dispatcher, Handler
from appliance.agent.fences import FenceBook
from appliance.agent.storage import storage_handlers
from appliance.core.clock import SystemClock
from appliance.core.files import ensure_private_directory, write_atomic
from appliance.core.logs import LogLevel, configure_logs
from appliance.core.secret import Secret
from appliance.drivers.fake.world import World
from appliance.drivers.local_pool import qemu_img
from appliance.drivers.local_pool.directory import TEMPLATE, PoolDirectory
from appliance.drivers.local_pool.storage import LocalPoolStorage
from appliance.model.principal import MASTER
from appliance.model.setting import OPERATION_DAYS
from appliance.model.storage import ObservedImage
from appliance.resources.region import REGIONS, Region
from appliance.resources.volume import Volume, VolumeType
from appliance.rpc.gateway import Command
from appliance.rpc.method import Method
from appliance.rpc.storage import STORAGE_IMPORT_TEMPLATE, TemplateImport
from appliance.services.cluster import ensure_cluster
from appliance.services.invariants import verify_rows
from appliance.services.verify import verify_world
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore
from appliance.store.verify import verify
from tests.support.cloud import ASKED, MIB, Cloud, Nodes, build_cloud

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

_DISK: Final = Path("/disk")
_STATE: Final = _DISK / "state"
_POOL: Final = _DISK / "pools" / "local"
_PLACES: Final = _STATE / "places.json"
_COUNTER: Final = _STATE / "counter"
_AGENT: Final = "0" * 24
_CLOCK: Final = SystemClock()
_MAKERS: Final = 3
# What the program has not synced stays in memory for longer than the test lasts, and the file
# system does not sync by itself what is renamed over something else.
_OPTIONS: Final = b"commit=3600,noauto_da_alloc"
_SEED_DIGITS: Final = 64
# linux/random.h, linux/fs.h
_RNDADDENTROPY: Final = 0x40085203
_RNDRESEEDCRNG: Final = 0x5207
_BLKFLSBUF: Final = 0x1261


def main() -> None:
    configure_logs(LogLevel.WARNING, text=False)  # the serial line is slow
    report(ready=True)
    while len(seed := sys.stdin.readline().strip()) != _SEED_DIGITS:
        pass  # the serial line may lose a character when it begins
    _forget_what_others_know(bytes.fromhex(seed))
    _DISK.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"/dev/vda", str(_DISK).encode(), b"ext4", 0, _OPTIONS):
        raise OSError(ctypes.get_errno(), "the disk cannot be mounted")
    for delay in ("dirty_expire_centisecs", "dirty_writeback_centisecs"):
        Path("/proc/sys/vm", delay).write_text("360000")
    asyncio.run(_main())


def _forget_what_others_know(seed: bytes) -> None:
    """Draw other random numbers than guests that were saved as we were, and see today's disk."""
    source = os.open("/dev/urandom", os.O_RDWR)
    fcntl.ioctl(source, _RNDADDENTROPY, struct.pack("ii32s", 256, 32, seed))
    fcntl.ioctl(source, _RNDRESEEDCRNG)
    os.close(source)
    random.seed()
    disk = os.open("/dev/vda", os.O_RDONLY)
    fcntl.ioctl(disk, _BLKFLSBUF)
    os.close(disk)


def report(**facts: object) -> None:
    os.write(sys.stdout.fileno(), f"report {json.dumps(facts)}\n".encode())


class LocalNode:
    """The only agent; implements AgentGateway without a network."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def reachable(self, agent_id: str) -> bool:
        return agent_id == _AGENT

    async def call(
        self,
        agent_id: str,
        method: Method[P, R],
        params: P,
        *,
        timeout_s: float | None = None,
        command: Command | None = None,
    ) -> R:
        del agent_id, timeout_s
        result = await self._dispatcher.handle(method.name, msgspec.json.encode(params), command)
        return msgspec.json.decode(msgspec.json.encode(result), type=method.result)


def _importer(storage: LocalPoolStorage) -> Handler:
    """Return what stands for the download: an empty image."""

    async def import_template(params: TemplateImport) -> ObservedImage:
        await storage.get_pool_statistics(params.storage_pool)  # makes its directory
        directory, template_id = PoolDirectory(_POOL), params.source.template_id
        unfinished = directory.reserve(template_id, "new")
        await qemu_img.create(unfinished, MIB, parent=None)
        return directory.publish(unfinished, directory.new(template_id, TEMPLATE))

    return import_template


@asynccontextmanager
async def _opened() -> AsyncGenerator[tuple[Cloud, FenceBook, LocalNode]]:
    for directory in (_STATE, _STATE / "keys", _STATE / "agent"):
        ensure_private_directory(directory)
    _POOL.parent.mkdir(exist_ok=True)
    store = await SqliteStore.open(_STATE / "state.db", clock=_CLOCK)
    await ensure_cluster(store, _CLOCK)
    with (
        World() as world,
        closing(
            LocalPoolStorage([_POOL.parent], memory=_STATE / "agent" / "pools.json", clock=_CLOCK)
        ) as storage,
    ):
        handlers: dict[str, Handler] = storage_handlers(storage, lambda _: None)
        handlers[STORAGE_IMPORT_TEMPLATE.name] = _importer(storage)
        async with (
            FenceBook.open(_STATE / "agent" / "fences.db") as fences,
            Dispatcher(handlers, fences) as dispatcher,
        ):
            node = LocalNode(dispatcher)
            nodes = Nodes(_STATE / "keys", _CLOCK, world)
            cloud = build_cloud(store, nodes, _CLOCK, gateway=node)
            await cloud.keyring.open("node")
            yield cloud, fences, node


async def _main() -> None:
    async with _opened() as (cloud, fences, node), asyncio.TaskGroup() as tasks:
        tasks.create_task(cloud.engine.run())
        if _PLACES.exists():
            for name, value in json.loads(_PLACES.read_bytes()).items():
                setattr(cloud, name, value)
        else:
            await _furnish(cloud)
        while unfinished := await cloud.engine.list(unfinished=True):
            await cloud.engine.wait(unfinished[0].id, 300)
        await _tell(cloud, fences, node)
        for number in range(_MAKERS):
            tasks.create_task(_work_on_volumes(cloud, fences, number))
        tasks.create_task(_count(cloud))
        tasks.create_task(_change_keys(cloud))


async def _furnish(cloud: Cloud) -> None:
    agent = Statement(
        "INSERT INTO agent (id, name, description, type, credential, credential_serial,"
        " created_at_ms) VALUES (?, 'node', '', 'Kaktus', 'none', 0, 0)",
        (_AGENT,),
    )
    await cloud.store.batch([agent])
    region = await cloud.catalog.create(REGIONS, Region(name="eu", domain="eu.example"))
    cloud.region = str(region.id)
    await cloud.add_subnet("private", "10.1.0.0/24", private=True)
    cloud.pool = await cloud.add_pool("local", [_AGENT], f"local://{_POOL}")
    cloud.template = await cloud.add_template()
    cloud.project = await cloud.add_project("acme")
    names = ("region", "pool", "template", "project")
    places = {name: getattr(cloud, name) for name in names}
    write_atomic(_PLACES, msgspec.json.encode(places))


async def _tell(cloud: Cloud, fences: FenceBook, node: LocalNode) -> None:
    """Report all that there is."""
    findings = [*await verify(cloud.store), *await verify_rows(cloud.store)]
    world = await verify_world(cloud.store, node, cloud.compute.seeds)
    findings += [f"{each.target}: {each.detail}" for each in world.differences]
    findings += [f"{each} (not looked at)" for each in world.unseen]
    for path in _POOL.glob("*.qcow2"):
        await qemu_img.check(path)
    rows = await cloud.store.query(Statement("SELECT id, size_bytes FROM volume"))
    images = PoolDirectory(_POOL).list_images(after="", limit=1000)
    report(
        findings=findings,
        rows={row["id"]: row["size_bytes"] for row in rows},
        images={each.image_id: each.size_bytes for each in images if each.template_id is not None},
        fences={str(row["id"]): await _fence(fences, str(row["id"])) for row in rows},
        counted=await _counted(cloud),
    )


# --- work


async def _work_on_volumes(cloud: Cloud, fences: FenceBook, number: int) -> None:
    """Make, grow and delete volumes, for ever."""
    volumes = cloud.compute.volumes
    for turn in count():
        name = f"v{number}-{turn}-{random.randrange(10**9)}"
        made = await cloud.add_volume(name, VolumeType.OS, 2 * MIB)
        report(volume=made, size=2 * MIB, fence=await _fence(fences, made))
        wanted = Volume(name=name, type=VolumeType.OS, size=4 * MIB)
        await (await volumes.update(ASKED, made, wanted)).outcome()
        report(volume=made, size=4 * MIB, fence=await _fence(fences, made))
        if turn % 2:
            report(volume=made, size=None, fence=await _fence(fences, made))
            await (await volumes.delete(ASKED, made)).outcome()
            report(volume=made, size=0, fence=await _fence(fences, made))


async def _fence(fences: FenceBook, volume: str) -> int:
    found = await fences.highest(f"volume/{volume}")
    assert found is not None
    return found.fence


def _owner(cloud: Cloud) -> str:
    return f"project/{cloud.project}"


async def _counted(cloud: Cloud) -> dict[str, int]:
    secret = await cloud.secrets.find(_owner(cloud), "counter")
    return {
        "file": int(_COUNTER.read_text()) if _COUNTER.exists() else 0,
        "secret": 0 if secret is None else int(secret.reveal_text()),
        "setting": await cloud.settings.get(OPERATION_DAYS),
    }


async def _count(cloud: Cloud) -> None:
    """Count in a file, in a secret and in a setting, for ever."""
    for number in count(max((await _counted(cloud)).values()) + 1):
        write_atomic(_COUNTER, str(number).encode())
        report(counted="file", number=number)
        await cloud.secrets.put(_owner(cloud), "counter", Secret(str(number)))
        report(counted="secret", number=number)
        await cloud.settings.set(OPERATION_DAYS.name, number, MASTER)
        report(counted="setting", number=number)


async def _change_keys(cloud: Cloud) -> None:
    """Seal all secrets with another key again and again."""
    while True:
        await cloud.keyring.replace_active((await cloud.keyring.active()).id)
        await cloud.secrets.reseal()
        await cloud.keyring.retire_unused()
