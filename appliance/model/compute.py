"""Domains, the virtual machines of one host: desired, observed, and the driver that joins them.

A domain is named by the id of its instance; the user's name is only its title.
"""

import asyncio
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Final, Protocol

import msgspec
from msgspec import Meta

from appliance.core.errors import Invalid
from appliance.model.domain_state import DomainReason, DomainState, Power
from appliance.model.fields import CpuModel, InterfaceName, MacAddress, ObjectId, PositiveBytes
from appliance.model.storage import StoragePoolRef

GRACE_LIMIT_S: Final = 180  # leaves the hard stop time before a client gives up


class Architecture(StrEnum):
    X86_64 = "x86_64"
    AARCH64 = "aarch64"


class OsFamily(StrEnum):
    LINUX = "linux"
    WINDOWS = "windows"


class Firmware(StrEnum):
    """What a domain boots by."""

    AUTO = "auto"  # what its system is known to need
    UEFI = "uefi"
    BIOS = "bios"


class Tpm(StrEnum):
    """Whether a domain has a TPM 2.0."""

    AUTO = "auto"  # where its system wants one and the host can
    ON = "on"
    OFF = "off"


class ConsoleKind(StrEnum):
    """A way to sit before a domain."""

    VNC = "vnc"  # its screen, as RFB
    SERIAL = "serial"  # its first serial line


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a host offers.

    Attributes:
        cpu_cores: cores of all sockets together.
        cpu_threads: threads of all cores together: what a scheduler counts as processors.
        hypervisor: name and version, for people.
        accelerated: guests run on the processor itself, not on an emulated one.
        cpu_models: processors that guests can be given instead of the host's own.
    """

    architecture: Architecture
    cpu_vendor: str
    cpu_model: str
    cpu_sockets: int
    cpu_cores: int
    cpu_threads: int
    memory_bytes: int
    hypervisor: str
    accelerated: bool
    cpu_models: tuple[str, ...] = ()
    simulated: bool = False


class DiskSpec(msgspec.Struct, frozen=True, kw_only=True):
    storage_pool: StoragePoolRef
    image_id: ObjectId


class InterfaceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A network card.

    Attributes:
        addresses: IPv4 addresses that the guest may send from; None: any (a router).
    """

    mac: MacAddress
    bridge: InterfaceName
    addresses: tuple[str, ...] | None = None


class DomainSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual machine as it shall be defined.

    Hypervisors keep it beside what runs, over upgrades of this program: a new field, here or in
    what it is made of, needs a default.

    Attributes:
        disks: in the order the guest sees them; the first one is booted.
        interfaces: in the order the guest sees them.
        seed: its CD-ROM for cloud-init.
        cpu_model: the processor that its guest sees; None: the host's own.
        generation: of the desired state; a label that is kept and told, never compared.
    """

    domain_id: ObjectId
    name: Annotated[str, Meta(min_length=1, max_length=255)]
    description: str = ""
    vcpus: Annotated[int, Meta(ge=1, le=4096)]
    memory_bytes: PositiveBytes
    os: OsFamily
    architecture: Architecture
    disks: Annotated[tuple[DiskSpec, ...], Meta(min_length=1)]
    interfaces: tuple[InterfaceSpec, ...] = ()
    seed: DiskSpec | None = None
    cpu_model: CpuModel | None = None
    firmware: Firmware = Firmware.AUTO
    tpm: Tpm = Tpm.AUTO
    generation: Annotated[int, Meta(ge=0)]


class ObservedDomain(msgspec.Struct, frozen=True, kw_only=True):
    """A domain as it is.

    Attributes:
        generation: of the definition.
        running_generation: of what runs; older than `generation` while a change awaits a restart,
            None when nothing runs.
    """

    domain_id: ObjectId
    name: str
    state: DomainState
    reason: DomainReason
    generation: int
    running_generation: int | None = None


class Change(StrEnum):
    """How a definition took effect."""

    NONE = "none"  # it was so already
    DEFINED = "defined"  # the next start uses it; nothing runs, or nothing of it can change before
    LIVE = "live"  # what runs has it now
    RESTART = "restart"  # at least a part waits for the domain to be stopped and started


class AppliedDomain(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `ensure_domain`; `restart_for` names the fields that wait for a restart."""

    change: Change
    restart_for: tuple[str, ...] = ()
    observed: ObservedDomain


class DomainStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of an active domain since its start, all its disks and interfaces together."""

    domain_id: ObjectId
    cpu_time_ns: int
    memory_bytes: int
    disk_read_bytes: int
    disk_written_bytes: int
    network_received_bytes: int
    network_sent_bytes: int


class Flaw(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What is on a host of a domain that is not there, or is not as a domain there needs it.

    Attributes:
        domain_id: None: nobody can tell any more whose it was.
    """

    domain_id: ObjectId | None
    detail: str


class DomainEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A domain changed its state, by itself or by command: a hint to look, never the only one."""

    domain_id: ObjectId
    state: DomainState
    reason: DomainReason


DomainListener = Callable[[DomainEvent], None]

# What a domain gets when it starts, and no restart is made for: nobody asks for these for one
# domain, and a change of a zone must not restart all that is in it.
START_FIELDS: Final = ("cpu_model", "firmware", "tpm")


def until_start(desired: DomainSpec, running: DomainSpec) -> DomainSpec:
    """Return `desired` with those of its fields that only a start brings as what runs has them."""
    return msgspec.structs.replace(
        desired, **{name: getattr(running, name) for name in START_FIELDS}
    )


def check_domain(spec: DomainSpec) -> None:
    """Check what the fields' own types cannot say.

    Raises:
        Invalid: a disk or a MAC address is there twice, or there is no such firmware.
    """
    if spec.architecture is Architecture.AARCH64 and spec.firmware is Firmware.BIOS:
        raise Invalid(f"domain {spec.domain_id}: aarch64 has no BIOS", field="firmware")
    images = [(disk.storage_pool, disk.image_id) for disk in spec.disks]
    if len(set(images)) != len(images):
        raise Invalid(f"domain {spec.domain_id} has a disk twice", field="disks")
    macs = [interface.mac for interface in spec.interfaces]
    if len(set(macs)) != len(macs):
        raise Invalid(f"domain {spec.domain_id} has a MAC address twice", field="interfaces")


def check_cpu_model(spec: DomainSpec, possible: Sequence[str]) -> None:
    """Check that a host can give the processor; `possible`: those that it has.

    Raises:
        Invalid: it cannot.
    """
    if spec.cpu_model is not None and spec.cpu_model not in possible:
        raise Invalid(
            f"domain {spec.domain_id}: its host cannot give its guest the processor"
            f" {spec.cpu_model}",
            field="cpu_model",
            hint=f"possible there: its own, {', '.join(possible) or 'and no other'}",
        )


class ComputeDriver(Protocol):
    """Everything a host does to domains. Each call may be repeated, also after a crash inside it.

    What the arguments merely refer to and what is not there is Invalid, naming the field; NotFound
    is kept for the domain that the call is about. Besides the errors named, each call raises
    Unavailable when the hypervisor does not answer and DriverError when it refuses.
    """

    async def get_host(self) -> HostFacts: ...

    async def ensure_domain(self, spec: DomainSpec) -> AppliedDomain:
        """Define the domain, or change it; what can change while it runs does so at once.

        Starts and stops nothing. Until a restart, a repeat says again what waits for it; but for
        `START_FIELDS`, which wait quietly.

        Raises:
            Invalid: an image or a bridge is not there; a disk or MAC address is there twice; the
                host cannot give the processor.
            Conflict: the architecture differs from the existing domain's; or a disk that is to be
                attached live is open in another domain.
            InsufficientResource: more memory than the host has, a foreign architecture, or firmware
                or a TPM that it does not have.
        """
        ...

    async def ensure_domain_absent(self, domain_id: str) -> None:
        """Stop the domain hard and forget it, with all that the hypervisor keeps about it.

        Its images stay. A domain that is not there is fine.
        """
        ...

    async def ensure_power(
        self, domain_id: str, power: Power, *, grace_s: float = 0
    ) -> ObservedDomain:
        """Bring the domain to running, stopped or paused, from whatever state.

        Running: starts, resumes, or wakes up. Paused: pauses what runs and starts what does not,
        paused. Stopped: within `grace_s` (at most `GRACE_LIMIT_S`) the guest is asked and waited
        for, then the plug is pulled; a paused guest cannot react and is stopped at once.

        Raises:
            NotFound: no such domain.
            Invalid: an image or a bridge of its definition is gone.
            Conflict: a disk is open in another domain.
        """
        ...

    async def request_shutdown(self, domain_id: str) -> ObservedDomain:
        """Ask the guest to power off and return at once; without effect when nothing runs.

        Raises:
            NotFound: no such domain.
        """
        ...

    async def reboot(self, domain_id: str) -> ObservedDomain:
        """Ask the guest to reboot. Not for repeating: a repeat asks again.

        Raises:
            NotFound: no such domain.
            Conflict: it does not run.
        """
        ...

    async def reset(self, domain_id: str) -> ObservedDomain:
        """Push the reset button. Not for repeating: a repeat pushes again.

        Raises:
            NotFound: no such domain.
            Conflict: it neither runs nor is paused.
        """
        ...

    async def grow_disk(self, domain_id: str, image_id: str, size_bytes: int) -> None:
        """Grow a disk of an active domain to `size_bytes`, image and guest's view; never shrink.

        The only way where the hypervisor locks open images; `StorageDriver.ensure_image` is the
        way while the domain is inactive.

        Raises:
            NotFound: no such domain, or it has no such disk.
            Conflict: it is not active, or the image is larger.
            InsufficientResource: larger than the whole pool.
        """
        ...

    async def get_domain(self, domain_id: str) -> ObservedDomain:
        """Raises NotFound."""
        ...

    async def list_domains(self) -> list[ObservedDomain]:
        """Return every domain of ours on this host, by id, in one call to the hypervisor."""
        ...

    async def list_statistics(self) -> list[DomainStatistics]:
        """Return the counters of every active domain, by id, in one call to the hypervisor."""
        ...

    async def list_flaws(self) -> list[Flaw]:
        """Return what is left of domains that are gone, and what those that are there lack.

        Of what this driver keeps beside them on the host: the rules of their ports, their files.
        Looks only; of a domain that is being changed meanwhile, what is told means nothing.
        """
        ...

    async def open_console(
        self, domain_id: str, kind: ConsoleKind
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return both directions of a console; it ends with the domain's process.

        The caller closes the writer. A serial line has room for one: who opens it while another
        has it open waits behind, unheard.

        Raises:
            NotFound: no such domain.
            Conflict: it does not run.
        """
        ...

    def on_event(self, listener: DomainListener) -> None:
        """Call `listener`, in the event loop, at each change of state; it must not block or raise.

        One listener: a new one takes the place of the old.
        """
        ...
