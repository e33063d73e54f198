"""What a host's libvirtd and QEMU can do for domains, read from their capabilities. Pure."""

import xml.etree.ElementTree as ET
from typing import Final

import msgspec

from appliance.model.compute import Architecture

MACHINES: Final = {Architecture.X86_64: "q35", Architecture.AARCH64: "virt"}
# Beyond 255 x2APIC ids an x86 guest needs an emulated IOMMU, which we give to none.
_VCPUS_LIMIT: Final = 255


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """How domains are made on a host.

    Attributes:
        kind: libvirt's `<domain type=...>`.
        accelerated: guests run on the processor itself.
        cpu_models: processors that guests can be given instead of the host's own.
        max_vcpus: most that QEMU gives a guest.
        efi: firmware for UEFI is installed.
        secure_boot: ... and one with Microsoft's keys enrolled.
        tpm: swtpm is installed.
        qemu_user: user and group that QEMU runs as; None: not told.
    """

    kind: str
    architecture: Architecture
    accelerated: bool
    cpu_models: tuple[str, ...] = ()
    max_vcpus: int = _VCPUS_LIMIT
    efi: bool = False
    secure_boot: bool = False
    tpm: bool = False
    qemu_user: tuple[int, int] | None = None

    @property
    def machine(self) -> str:
        return MACHINES[self.architecture]


def read_platform(
    capabilities: ET.Element,
    domain_capabilities: ET.Element,
    *,
    architecture: Architecture,
    accelerated: bool,
    cpu_models: tuple[str, ...],
) -> Platform:
    """Read `virConnectGetCapabilities` and `virConnectGetDomainCapabilities`."""
    vcpu = domain_capabilities.find("vcpu")
    most = int(vcpu.get("max", _VCPUS_LIMIT)) if vcpu is not None else _VCPUS_LIMIT
    efi = "efi" in _values(domain_capabilities, "os", "firmware")
    return Platform(
        kind="kvm" if accelerated else "qemu",
        architecture=architecture,
        accelerated=accelerated,
        cpu_models=cpu_models,
        max_vcpus=min(most, _VCPUS_LIMIT),
        efi=efi,
        secure_boot=efi and "yes" in _values(domain_capabilities, "os/loader", "secure"),
        tpm="emulator" in _values(domain_capabilities, "devices/tpm", "backendModel"),
        qemu_user=_qemu_user(capabilities),
    )


def _values(element: ET.Element, path: str, enum: str) -> list[str]:
    return [value.text or "" for value in element.findall(f"{path}/enum[@name='{enum}']/value")]


def _qemu_user(capabilities: ET.Element) -> tuple[int, int] | None:
    """Return user and group from the label "+64055:+109" of discretionary access control."""
    label = capabilities.findtext("host/secmodel[model='dac']/baselabel[@type='qemu']", "")
    user, _, group = label.replace("+", "").partition(":")
    return (int(user), int(group)) if user.isdigit() and group.isdigit() else None
