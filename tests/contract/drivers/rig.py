"""What the suites need of an implementation: its drivers, and a hand in the world behind them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count

from appliance.model.compute import (
    Architecture,
    ComputeDriver,
    DiskSpec,
    DomainSpec,
    InterfaceSpec,
    OsFamily,
)
from appliance.model.network import BridgeSpec, HostNetworkDriver
from appliance.model.storage import (
    ImportProgress,
    ObservedImage,
    StorageDriver,
    StoragePoolRef,
    TemplateSource,
    VolumeSpec,
)

MIB = 1024**2
BRIDGE = BridgeSpec(name="kwtest0", vlan=0)
_numbers = count(1)


def some_id() -> str:
    """Return an id that no other call returns."""
    return f"{next(_numbers):024x}"


@dataclass(frozen=True, kw_only=True)
class StorageRig:
    """One implementation of the storage driver, with an empty pool.

    Attributes:
        template_url: a disk image of `template_bytes` (virtual size), whose download has the
            SHA-256 `template_sha256`.
        missing_url: leads to no file.
        allowed_sources: internal places that these URLs lead to.
        reopen: return drivers made anew over the same host, as after a restart of the agent.
    """

    storage: StorageDriver
    storage_pool: StoragePoolRef
    template_url: str
    template_bytes: int
    template_sha256: str
    missing_url: str
    allowed_sources: tuple[str, ...] = ()
    reopen: Callable[[], "StorageRig"]

    def source(self, template_id: str, *, sha256: str | None = None) -> TemplateSource:
        return TemplateSource(
            template_id=template_id,
            url=self.template_url,
            sha256=sha256,
            allowed_sources=self.allowed_sources,
        )

    async def template(self) -> str:
        """Import a template and return its id."""
        template_id = some_id()
        await self.storage.import_template(self.storage_pool, self.source(template_id), ignore)
        return template_id

    async def volume(self, size_bytes: int = 8 * MIB, *, template_id: str | None = None) -> str:
        """Create a volume and return its id."""
        image = await self.ensure(some_id(), size_bytes, template_id=template_id)
        return image.image_id

    async def ensure(
        self, image_id: str, size_bytes: int, *, template_id: str | None = None
    ) -> ObservedImage:
        return await self.storage.ensure_image(
            self.storage_pool,
            VolumeSpec(image_id=image_id, size_bytes=size_bytes, template_id=template_id),
        )


@dataclass(frozen=True, kw_only=True)
class Rig(StorageRig):
    """One implementation of the drivers of a Kaktus, with an empty pool and no domains.

    Attributes:
        foreign_interface: an interface of the host that we did not make.
        grows_open_images: a pool's image can grow, and be kept as a snapshot, while a domain has
            it open.
        grows_live: a running domain takes more processors and memory.
        reopen_compute: return a driver made anew over the same host, likewise.
        kill_domain: let the domain's process die.
        shut_guest_down: let the guest power off by itself.
        deafen_guest: let the guest ignore the power button.
        pass_time: return once so many seconds have passed for the drivers.
    """

    compute: ComputeDriver
    host_network: HostNetworkDriver
    architecture: Architecture
    foreign_interface: str
    grows_open_images: bool
    grows_live: bool
    reopen: Callable[[], "Rig"]
    reopen_compute: Callable[[], Awaitable[ComputeDriver]]
    kill_domain: Callable[[str], Awaitable[None]]
    shut_guest_down: Callable[[str], Awaitable[None]]
    deafen_guest: Callable[[str], Awaitable[None]]
    pass_time: Callable[[float], Awaitable[None]]

    def disk(self, image_id: str) -> DiskSpec:
        return DiskSpec(storage_pool=self.storage_pool, image_id=image_id)

    async def spec(self) -> DomainSpec:
        """Return a small domain, with a disk and a bridge that exist."""
        await self.host_network.ensure_bridge(BRIDGE)
        domain_id = some_id()
        tail = bytes.fromhex(domain_id[-6:]).hex(":")
        return DomainSpec(
            domain_id=domain_id,
            name=f"machine {domain_id[-4:]}",
            vcpus=2,
            memory_bytes=128 * MIB,
            os=OsFamily.LINUX,
            architecture=self.architecture,
            disks=(self.disk(await self.volume()),),
            interfaces=(InterfaceSpec(mac=f"da:1e:70:{tail}", bridge=BRIDGE.name),),
            generation=1,
        )


def ignore(_: ImportProgress) -> None: ...
