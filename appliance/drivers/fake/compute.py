"""Simulated domains: they start, change, stop and crash as real ones do, and run nothing."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import Conflict, InsufficientResource, Invalid, NotFound
from appliance.drivers.fake.console import FakeConsole
from appliance.drivers.fake.domain import FakeDomain, change_live
from appliance.drivers.fake.faults import Faults
from appliance.drivers.fake.images import Images
from appliance.drivers.fake.network import Bridges
from appliance.drivers.fake.world import World
from appliance.model.compute import (
    AppliedDomain,
    Architecture,
    Change,
    ConsoleKind,
    DiskSpec,
    DomainEvent,
    DomainListener,
    DomainSpec,
    DomainStatistics,
    Flaw,
    HostFacts,
    ObservedDomain,
    check_cpu_model,
    check_domain,
)
from appliance.model.domain_state import DomainReason, DomainState, Power

_DOMAIN: Final = "domain"
_BUSY_PERCENT: Final = 5  # what a simulated guest uses of each of its processors


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSize:
    """What a simulated host has."""

    architecture: Architecture = Architecture.X86_64
    cpu_sockets: int = 2
    cpu_cores: int = 32
    cpu_threads: int = 64
    memory_bytes: int = 256 * 1024**3
    cpu_models: tuple[str, ...] = ("x86-64-v2", "x86-64-v3", "x86-64-v4")
    grows_live: bool = True  # guests take more processors and memory while they run


class FakeComputeDriver:
    """Implements `ComputeDriver` on a simulated world."""

    def __init__(
        self,
        world: World,
        node_id: str,
        *,
        images: Images,
        bridges: Bridges,
        faults: Faults,
        clock: Clock,
        size: HostSize,
    ) -> None:
        self._world = world
        self._place = f"node/{node_id}"
        self._images = images
        self._bridges = bridges
        self._faults = faults
        self._clock = clock
        self._size = size
        self._listener: DomainListener | None = None
        self._consoles = defaultdict[str, list[FakeConsole]](list)

    def on_event(self, listener: DomainListener) -> None:
        self._listener = listener

    async def get_host(self) -> HostFacts:
        async with self._faults.around("compute.get_host"):
            return HostFacts(
                architecture=self._size.architecture,
                cpu_vendor="Simulated",
                cpu_model="Simulated",
                cpu_sockets=self._size.cpu_sockets,
                cpu_cores=self._size.cpu_cores,
                cpu_threads=self._size.cpu_threads,
                memory_bytes=self._size.memory_bytes,
                hypervisor="Simulated: nothing runs",
                accelerated=False,
                cpu_models=self._size.cpu_models,
                simulated=True,
            )

    async def ensure_domain(self, spec: DomainSpec) -> AppliedDomain:
        async with self._faults.around("compute.ensure_domain"):
            check_domain(spec)
            self._check_host(spec)
            self._check_parts(spec)
            old = self._find(spec.domain_id)
            if old is None:
                new = self._put(FakeDomain(defined=spec))
                return AppliedDomain(change=Change.DEFINED, observed=new.observe())
            if old.defined.architecture is not spec.architecture:
                raise Conflict(
                    f"domain {spec.domain_id} is {old.defined.architecture} and cannot become"
                    f" {spec.architecture}",
                    id=spec.domain_id,
                )
            return self._change(old, spec)

    async def ensure_domain_absent(self, domain_id: str) -> None:
        async with self._faults.around("compute.ensure_domain_absent"):
            domain = self._find(domain_id)
            if domain is not None:
                self._stop(domain, DomainReason.DESTROYED)
                self._world.remove(self._place, _DOMAIN, domain_id)

    async def ensure_power(
        self, domain_id: str, power: Power, *, grace_s: float = 0
    ) -> ObservedDomain:
        async with self._faults.around("compute.ensure_power"):
            domain = self._get(domain_id)
            match power:
                case Power.RUNNING:
                    domain = self._ensure_running(domain)
                case Power.PAUSED:
                    domain = self._ensure_paused(domain)
                case Power.STOPPED:
                    if domain.state is DomainState.RUNNING and grace_s > 0:
                        domain = self._press_power_button(domain)
                        if domain.is_active:
                            await self._clock.sleep(grace_s)
                            domain = self._get(domain_id)
                    domain = self._stop(domain, DomainReason.DESTROYED)
            return domain.observe()

    async def request_shutdown(self, domain_id: str) -> ObservedDomain:
        async with self._faults.around("compute.request_shutdown"):
            return self._press_power_button(self._get(domain_id)).observe()

    async def reboot(self, domain_id: str) -> ObservedDomain:
        async with self._faults.around("compute.reboot"):
            domain = self._get(domain_id)
            if domain.state is not DomainState.RUNNING:
                raise Conflict(f"domain {domain_id} does not run", id=domain_id)
            return domain.observe()

    async def reset(self, domain_id: str) -> ObservedDomain:
        async with self._faults.around("compute.reset"):
            domain = self._get(domain_id)
            if not domain.is_active:
                raise Conflict(f"domain {domain_id} does not run", id=domain_id)
            return domain.observe()

    async def grow_disk(self, domain_id: str, image_id: str, size_bytes: int) -> None:
        async with self._faults.around("compute.grow_disk"):
            domain = self._get(domain_id)
            if domain.running is None:
                raise Conflict(
                    f"domain {domain_id} does not run",
                    hint="grow the image in its storage pool",
                    id=domain_id,
                )
            for disk in domain.running.disks:
                image = self._images.find(disk.storage_pool, image_id)
                if disk.image_id == image_id and image is not None:
                    self._images.grow(disk.storage_pool, image, size_bytes)
                    return
            raise NotFound(f"domain {domain_id} has no disk {image_id}", id=image_id)

    async def get_domain(self, domain_id: str) -> ObservedDomain:
        async with self._faults.around("compute.get_domain"):
            return self._get(domain_id).observe()

    async def list_domains(self) -> list[ObservedDomain]:
        async with self._faults.around("compute.list_domains"):
            return [domain.observe() for domain in self._list()]

    async def list_statistics(self) -> list[DomainStatistics]:
        async with self._faults.around("compute.list_statistics"):
            return [
                self._count(domain.running, domain.started_at_ms)
                for domain in self._list()
                if domain.running is not None
            ]

    async def list_flaws(self) -> list[Flaw]:
        async with self._faults.around("compute.list_flaws"):
            there = {domain.defined.domain_id for domain in self._list()}
            return [
                Flaw(domain_id=domain_id, detail="a card is plugged, and its domain is gone")
                for domain_id in sorted(self._bridges.list_plugged() - there)
            ]

    async def open_console(
        self, domain_id: str, kind: ConsoleKind
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with self._faults.around("compute.open_console"):
            if not self._get(domain_id).is_active:
                raise Conflict(f"domain {domain_id} does not run", id=domain_id)
            console = FakeConsole(domain_id, kind)
            still_open = [old for old in self._consoles[domain_id] if not old.is_closing()]
            self._consoles[domain_id] = [*still_open, console]
            return console.reader, console.writer

    # What happens to real domains without anybody asking.

    def crash_domain(self, domain_id: str) -> None:
        """Let the domain's process die, as `kill -9` of QEMU does."""
        self._stop(self._get(domain_id), DomainReason.CRASHED)

    def shut_guest_down(self, domain_id: str) -> None:
        """Let the guest power itself off."""
        self._stop(self._get(domain_id), DomainReason.SHUTDOWN)

    def deafen_guest(self, domain_id: str) -> None:
        """Let the guest ignore the power button from now on."""
        self._put(msgspec.structs.replace(self._get(domain_id), deaf=True))

    def power_cycle_host(self) -> None:
        """Let the host lose power and come back: everything is off, and nobody was told."""
        listener, self._listener = self._listener, None
        for domain in self._list():
            self._stop(domain, DomainReason.UNKNOWN)
        self._listener = listener

    def _find(self, domain_id: str) -> FakeDomain | None:
        return self._world.find(self._place, _DOMAIN, domain_id, FakeDomain)

    def _get(self, domain_id: str) -> FakeDomain:
        domain = self._find(domain_id)
        if domain is None:
            raise NotFound(f"domain {domain_id} does not exist", id=domain_id)
        return domain

    def _list(self) -> list[FakeDomain]:
        return self._world.list_things(self._place, _DOMAIN, FakeDomain)

    def _put(self, domain: FakeDomain) -> FakeDomain:
        self._world.put(self._place, _DOMAIN, domain.defined.domain_id, domain)
        return domain

    def _check_host(self, spec: DomainSpec) -> None:
        if spec.architecture is not self._size.architecture:
            raise InsufficientResource(
                f"domain {spec.domain_id} needs {spec.architecture}, the host is"
                f" {self._size.architecture}",
                id=spec.domain_id,
            )
        if spec.memory_bytes > self._size.memory_bytes:
            raise InsufficientResource(
                f"domain {spec.domain_id} needs {spec.memory_bytes} bytes of memory, the host has"
                f" {self._size.memory_bytes}",
                id=spec.domain_id,
            )
        check_cpu_model(spec, self._size.cpu_models)

    def _check_parts(self, spec: DomainSpec) -> None:
        for disk in _disks(spec):
            if self._images.find(disk.storage_pool, disk.image_id) is None:
                raise Invalid(
                    f"domain {spec.domain_id}: image {disk.image_id} does not exist", field="disks"
                )
        for interface in spec.interfaces:
            if self._bridges.find(interface.bridge) is None:
                raise Invalid(
                    f"domain {spec.domain_id}: bridge {interface.bridge} does not exist",
                    field="interfaces",
                )

    def _change(self, old: FakeDomain, spec: DomainSpec) -> AppliedDomain:
        if old.running is None:
            new = old.define(spec)
            change = Change.NONE if new == old else Change.DEFINED
            return AppliedDomain(change=change, observed=self._put(new).observe())
        running, restart_for = change_live(old.running, spec, grows_live=self._size.grows_live)
        with self._world.at_once():
            self._hold(running)
            self._release(old.running, but=running)
            new = self._put(old.define(spec).run(running))
        change = Change.NONE if new == old else Change.LIVE
        if running == old.running and new != old:
            change = Change.DEFINED
        return AppliedDomain(
            change=Change.RESTART if restart_for else change,
            restart_for=restart_for,
            observed=new.observe(),
        )

    def _ensure_running(self, domain: FakeDomain) -> FakeDomain:
        if domain.state is DomainState.RUNNING:
            return domain
        if domain.state is DomainState.PAUSED:
            return self._move(domain, DomainState.RUNNING, DomainReason.UNPAUSED)
        return self._start(domain, DomainState.RUNNING, DomainReason.BOOTED)

    def _ensure_paused(self, domain: FakeDomain) -> FakeDomain:
        if domain.state is DomainState.PAUSED:
            return domain
        if domain.is_active:
            return self._move(domain, DomainState.PAUSED, DomainReason.USER)
        return self._start(domain, DomainState.PAUSED, DomainReason.USER)

    def _start(self, domain: FakeDomain, state: DomainState, reason: DomainReason) -> FakeDomain:
        self._check_parts(domain.defined)
        with self._world.at_once():
            self._hold(domain.defined)
            return self._move(domain.start(now_ms=self._clock.now_ms()), state, reason)

    def _press_power_button(self, domain: FakeDomain) -> FakeDomain:
        if domain.state is DomainState.RUNNING and not domain.deaf:
            return self._stop(domain, DomainReason.SHUTDOWN)
        return domain

    def _stop(self, domain: FakeDomain, reason: DomainReason) -> FakeDomain:
        if domain.running is None:
            return domain
        for console in self._consoles.pop(domain.defined.domain_id, ()):
            console.close()
        with self._world.at_once():
            self._release(domain.running)
            return self._move(domain, DomainState.SHUTOFF, reason)

    def _move(self, domain: FakeDomain, state: DomainState, reason: DomainReason) -> FakeDomain:
        domain = self._put(domain.enter(state, reason))
        if self._listener is not None:
            self._listener(
                DomainEvent(domain_id=domain.defined.domain_id, state=state, reason=reason)
            )
        return domain

    def _hold(self, spec: DomainSpec) -> None:
        """Open the images and plug the interfaces of `spec`, all or none.

        Raises:
            Conflict: an image is open in another domain.
        """
        for disk in _disks(spec):
            self._images.check_openable(disk.storage_pool, disk.image_id, spec.domain_id)
        for disk in _disks(spec):
            self._images.open(disk.storage_pool, disk.image_id, spec.domain_id)
        for interface in spec.interfaces:
            self._bridges.plug(spec.domain_id, interface.mac, interface.bridge)

    def _release(self, spec: DomainSpec, *, but: DomainSpec | None = None) -> None:
        """Close the images and unplug the interfaces of `spec`, except those that `but` has."""
        kept_disks = () if but is None else _disks(but)
        for disk in _disks(spec):
            if disk not in kept_disks:
                self._images.close(disk.storage_pool, disk.image_id)
        kept_macs = () if but is None else tuple(kept.mac for kept in but.interfaces)
        for interface in spec.interfaces:
            if interface.mac not in kept_macs:
                self._bridges.unplug(spec.domain_id, interface.mac)

    def _count(self, running: DomainSpec, started_at_ms: int) -> DomainStatistics:
        up_ms = max(0, self._clock.now_ms() - started_at_ms)
        return DomainStatistics(
            domain_id=running.domain_id,
            cpu_time_ns=up_ms * 1_000_000 * running.vcpus * _BUSY_PERCENT // 100,
            memory_bytes=running.memory_bytes,
            disk_read_bytes=up_ms * 64,
            disk_written_bytes=up_ms * 32,
            network_received_bytes=up_ms * 16 * len(running.interfaces),
            network_sent_bytes=up_ms * 8 * len(running.interfaces),
        )


def _disks(spec: DomainSpec) -> tuple[DiskSpec, ...]:
    return spec.disks if spec.seed is None else (*spec.disks, spec.seed)
