"""The Kaktus role: an agent that computes with libvirt, stores in local pools and makes bridges.

A composition root. While libvirt is missing or away the node is degraded, says why, and goes on
with the rest.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import structlog

from appliance.agent.compute import EventSender, compute_handlers
from appliance.agent.consoles import console_streams
from appliance.agent.network import host_network_handlers
from appliance.agent.storage import storage_handlers
from appliance.core.aio import supervise
from appliance.core.boot import read_boot_id
from appliance.core.clock import Clock, SystemClock
from appliance.core.errors import KowabungaError
from appliance.core.files import let_pass, write_atomic
from appliance.drivers.local_pool.storage import LocalPoolStorage
from appliance.drivers.netlink.bridges import LinuxBridges
from appliance.drivers.nftables import NftPortFilter
from appliance.model.compute import HostFacts
from appliance.model.node import Acceleration, KaktusSection
from appliance.model.node_status import RoleState
from appliance.roles.agent_role import AgentRoleConfig, Served, run_agent

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_LOOK_EVERY_S: Final = 5.0
_PROBE_S: Final = 20.0  # a guest that runs needs a fraction of a second
_NO_BINDING: Final = "libvirt is not installed (apt-get install python3-libvirt)"

Report = Callable[[RoleState, str], None]


class Health:
    """Tells the supervisor how the role is, at each change."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._connected = False
        self._found: tuple[RoleState, str] | None = None
        self._told: tuple[RoleState, str] | None = None

    def connected(self) -> None:
        """Some Kahuna has let us in."""
        self._connected = True
        self._tell()

    def well(self, detail: str) -> None:
        self._found = RoleState.RUNNING, detail
        self._tell()

    def troubled(self, why: str) -> None:
        self._found = RoleState.DEGRADED, why
        self._tell()

    def _tell(self) -> None:
        if self._connected and self._found is not None and self._found != self._told:
            self._told = self._found
            _log.info("kaktus_is", state=self._found[0], detail=self._found[1])
            self._report(*self._found)


async def run_kaktus(config: AgentRoleConfig, section: KaktusSection, *, report: Report) -> None:
    """Serve this node's machines until cancelled; raises as `run_agent` does."""
    clock = SystemClock()
    await until_installed(clock, report)
    health = Health(report)
    drivers = partial(kaktus_drivers, config, section, clock, health)
    await run_agent(config, ready=health.connected, drivers=drivers)


async def until_installed(
    clock: Clock,
    report: Report,
    *,
    is_installed: Callable[[], bool] = lambda: find_spec("libvirt") is not None,
) -> None:
    """Wait for libvirt's binding, a package of the distribution; say so if it is not there."""
    if is_installed():
        return
    _log.warning("libvirt_missing", trouble=_NO_BINDING)
    report(RoleState.DEGRADED, _NO_BINDING)
    while not is_installed():
        await clock.sleep(_LOOK_EVERY_S)
        invalidate_caches()


@asynccontextmanager
async def kaktus_drivers(
    config: AgentRoleConfig,
    section: KaktusSection,
    clock: Clock,
    health: Health,
    send_event: EventSender,
) -> AsyncGenerator[Served]:
    """Open the drivers of this node for the life of the block."""
    # Imported here: it loads libvirt's binding, which may have come only now.
    from appliance.drivers.libvirt.compute import LibvirtCompute  # noqa: PLC0415

    let_pass(config.state)  # QEMU is another user, for its disks and consoles
    roots = [Path(root) for root in section.pool_roots]
    if not roots:
        # Only this one: a root that the owner named may be a disk that is not mounted yet.
        roots = [config.state / "pools"]
        roots[0].mkdir(mode=0o711, exist_ok=True)
    accelerated = await _is_accelerated(section.acceleration, config.directory)
    memory = config.directory / "pools.json"
    port_filter = NftPortFilter(clock=clock)
    with (
        closing(LocalPoolStorage(roots, memory=memory, clock=clock)) as storage,
        closing(LinuxBridges(section.uplink)) as bridges,
    ):
        async with (
            LibvirtCompute(
                section.libvirt_uri,
                locate=storage.locate,
                ports=port_filter,
                directory=config.state / "consoles",
                accelerated=accelerated,
                clock=clock,
            ) as compute,
            _running(supervise("port-filter", port_filter.keep, clock=clock)),
            _running(watch_libvirt(compute.get_host, health, clock)),
        ):
            yield Served(
                {
                    **compute_handlers(compute, send_event),
                    **storage_handlers(storage, send_event),
                    **host_network_handlers(bridges),
                },
                console_streams(compute, clock),
            )


class _Probed(msgspec.Struct, frozen=True):
    boot_id: str
    kvm: bool


async def _is_accelerated(choice: Acceleration, directory: Path) -> bool:
    """Follow the choice; a probe is not repeated until the machine boots anew."""
    from appliance.drivers.libvirt.host import host_architecture  # noqa: PLC0415 - as above
    from appliance.drivers.libvirt.probe import probe_kvm  # noqa: PLC0415

    if choice is not Acceleration.AUTO:
        return choice is Acceleration.KVM
    memory, boot_id = directory / "probe.json", read_boot_id()
    with suppress(FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        known = msgspec.json.decode(memory.read_bytes(), type=_Probed)
        if known.boot_id == boot_id:
            return known.kvm
    architecture = host_architecture()
    works = await probe_kvm(
        f"/usr/bin/qemu-system-{architecture}", directory, _PROBE_S, architecture=architecture
    )
    try:
        write_atomic(memory, msgspec.json.encode(_Probed(boot_id, works)))
    except OSError as failed:  # a full disk: the next start probes again
        _log.warning("probe_not_kept", error=str(failed))
    return works


async def watch_libvirt(
    get_host: Callable[[], Awaitable[HostFacts]], health: Health, clock: Clock
) -> NoReturn:
    """Ask libvirt now and then whether it is there, and tell."""
    while True:
        try:
            host = await get_host()
        except KowabungaError as error:
            health.troubled(str(error))
        else:
            health.well("guests run on KVM" if host.accelerated else "guests are emulated: slow")
        await clock.sleep(_LOOK_EVERY_S)


@asynccontextmanager
async def _running(service: Coroutine[object, object, NoReturn]) -> AsyncGenerator[None]:
    """Run a service for the life of the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(service)
        yield
        task.cancel()
