"""Domains on a real libvirtd, with real QEMUs that emulate the processor, and a guest of 128 bytes.

Bridges are made beside libvirtd, in its network; the real driver of bridges has its own suite.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from appliance.core.clock import SystemClock
from appliance.core.errors import Busy
from appliance.drivers.libvirt.compute import LibvirtCompute
from appliance.drivers.libvirt.definition import console_log
from appliance.model.compute import Architecture, ConsoleKind, ObservedDomain
from appliance.model.domain_state import ACTIVE_STATES, DomainState, Power
from appliance.model.network import BridgeList, BridgeSpec, ObservedBridge, PortSpec
from tests.contract.drivers.rig import MIB, Rig
from tests.contract.drivers.rig_local_pool import local_pool_rig
from tests.support.libvirtd import Libvirtd
from tests.support.small_guest import BECOME_DEAF, DEAF, POWER_OFF, READY, make_bootable
from tests.support.wait import until

_LIMIT_S: Final = 100.0
_POLL_S: Final = 0.05


class NamespaceBridges:
    """Implements `HostNetworkDriver` in the network of a libvirtd of the tests, without VLANs."""

    def __init__(self, libvirtd: Libvirtd) -> None:
        self._libvirtd = libvirtd
        self.bridges: dict[str, ObservedBridge] = {}

    async def ensure_bridge(self, spec: BridgeSpec) -> None:
        if spec.name not in self.bridges:
            self._libvirtd.run("ip", "link", "add", spec.name, "type", "bridge")
        self.bridges[spec.name] = ObservedBridge(
            name=spec.name, vlan=spec.vlan, revision=secrets.token_hex(8)
        )

    async def ensure_bridge_absent(self, name: str, *, revision: str | None = None) -> None:
        bridge = self.bridges.get(name)
        if bridge is None or revision not in (None, bridge.revision):
            return
        if self._libvirtd.run("ip", "-o", "link", "show", "master", name):
            raise Busy(f"bridge {name} has ports")
        self.remove(name)

    def remove(self, name: str) -> None:
        """Remove a bridge whatever is on it."""
        self._libvirtd.run("ip", "link", "delete", name)
        del self.bridges[name]

    async def list_bridges(self) -> BridgeList:
        return BridgeList(tuple(self.bridges[name] for name in sorted(self.bridges)))


class RecordedPorts:
    """Implements `PortFilter` by remembering."""

    def __init__(self) -> None:
        self.ports: dict[str, tuple[PortSpec, ...]] = {}

    async def ensure_ports(self, domain_id: str, ports: tuple[PortSpec, ...]) -> None:
        self.ports[domain_id] = ports

    async def ensure_ports_absent(self, domain_id: str) -> None:
        self.ports.pop(domain_id, None)

    async def replace_all(self, ports: Mapping[str, tuple[PortSpec, ...]]) -> None:
        self.ports = dict(ports)

    async def list_ports(self) -> tuple[PortSpec, ...]:
        return tuple(sorted(port for domain in self.ports.values() for port in domain))


class BootedCompute(LibvirtCompute):
    """Returns from a start once the guest has booted: the suite talks to guests at once."""

    log_directory: Path

    async def ensure_power(
        self, domain_id: str, power: Power, *, grace_s: float = 0
    ) -> ObservedDomain:
        log = console_log(self.log_directory, domain_id)
        boots = (await self.get_domain(domain_id)).state not in ACTIVE_STATES
        said = log.stat().st_size if log.exists() else 0
        observed = await super().ensure_power(domain_id, power, grace_s=grace_s)
        if boots and power is Power.RUNNING:
            await until(lambda: READY in log.read_bytes()[said:], "the guest boots")
        return observed


@dataclass(frozen=True, kw_only=True)
class LibvirtRig(Rig):
    async def volume(self, size_bytes: int = 8 * MIB, *, template_id: str | None = None) -> str:
        """Let the guest boot from whatever volume a domain has first."""
        image_id = await super().volume(size_bytes, template_id=template_id)
        image = await self.storage.locate(self.storage_pool, image_id)
        await make_bootable(Path(image.path), image.format)
        return image_id


@asynccontextmanager
async def libvirt_rig(libvirtd: Libvirtd, directory: Path) -> AsyncGenerator[Rig]:
    bridges = NamespaceBridges(libvirtd)
    sockets = libvirtd.directory / "consoles"
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(local_pool_rig(directory))

        async def open_compute() -> LibvirtCompute:
            compute = BootedCompute(
                libvirtd.uri,
                locate=local.storage.locate,
                ports=RecordedPorts(),
                directory=sockets,
                accelerated=False,
                clock=SystemClock(),
                has_bridge=bridges.bridges.__contains__,
                tpm_states=libvirtd.directory / "lib" / "swtpm",
            )
            compute.log_directory = sockets
            return await stack.enter_async_context(compute)

        compute = await open_compute()

        async def wait_until_off(domain_id: str) -> None:
            async with asyncio.timeout(_LIMIT_S):
                observed = await compute.get_domain(domain_id)
                while observed.state is not DomainState.SHUTOFF:
                    await asyncio.sleep(_POLL_S)
                    observed = await compute.get_domain(domain_id)

        async def tell_guest(domain_id: str, words: bytes, answer: bytes) -> None:
            """Say `words` until the guest answers; no bytes are the end of it."""
            reader, writer = await compute.open_console(domain_id, ConsoleKind.SERIAL)
            async with asyncio.timeout(_LIMIT_S):
                while True:
                    writer.write(words)
                    try:
                        async with asyncio.timeout(1):
                            heard = await reader.read(64)
                    except TimeoutError:
                        continue
                    if answer in heard if answer else not heard:
                        break
            writer.close()

        async def kill_domain(domain_id: str) -> None:
            libvirtd.signal_qemu(domain_id, "KILL")
            await wait_until_off(domain_id)

        async def shut_guest_down(domain_id: str) -> None:
            await tell_guest(domain_id, POWER_OFF, b"")
            await wait_until_off(domain_id)

        async def deafen_guest(domain_id: str) -> None:
            await tell_guest(domain_id, BECOME_DEAF, DEAF)

        def reopen() -> Rig:
            return replace(rig, storage=local.reopen().storage)

        rig = LibvirtRig(
            storage=local.storage,
            storage_pool=local.storage_pool,
            template_url=local.template_url,
            template_bytes=local.template_bytes,
            template_sha256=local.template_sha256,
            missing_url=local.missing_url,
            allowed_sources=local.allowed_sources,
            reopen=reopen,
            compute=compute,
            reopen_compute=open_compute,
            host_network=bridges,
            architecture=Architecture.X86_64,
            foreign_interface="lo",
            grows_open_images=False,
            grows_live=True,
            kill_domain=kill_domain,
            shut_guest_down=shut_guest_down,
            deafen_guest=deafen_guest,
            pass_time=asyncio.sleep,
        )
        try:
            yield rig
        finally:
            await _clean_up(compute, bridges)
        assert [path for path in sockets.rglob("*") if not path.is_dir()] == []


async def _clean_up(compute: LibvirtCompute, bridges: NamespaceBridges) -> None:
    """Do each step, whatever becomes of those before: the tests that follow share the libvirtd."""
    async with AsyncExitStack() as steps:
        for name in list(bridges.bridges):
            steps.callback(bridges.remove, name)
        for domain in await compute.list_domains():
            steps.push_async_callback(compute.ensure_domain_absent, domain.domain_id)
