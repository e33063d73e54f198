"""Implements `ComputeDriver` on libvirtd and QEMU.

All that is known of a domain is in libvirt: the driver remembers nothing that it could lose.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn

import libvirt

from appliance.core.aio import BlockingPool, supervise
from appliance.core.clock import Clock
from appliance.core.errors import (
    Conflict,
    DriverError,
    InsufficientResource,
    Invalid,
    NotFound,
    Unavailable,
)
from appliance.drivers.libvirt import console, tpm
from appliance.drivers.libvirt import power as switch
from appliance.drivers.libvirt.connection import Calls, Connection
from appliance.drivers.libvirt.definition import Layout, Parts, lay_out, render_domain
from appliance.drivers.libvirt.disk import grow
from appliance.drivers.libvirt.flaws import compare_ports, list_lost_files
from appliance.drivers.libvirt.host import (
    host_architecture,
    read_host,
    read_host_platform,
    read_memory_bytes,
)
from appliance.drivers.libvirt.live import LiveChange, blame_holder
from appliance.drivers.libvirt.look import (
    Look,
    find_look,
    get_look,
    list_cards,
    list_observed,
    list_statistics,
    observe_domain,
)
from appliance.drivers.libvirt.platform import Platform
from appliance.drivers.libvirt.record import serialise
from appliance.drivers.libvirt.watch import StateWatch
from appliance.model.compute import (
    GRACE_LIMIT_S,
    AppliedDomain,
    Architecture,
    Change,
    ConsoleKind,
    DiskSpec,
    DomainListener,
    DomainSpec,
    DomainStatistics,
    Firmware,
    Flaw,
    HostFacts,
    InterfaceSpec,
    ObservedDomain,
    Tpm,
    check_cpu_model,
    check_domain,
)
from appliance.model.domain_state import ACTIVE_STATES, DomainState, Power
from appliance.model.network import PortFilter, PortSpec, port_name
from appliance.model.storage import ImageLocation, StoragePoolRef

Locate = Callable[[StoragePoolRef, str], Awaitable[ImageLocation]]
_FILES_LIMIT_S: Final = 60.0
_BOUND_LOGS_EVERY_S: Final = 10.0
_POLL_S: Final = 0.25
_PRESS_AGAIN_S: Final = 10.0  # a guest that still boots does not hear the button


def bridge_exists(name: str) -> bool:
    return Path("/sys/class/net", name, "bridge").is_dir()


class LibvirtCompute:
    """Runs domains; to be entered before use, as a context manager.

    It may be entered while libvirtd is away: calls raise Unavailable until it comes.

    Args:
        locate: `StorageDriver.locate`.
        directory: of sockets and logs of consoles; ours alone.
        accelerated: KVM, as a probe has found; else QEMU emulates the processor.
        architecture: None: the host's own. Another one is emulated.
        has_bridge: tells whether a bridge is there, where libvirtd looks.
        tpm_states: where libvirt keeps the states of TPMs.
    """

    def __init__(
        self,
        uri: str,
        *,
        locate: Locate,
        ports: PortFilter,
        directory: Path,
        accelerated: bool,
        clock: Clock,
        architecture: Architecture | None = None,
        has_bridge: Callable[[str], bool] = bridge_exists,
        tpm_states: Path = tpm.STATES,
    ) -> None:
        console.check_directory(directory)
        self._locate = locate
        self._ports = ports
        self._directory = directory
        self._accelerated = accelerated
        self._clock = clock
        self._architecture = architecture or host_architecture()
        self._has_bridge = has_bridge
        self._tpm_states = tpm_states
        self._platform: Platform | None = None
        self._watch = StateWatch()
        self._files = BlockingPool("consoles", 1)
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []
        self._connection = Connection(
            uri,
            clock=clock,
            on_connected=self._on_connected,
            on_lifecycle=self._watch.on_lifecycle,
        )

    async def __aenter__(self) -> "LibvirtCompute":
        self._connection.start()
        await self._tasks.__aenter__()
        for name, service in (
            ("libvirt", self._connection.run),
            ("console-logs", self._bound_logs),
        ):
            running = supervise(name, service, clock=self._clock)
            self._running.append(self._tasks.create_task(running, name=name))
        await self._connection.tried()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        for task in self._running:
            task.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)  # the block's error goes on as it is
        finally:
            self._files.close()
            self._connection.close()

    def on_event(self, listener: DomainListener) -> None:
        self._watch.listener = listener

    async def get_host(self) -> HostFacts:
        calls = self._connection.calls()
        return await calls.call(read_host, platform=self._get_platform())

    async def ensure_domain(self, spec: DomainSpec) -> AppliedDomain:
        check_domain(spec)
        calls, platform = self._connection.calls(), self._get_platform()
        _check_host(spec, platform, read_memory_bytes())
        parts = Parts(
            platform=platform, images=await self._find_images(spec), directory=self._directory
        )
        self._check_bridges(spec)
        old = await calls.call(find_look, spec.domain_id, desired=spec)
        self._watch.adopt(spec.domain_id)
        ports = _ports(*_running_cards(old), *spec.interfaces)
        await self._ports.ensure_ports(spec.domain_id, ports)
        kept = Layout() if old is None else (old.running or old.defined).layout
        layout = lay_out(spec, kept)
        if old is None or old.defined.spec != spec:
            await calls.call(_define, serialise(render_domain(spec, layout, parts)))
        restart_for: tuple[str, ...] = ()
        running = None
        if old is not None and old.running is not None:
            change = LiveChange(calls, spec, layout=layout, parts=parts, clock=self._clock)
            running, restart_for = await change.apply(old.running)
        remaining = _ports(*(() if running is None else running.interfaces), *spec.interfaces)
        if remaining != ports:
            await self._ports.ensure_ports(spec.domain_id, remaining)
        observed = await calls.call(observe_domain, spec.domain_id)
        return AppliedDomain(
            change=_change(old, spec, running, restart_for),
            restart_for=restart_for,
            observed=observed,
        )

    async def ensure_domain_absent(self, domain_id: str) -> None:
        calls = self._connection.calls()
        await calls.call_end(switch.remove, domain_id)
        await self._files.run(_FILES_LIMIT_S, console.remove_files, self._directory, domain_id)
        await self._files.run(_FILES_LIMIT_S, tpm.remove_state, self._tpm_states, domain_id)
        await self._ports.ensure_ports_absent(domain_id)
        self._watch.forget(domain_id)

    async def ensure_power(
        self, domain_id: str, power: Power, *, grace_s: float = 0
    ) -> ObservedDomain:
        calls = self._connection.calls()
        match power:
            case Power.RUNNING:
                return await self._start(calls, domain_id, switch.ensure_running)
            case Power.PAUSED:
                return await self._start(calls, domain_id, switch.ensure_paused)
            case Power.STOPPED:
                if grace_s > 0:
                    await self._shut_down(calls, domain_id, min(grace_s, GRACE_LIMIT_S))
                return await calls.call_end(switch.ensure_off, domain_id)

    async def request_shutdown(self, domain_id: str) -> ObservedDomain:
        return await self._connection.calls().call_long(switch.press_power_button, domain_id)

    async def reboot(self, domain_id: str) -> ObservedDomain:
        return await self._connection.calls().call_long(switch.reboot, domain_id)

    async def reset(self, domain_id: str) -> ObservedDomain:
        return await self._connection.calls().call_long(switch.reset, domain_id)

    async def grow_disk(self, domain_id: str, image_id: str, size_bytes: int) -> None:
        await self._connection.calls().call_long(grow, domain_id, image_id, size_bytes)

    async def get_domain(self, domain_id: str) -> ObservedDomain:
        return await self._connection.calls().call(observe_domain, domain_id)

    async def list_domains(self) -> list[ObservedDomain]:
        return await self._connection.calls().call(list_observed)

    async def list_statistics(self) -> list[DomainStatistics]:
        return await self._connection.calls().call_all_domains(list_statistics)

    async def list_flaws(self) -> list[Flaw]:
        calls = self._connection.calls()
        lost = await calls.call(list_lost_files, self._directory)
        seen = await self._ports.list_ports()
        cards = await calls.call(list_cards)
        wanted = {domain_id: _ports(*cards[domain_id]) for domain_id in cards}
        return [*lost, *compare_ports(wanted, seen)]

    async def open_console(
        self, domain_id: str, kind: ConsoleKind
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if (await self.get_domain(domain_id)).state not in ACTIVE_STATES:
            raise Conflict(f"domain {domain_id} does not run", id=domain_id)
        return await console.open_socket(self._directory, domain_id, kind)

    async def _on_connected(self, calls: Calls) -> None:
        """Make the host fit what is defined, before anybody may call."""
        platform = await calls.call(
            read_host_platform,
            architecture=self._architecture,
            accelerated=self._accelerated,
        )
        owner = platform.qemu_user
        await self._files.run(_FILES_LIMIT_S, console.make_directory, self._directory, owner)
        cards = await calls.call(list_cards)
        await self._ports.replace_all({name: _ports(*cards[name]) for name in cards})
        self._watch.catch_up(await calls.call(list_observed))
        self._platform = platform

    async def _bound_logs(self) -> NoReturn:
        while True:
            await self._files.run(None, console.bound_logs, self._directory)
            await self._clock.sleep(_BOUND_LOGS_EVERY_S)

    async def _find_images(self, spec: DomainSpec) -> dict[str, ImageLocation]:
        """Raises Invalid: an image is not there."""
        return {disk.image_id: await self._find_image(spec, disk) for disk in _disks(spec)}

    async def _find_image(self, spec: DomainSpec, disk: DiskSpec) -> ImageLocation:
        try:
            return await self._locate(disk.storage_pool, disk.image_id)
        except NotFound as error:
            raise Invalid(f"domain {spec.domain_id}: {error}", field="disks") from error

    def _check_bridges(self, spec: DomainSpec) -> None:
        for card in spec.interfaces:
            if not self._has_bridge(card.bridge):
                raise Invalid(
                    f"domain {spec.domain_id}: bridge {card.bridge} does not exist",
                    field="interfaces",
                )

    async def _start(
        self,
        calls: Calls,
        domain_id: str,
        act: Callable[[libvirt.virConnect, str], ObservedDomain],
    ) -> ObservedDomain:
        """Lead to a state in which a process runs, starting one if need be."""
        look = await calls.call(get_look, domain_id)
        if look.state not in ACTIVE_STATES:
            await self._find_images(look.defined.spec)
            self._check_bridges(look.defined.spec)
        try:
            return await calls.call_long(act, domain_id)
        except DriverError as refused:
            images = {disk.image_id for disk in _disks(look.defined.spec)}
            await blame_holder(calls, images, domain_id, refused)
            raise

    async def _shut_down(self, calls: Calls, domain_id: str, grace_s: float) -> None:
        """Return once the guest is off, cannot hear, or has had its time."""
        deadline = self._clock.monotonic() + grace_s
        press_at = self._clock.monotonic()
        observed = await calls.call(observe_domain, domain_id)
        while observed.state in (DomainState.RUNNING, DomainState.BLOCKED, DomainState.SHUTDOWN):
            now = self._clock.monotonic()
            if now >= deadline:
                return
            if now >= press_at:
                press_at = now + _PRESS_AGAIN_S
                await calls.call_long(switch.press_power_button, domain_id)
            await self._clock.sleep(min(_POLL_S, deadline - now))
            observed = await calls.call(observe_domain, domain_id)

    def _get_platform(self) -> Platform:
        if self._platform is None:
            raise Unavailable("libvirt was not reached yet")
        return self._platform


def _disks(spec: DomainSpec) -> tuple[DiskSpec, ...]:
    return spec.disks if spec.seed is None else (*spec.disks, spec.seed)


def _running_cards(look: Look | None) -> tuple[InterfaceSpec, ...]:
    return () if look is None or look.running is None else look.running.spec.interfaces


def _ports(*known: InterfaceSpec) -> tuple[PortSpec, ...]:
    """Return the ports of cards, running ones before desired ones: of one MAC the last counts.

    What only runs goes on until it is unplugged.
    """
    cards = {card.mac: card for card in known}
    return tuple(
        PortSpec(name=port_name(mac), mac=mac, addresses=card.addresses)
        for mac, card in cards.items()
    )


def _check_host(spec: DomainSpec, platform: Platform, memory_bytes: int) -> None:
    """Raises InsufficientResource or Invalid: something that the host does not have."""
    lack = None
    if spec.architecture is not platform.architecture:
        lack = f"{spec.architecture}, the host is {platform.architecture}"
    elif spec.memory_bytes > memory_bytes:
        lack = f"{spec.memory_bytes} bytes of memory, the host has {memory_bytes}"
    elif spec.vcpus > platform.max_vcpus:
        lack = f"{spec.vcpus} processors, QEMU gives at most {platform.max_vcpus}"
    elif spec.firmware is Firmware.UEFI and not platform.efi:
        lack = "firmware for UEFI, none is installed on the host (packages ovmf, qemu-efi-aarch64)"
    elif spec.tpm is Tpm.ON and not platform.tpm:
        lack = "a TPM, swtpm is not installed on the host"
    if lack is not None:
        raise InsufficientResource(f"domain {spec.domain_id} needs {lack}", id=spec.domain_id)
    check_cpu_model(spec, platform.cpu_models)


def _change(
    old: Look | None, spec: DomainSpec, running: DomainSpec | None, restart_for: tuple[str, ...]
) -> Change:
    if restart_for:
        return Change.RESTART
    if old is None or old.running is None:
        return Change.NONE if old is not None and old.defined.spec == spec else Change.DEFINED
    if old.running.spec != running:
        return Change.LIVE
    return Change.NONE if old.defined.spec == spec else Change.DEFINED


def _define(connection: libvirt.virConnect, definition: str) -> None:
    connection.defineXMLFlags(definition)
