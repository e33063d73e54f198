"""Definitions of domains as the libvirt driver writes them, without a host."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from appliance.drivers.libvirt.definition import Layout, Parts, lay_out, render_domain
from appliance.drivers.libvirt.platform import Platform
from appliance.model.compute import (
    Architecture,
    DiskSpec,
    DomainSpec,
    InterfaceSpec,
    OsFamily,
)
from appliance.model.storage import FileLocation, LocalPool

POOL: Final = LocalPool(directory="/pool")
DIRECTORY: Final = Path("/consoles")


def make_id(number: int) -> str:
    return f"{number:024x}"


def make_spec(
    number: int = 1,
    *,
    disks: Sequence[int] = (1,),
    os: OsFamily = OsFamily.LINUX,
    architecture: Architecture = Architecture.X86_64,
) -> DomainSpec:
    """Return a domain with a card, and a disk for each number."""
    return DomainSpec(
        domain_id=make_id(number),
        name=f"machine {number}",
        vcpus=2,
        memory_bytes=256 * 1024**2,
        os=os,
        architecture=architecture,
        disks=tuple(DiskSpec(storage_pool=POOL, image_id=make_id(disk)) for disk in disks),
        interfaces=(InterfaceSpec(mac=f"da:1e:70:00:00:{number:02x}", bridge="br0"),),
        generation=1,
    )


def make_platform(
    *,
    kind: str = "kvm",
    architecture: Architecture = Architecture.X86_64,
    accelerated: bool = True,
) -> Platform:
    return Platform(
        kind=kind,
        architecture=architecture,
        accelerated=accelerated,
        cpu_models=("x86-64-v2", "EPYC-Rome"),
        efi=True,
        secure_boot=architecture is Architecture.X86_64,
        tpm=True,
    )


def render(
    spec: DomainSpec, platform: Platform | None = None, kept: Layout | None = None
) -> ET.Element:
    """Return the definition, as libvirt would read it."""
    images = [*spec.disks, *((spec.seed,) if spec.seed else ())]
    parts = Parts(
        platform=platform or make_platform(architecture=spec.architecture),
        images={
            disk.image_id: FileLocation(path=f"/pool/{disk.image_id}.qcow2", format="qcow2")
            for disk in images
        },
        directory=DIRECTORY,
    )
    domain = render_domain(spec, lay_out(spec, kept or Layout()), parts)
    return ET.fromstring(ET.tostring(domain))


def render_host(specs: Sequence[DomainSpec]) -> str:
    """Return a host for libvirt's test driver (`test:///path`), on which these domains run."""
    node = ET.Element("node")
    node.extend(render(spec, make_platform(kind="test", accelerated=False)) for spec in specs)
    return ET.tostring(node, encoding="unicode")
