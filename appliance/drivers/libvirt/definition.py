"""A domain's definition as libvirt's XML, built as data from a spec. Pure.

Source of elements and attributes: https://libvirt.org/formatdomain.html.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from appliance.drivers.libvirt import places
from appliance.drivers.libvirt.places import PORTS_PER_BANK, card_bus, disk_bus, disk_name
from appliance.drivers.libvirt.platform import Platform
from appliance.drivers.libvirt.processors import render_processor
from appliance.drivers.libvirt.record import (
    UnreadableRecord,
    clean_line,
    clean_text,
    domain_uuid,
    find_record,
    render_record,
)
from appliance.model.compute import (
    Architecture,
    ConsoleKind,
    DiskSpec,
    DomainSpec,
    Firmware,
    InterfaceSpec,
    OsFamily,
    Tpm,
)
from appliance.model.network import port_name
from appliance.model.storage import ImageLocation

MIB: Final = 1024**2
_HEADROOM: Final = 4  # a domain may grow live to so many times its processors...
_HEADROOM_LEAST: Final = 8  # ... or to this many
# Slots of the root bus for what never moves; the banks of ports lie below.
_VIDEO_SLOT: Final = 0x01
_SERIAL_SLOT: Final = 0x18
_SCSI_SLOT: Final = 0x19
_BALLOON_SLOT: Final = 0x1A
_RNG_SLOT: Final = 0x1B
_USB_SLOT: Final = 0x1C
MEDIUM_NAME: Final = "sda"
_GUEST_AGENT: Final = "org.qemu.guest_agent.0"


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What a domain keeps when it is defined anew.

    Attributes:
        machine: the exact machine type it was made with; None: the newest.
        disks: places of its disks by image id.
        cards: places of its cards by MAC address.
    """

    machine: str | None = None
    disks: dict[str, int] = {}
    cards: dict[str, int] = {}


class Existing(msgspec.Struct, frozen=True, kw_only=True):
    """A domain of ours as libvirt has it, defined or running.

    Attributes:
        max_vcpus: how many processors it may grow to while it runs.
        banks: of root ports.
        has_tpm: an emulator runs beside it.
    """

    spec: DomainSpec
    layout: Layout
    max_vcpus: int
    banks: int
    has_tpm: bool


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a definition needs besides the spec.

    Attributes:
        images: where each image of the spec lies, by image id.
        directory: of our sockets and logs.
    """

    platform: Platform
    images: Mapping[str, ImageLocation]
    directory: Path


def socket_directory(directory: Path) -> Path:
    return directory / "sockets"


def socket_path(directory: Path, domain_id: str, kind: ConsoleKind) -> Path:
    return socket_directory(directory) / f"{domain_id}.{kind}"


def console_log(directory: Path, domain_id: str) -> Path:
    return directory / f"{domain_id}.log"


def lay_out(spec: DomainSpec, kept: Layout) -> Layout:
    """Return the layout of `spec` that moves as little as possible of what is there.

    Raises:
        Invalid: more disks or cards than a domain has ports for.
    """
    return Layout(
        machine=kept.machine,
        disks=places.allot([disk.image_id for disk in spec.disks], kept.disks, field="disks"),
        cards=places.allot([card.mac for card in spec.interfaces], kept.cards, field="interfaces"),
    )


def read_existing(domain: ET.Element, desired: DomainSpec | None = None) -> Existing | None:
    """Read a `<domain>`; None: it is not ours.

    What is `desired` of it makes up for a record that is not readable.

    Raises:
        UnreadableRecord: and nothing is desired.
    """
    try:
        spec = find_record(domain)
    except UnreadableRecord:
        if desired is None or domain.findtext("name") != desired.domain_id:
            raise
        spec = _salvage(domain, desired)
    if spec is None:
        return None
    machine = domain.find("os/type")
    ports = domain.findall("devices/controller[@model='pcie-root-port']")
    return Existing(
        spec=spec,
        layout=Layout(
            machine=None if machine is None else machine.get("machine"),
            disks={name: _place(disk) for name, disk in find_disks(domain).items()},
            cards={name: _place(card) for name, card in find_cards(domain).items()},
        ),
        max_vcpus=int(domain.findtext("vcpu", "1")),
        banks=len(ports) // PORTS_PER_BANK,
        has_tpm=domain.find("devices/tpm") is not None,
    )


def _salvage(domain: ET.Element, desired: DomainSpec) -> DomainSpec:
    """Return `desired` with what a `<domain>` itself tells; never equal to it: it is to be written.

    A card that is not desired any more may send from no address.
    """
    disks = {disk.image_id: disk for disk in desired.disks}
    cards = {card.mac: card for card in desired.interfaces}
    vcpus = domain.find("vcpu")
    return msgspec.structs.replace(
        desired,
        generation=1 if desired.generation == 0 else 0,
        vcpus=desired.vcpus if vcpus is None else int(vcpus.get("current", vcpus.text or "1")),
        memory_bytes=int(domain.findtext("memory", "0")) * 1024,  # libvirt tells KiB
        disks=tuple(
            disks.get(name, DiskSpec(storage_pool=desired.disks[0].storage_pool, image_id=name))
            for name in find_disks(domain)
        ),
        interfaces=tuple(
            InterfaceSpec(
                mac=mac,
                bridge="" if (source := card.find("source")) is None else source.get("bridge", ""),
                addresses=cards[mac].addresses if mac in cards else (),
            )
            for mac, card in find_cards(domain).items()
        ),
        seed=None,
    )


def find_disks(domain: ET.Element) -> dict[str, ET.Element]:
    """Return the disks of a `<domain>` by image id."""
    disks = domain.findall("devices/disk[@device='disk']")
    return {disk.findtext("serial", ""): disk for disk in disks}


def find_cards(domain: ET.Element) -> dict[str, ET.Element]:
    """Return the network cards of a `<domain>` by MAC address."""
    macs = ((card, card.find("mac")) for card in domain.findall("devices/interface"))
    return {mac.get("address", ""): card for card, mac in macs if mac is not None}


def _place(device: ET.Element) -> int:
    address = device.find("address[@type='pci']")
    return places.place_of_bus(1 if address is None else int(address.get("bus", "1"), 16))


def render_domain(spec: DomainSpec, layout: Layout, parts: Parts) -> ET.Element:
    """Return the whole `<domain>`."""
    platform = parts.platform
    domain = ET.Element("domain", type=platform.kind)
    _text(domain, "name", spec.domain_id)
    _text(domain, "uuid", domain_uuid(spec.domain_id))
    if title := clean_line(spec.name):
        _text(domain, "title", title)
    if spec.description:
        _text(domain, "description", clean_text(spec.description))
    _add(domain, "metadata").append(render_record(spec))
    _text(domain, "memory", str(spec.memory_bytes), unit="b")
    most = max(spec.vcpus, min(platform.max_vcpus, max(_HEADROOM_LEAST, _HEADROOM * spec.vcpus)))
    _text(domain, "vcpu", str(most), placement="static", current=str(spec.vcpus))
    _render_boot(domain, spec, layout, platform)
    _render_features(domain, spec, platform)
    domain.append(_processor(spec, platform))
    _render_clock(domain, spec, platform)
    # A guest that ends stays off: whether it is started again is not decided here.
    _text(domain, "on_poweroff", "destroy")
    _text(domain, "on_reboot", "restart")
    _text(domain, "on_crash", "destroy")
    if spec.os is OsFamily.WINDOWS:  # Windows would sleep by itself, and nobody would wake it
        pm = _add(domain, "pm")
        _add(pm, "suspend-to-mem", enabled="no")
        _add(pm, "suspend-to-disk", enabled="no")
    _render_devices(_add(domain, "devices"), spec, layout, parts)
    return domain


def render_disk(image_id: str, location: ImageLocation, place: int, *, first: bool) -> ET.Element:
    disk = ET.Element("disk", type="file", device="disk")
    _add(disk, "driver", name="qemu", type=location.format, cache="writeback", discard="unmap")
    _add(disk, "source", file=location.path)
    _add(disk, "target", dev=disk_name(place), bus="virtio")
    _text(disk, "serial", image_id)
    if first:
        _add(disk, "boot", order="1")
    _address(disk, bus=disk_bus(place))
    return disk


def render_medium(location: ImageLocation | None, platform: Platform, os: OsFamily) -> ET.Element:
    """Return the CD-ROM drive, which every domain has: a medium can come and go live.

    Linux for clouds drives no SATA, and Windows no SCSI of virtio, before it has got its drivers.
    """
    disk = ET.Element("disk", type="file", device="cdrom")
    _add(disk, "driver", name="qemu", type="raw")
    if location is not None:
        _add(disk, "source", file=location.path)
    _add(disk, "target", dev=MEDIUM_NAME, bus="sata" if has_sata(platform, os) else "scsi")
    _add(disk, "readonly")
    _add(disk, "address", type="drive", controller="0", bus="0", target="0", unit="0")
    return disk


def render_card(card: InterfaceSpec, place: int) -> ET.Element:
    interface = ET.Element("interface", type="bridge")
    _add(interface, "mac", address=card.mac)
    _add(interface, "source", bridge=card.bridge)
    _add(interface, "target", dev=port_name(card.mac))
    _add(interface, "model", type="virtio")
    _address(interface, bus=card_bus(place))
    return interface


def has_sata(platform: Platform, os: OsFamily) -> bool:
    return os is OsFamily.WINDOWS and platform.architecture is Architecture.X86_64


def _has_efi(spec: DomainSpec, platform: Platform) -> bool:
    """Tell how it boots, where that is open: Windows by UEFI, Linux on x86 as its images do."""
    if spec.firmware is not Firmware.AUTO:
        return spec.firmware is Firmware.UEFI
    windows = spec.os is OsFamily.WINDOWS
    return platform.efi and (windows or platform.architecture is Architecture.AARCH64)


def _has_secure_boot(spec: DomainSpec, platform: Platform) -> bool:
    """Not for Linux: an image that nobody has signed would not boot."""
    return platform.secure_boot and spec.os is OsFamily.WINDOWS and _has_efi(spec, platform)


def _has_tpm(spec: DomainSpec, platform: Platform) -> bool:
    if spec.tpm is not Tpm.AUTO:
        return spec.tpm is Tpm.ON
    return platform.tpm and spec.os is OsFamily.WINDOWS


def _render_boot(domain: ET.Element, spec: DomainSpec, layout: Layout, platform: Platform) -> None:
    efi = _has_efi(spec, platform)
    boot = _add(domain, "os", **({"firmware": "efi"} if efi else {}))
    machine = layout.machine or platform.machine
    _text(boot, "type", "hvm", arch=platform.architecture.value, machine=machine)
    if efi and platform.architecture is Architecture.X86_64:
        firmware = _add(boot, "firmware")
        secure = "yes" if _has_secure_boot(spec, platform) else "no"
        _add(firmware, "feature", enabled=secure, name="secure-boot")
        _add(firmware, "feature", enabled=secure, name="enrolled-keys")


def _render_features(domain: ET.Element, spec: DomainSpec, platform: Platform) -> None:
    windows = spec.os is OsFamily.WINDOWS
    features = _add(domain, "features")
    _add(features, "acpi")
    if platform.architecture is Architecture.X86_64:
        _add(features, "apic")
        if _has_secure_boot(spec, platform):  # its variables are written in SMM only
            _add(features, "smm", state="on")
        if windows and platform.accelerated:
            hyperv = _add(features, "hyperv", mode="custom")
            for feature in ("relaxed", "vapic", "vpindex", "runtime", "synic", "stimer", "reset"):
                _add(hyperv, feature, state="on")
            _add(hyperv, "spinlocks", state="on", retries="8191")
        _add(features, "vmport", state="off")
    if not platform.accelerated:
        # QEMU would take 1 GiB for translated code, whatever the size of the guest.
        cache_mib = min(max(spec.memory_bytes // MIB // 2, 64), 512)
        _text(_add(features, "tcg"), "tb-cache", str(cache_mib), unit="MiB")


def _processor(spec: DomainSpec, platform: Platform) -> ET.Element:
    if spec.cpu_model is not None:
        return render_processor(spec.cpu_model)
    if platform.accelerated:
        return ET.Element("cpu", mode="host-passthrough", check="none", migratable="on")
    if platform.architecture is Architecture.AARCH64:
        cpu = ET.Element("cpu", mode="custom", match="exact", check="none")
        _text(cpu, "model", "cortex-a72", fallback="forbid")  # signs pointers never, and fast so
        return cpu
    return ET.Element("cpu", mode="maximum", check="none", migratable="on")


def _render_clock(domain: ET.Element, spec: DomainSpec, platform: Platform) -> None:
    windows = spec.os is OsFamily.WINDOWS
    clock = _add(domain, "clock", offset="localtime" if windows else "utc")
    if platform.architecture is Architecture.AARCH64:
        return
    _add(clock, "timer", name="rtc", tickpolicy="catchup")
    _add(clock, "timer", name="pit", tickpolicy="delay")
    _add(clock, "timer", name="hpet", present="no")
    if windows and platform.accelerated:
        _add(clock, "timer", name="hypervclock", present="yes")


def _render_devices(devices: ET.Element, spec: DomainSpec, layout: Layout, parts: Parts) -> None:
    platform = parts.platform
    x86 = platform.architecture is Architecture.X86_64
    _render_controllers(devices, spec, layout, platform)
    for disk in spec.disks:
        place = layout.disks[disk.image_id]
        location = parts.images[disk.image_id]
        devices.append(render_disk(disk.image_id, location, place, first=disk == spec.disks[0]))
    seed = parts.images[spec.seed.image_id] if spec.seed is not None else None
    devices.append(render_medium(seed, platform, spec.os))
    for card in spec.interfaces:
        devices.append(render_card(card, layout.cards[card.mac]))
    _render_consoles(devices, spec, parts)
    if x86:
        _add(devices, "panic", model="isa")
    else:
        _add(devices, "input", type="keyboard", bus="usb")
    if not x86 or spec.os is OsFamily.WINDOWS:
        _add(devices, "input", type="tablet", bus="usb")
    if _has_tpm(spec, platform):
        tpm = _add(devices, "tpm", model="tpm-crb" if x86 else "tpm-tis")
        _add(tpm, "backend", type="emulator", version="2.0")
    balloon = _add(devices, "memballoon", model="virtio")
    _add(balloon, "stats", period="10")
    _address(balloon, slot=_BALLOON_SLOT)
    rng = _add(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    _address(rng, slot=_RNG_SLOT)


def _render_controllers(
    devices: ET.Element, spec: DomainSpec, layout: Layout, platform: Platform
) -> None:
    _add(devices, "controller", type="pci", index="0", model="pcie-root")
    for bank in range(places.banks(layout.disks, layout.cards)):
        for number in range(PORTS_PER_BANK):
            index, slot, function = places.port_address(bank, number)
            port = _add(devices, "controller", type="pci", index=str(index), model="pcie-root-port")
            _address(port, slot=slot, function=function, multifunction=True)
    serial = _add(devices, "controller", type="virtio-serial", index="0")
    _address(serial, slot=_SERIAL_SLOT)
    if not has_sata(platform, spec.os):
        scsi = _add(devices, "controller", type="scsi", index="0", model="virtio-scsi")
        _address(scsi, slot=_SCSI_SLOT)
    if platform.architecture is Architecture.AARCH64 or spec.os is OsFamily.WINDOWS:
        usb = _add(devices, "controller", type="usb", index="0", model="qemu-xhci")
        _address(usb, slot=_USB_SLOT)
    else:  # a tablet that nobody asked for wakes an idle guest all the time
        _add(devices, "controller", type="usb", index="0", model="none")


def _render_consoles(devices: ET.Element, spec: DomainSpec, parts: Parts) -> None:
    serial = _add(devices, "serial", type="unix")
    path = socket_path(parts.directory, spec.domain_id, ConsoleKind.SERIAL)
    _add(serial, "source", mode="bind", path=str(path))
    _add(serial, "log", file=str(console_log(parts.directory, spec.domain_id)), append="on")
    _add(serial, "target", port="0")
    channel = _add(devices, "channel", type="unix")
    _add(channel, "target", type="virtio", name=_GUEST_AGENT)
    screen = socket_path(parts.directory, spec.domain_id, ConsoleKind.VNC)
    graphics = _add(devices, "graphics", type="vnc")
    _add(graphics, "listen", type="socket", socket=str(screen))
    video = _add(devices, "video")
    x86 = parts.platform.architecture is Architecture.X86_64
    _add(video, "model", type="vga" if x86 else "virtio", primary="yes")
    _address(video, slot=_VIDEO_SLOT)


def _address(
    device: ET.Element,
    *,
    bus: int = 0,
    slot: int = 0,
    function: int = 0,
    multifunction: bool = False,
) -> None:
    address = _add(
        device, "address", type="pci", domain="0x0000", bus=f"{bus:#04x}", slot=f"{slot:#04x}",
        function=f"{function:#x}",
    )  # fmt: skip
    if multifunction and function == 0:
        address.set("multifunction", "on")


def _add(parent: ET.Element, tag: str, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, tag, attributes)


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    _add(parent, tag, **attributes).text = text
