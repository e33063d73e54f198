"""What the host is. Blocking: runs in the connection's threads."""

import platform as this_machine
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

import libvirt

from appliance.core.errors import Unavailable
from appliance.drivers.libvirt.faults import is_away
from appliance.drivers.libvirt.platform import MACHINES, Platform, read_platform
from appliance.drivers.libvirt.processors import LEVELS, render_processor
from appliance.drivers.libvirt.record import parse, serialise
from appliance.model.compute import Architecture, HostFacts

_MEMINFO: Final = Path("/proc/meminfo")
_CPUINFO: Final = Path("/proc/cpuinfo")
_X86: Final = Architecture.X86_64


def read_host_platform(
    connection: libvirt.virConnect,
    *,
    architecture: Architecture,
    accelerated: bool,
) -> Platform:
    kind = "kvm" if accelerated else "qemu"
    if connection.getType().lower() != "qemu":  # libvirt's test driver has no such capabilities
        kind = connection.getType().lower()
        return Platform(kind=kind, architecture=architecture, accelerated=False)
    machine = MACHINES[architecture]
    told = parse(connection.getDomainCapabilities(None, architecture.value, machine, kind))
    return read_platform(
        parse(connection.getCapabilities()),
        told,
        architecture=architecture,
        accelerated=accelerated,
        cpu_models=_list_processors(connection, told, architecture=architecture, kind=kind),
    )


def _list_processors(
    connection: libvirt.virConnect, told: ET.Element, *, architecture: Architecture, kind: str
) -> tuple[str, ...]:
    """Return what guests can be given, by name, the levels first.

    Nothing on aarch64, where KVM gives guests the processor that is there.
    """
    if architecture is not _X86:
        return ()
    usable = "cpu/mode[@name='custom'][@supported='yes']/model[@usable='yes']"
    named = sorted(model.text or "" for model in told.findall(usable))
    levels = [level for level in LEVELS if _has(connection, render_processor(level), kind)]
    return (*levels, *named)


def _has(connection: libvirt.virConnect, cpu: ET.Element, kind: str) -> bool:
    try:
        answer = connection.compareHypervisorCPU(
            None, _X86.value, MACHINES[_X86], kind, serialise(cpu), 0
        )
    except libvirt.libvirtError as error:
        if is_away(error):
            raise
        return False  # a libvirt that does not know a feature's name
    return answer in (libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET)


def host_architecture() -> Architecture:
    """Raises Unavailable."""
    name = this_machine.machine()
    try:
        return Architecture(name)
    except ValueError:
        raise Unavailable(f"machines of architecture {name} are not supported") from None


def read_host(connection: libvirt.virConnect, *, platform: Platform) -> HostFacts:
    _, _, _, _, nodes, sockets, cores, threads = connection.getInfo()
    capabilities = parse(connection.getCapabilities())
    return HostFacts(
        architecture=platform.architecture,
        cpu_vendor=capabilities.findtext("host/cpu/vendor") or "unknown",
        cpu_model=_cpu_model(capabilities),
        cpu_sockets=nodes * sockets,
        cpu_cores=nodes * sockets * cores,
        cpu_threads=nodes * sockets * cores * threads,
        memory_bytes=read_memory_bytes(),
        hypervisor=(
            f"{connection.getType()} {_version(connection.getVersion())}"
            f", libvirt {_version(connection.getLibVersion())}"
        ),
        accelerated=platform.accelerated,
        cpu_models=platform.cpu_models,
    )


def read_memory_bytes() -> int:
    """Return the memory of the machine: libvirt's own figure may be that of one NUMA node."""
    total = re.search(r"^MemTotal:\s*(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE)
    assert total is not None, "the kernel tells its memory"
    return int(total[1]) * 1024


def _cpu_model(capabilities: ET.Element) -> str:
    """Return the name on the box, or else what libvirt takes it for."""
    name = re.search(r"^model name\s*: (.+)$", _CPUINFO.read_text(), re.MULTILINE)
    return name[1] if name else capabilities.findtext("host/cpu/model") or "unknown"


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
