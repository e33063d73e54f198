"""Definitions of domains, as libvirt reads them."""

import xml.etree.ElementTree as ET

import msgspec
import pytest

from appliance.core.errors import Invalid
from appliance.drivers.libvirt.definition import Layout, lay_out, read_existing
from appliance.model.compute import (
    Architecture,
    DiskSpec,
    Firmware,
    InterfaceSpec,
    OsFamily,
    Tpm,
)
from tests.support.domains import POOL, make_id, make_platform, make_spec, render


def the(domain: ET.Element, path: str) -> ET.Element:
    found = domain.findall(path)
    assert len(found) == 1, f"{len(found)} of {path}"
    return found[0]


def test_a_guest_sees_the_processor_of_the_host() -> None:
    domain = render(make_spec())
    assert domain.get("type") == "kvm"
    assert the(domain, "os/type").attrib == {"arch": "x86_64", "machine": "q35"}
    assert the(domain, "cpu").get("mode") == "host-passthrough"
    assert domain.find("os[@firmware]") is None


@pytest.mark.parametrize("accelerated", [True, False])
def test_another_processor_takes_the_place_of_the_hosts(accelerated: bool) -> None:
    spec = msgspec.structs.replace(make_spec(), cpu_model="EPYC-Rome")
    domain = render(spec, make_platform(accelerated=accelerated))
    assert the(domain, "cpu").get("mode") == "custom"
    assert the(domain, "cpu").get("check") == "partial"  # a start without all of it is refused
    assert domain.findtext("cpu/model") == "EPYC-Rome"
    assert domain.find("cpu/feature") is None


def test_a_level_of_x86_64_is_a_plain_processor_with_all_its_features() -> None:
    features: list[set[str]] = []
    for level in ("x86-64-v2", "x86-64-v3", "x86-64-v4"):
        domain = render(msgspec.structs.replace(make_spec(), cpu_model=level))
        assert domain.findtext("cpu/model") == "kvm64"
        required = domain.findall("cpu/feature[@policy='require']")
        features.append({feature.get("name", "") for feature in required})
    assert features[0] < features[1] < features[2]
    assert {"popcnt", "sse4.2"} <= features[0]
    assert {"avx2", "aes"} <= features[1] - features[0]


def test_an_emulated_processor_is_a_capable_one_with_a_bounded_cache() -> None:
    domain = render(make_spec(), make_platform(kind="qemu", accelerated=False))
    assert domain.get("type") == "qemu"
    assert the(domain, "cpu").get("mode") == "maximum"
    assert domain.findtext("features/tcg/tb-cache") == "128"


@pytest.mark.parametrize("accelerated", [True, False])
def test_aarch64_boots_by_uefi(accelerated: bool) -> None:
    spec = make_spec(architecture=Architecture.AARCH64)
    platform = make_platform(architecture=Architecture.AARCH64, accelerated=accelerated)
    domain = render(spec, platform)
    assert the(domain, "os").get("firmware") == "efi"
    assert the(domain, "os/type").attrib == {"arch": "aarch64", "machine": "virt"}
    assert the(domain, "devices/video/model").get("type") == "virtio"
    assert domain.find("devices/panic") is None


def test_windows_has_what_it_knows() -> None:
    domain = render(make_spec(os=OsFamily.WINDOWS))
    assert the(domain, "os").get("firmware") == "efi"
    assert the(domain, "os/firmware/feature[@name='secure-boot']").get("enabled") == "yes"
    assert the(domain, "clock").get("offset") == "localtime"
    assert the(domain, "clock/timer[@name='hpet']").get("present") == "no"
    assert the(domain, "clock/timer[@name='hypervclock']").get("present") == "yes"
    assert the(domain, "features/hyperv/spinlocks").get("retries") == "8191"
    assert the(domain, "devices/tpm/backend").get("version") == "2.0"
    assert the(domain, "devices/disk[@device='cdrom']/target").get("bus") == "sata"
    assert the(domain, "pm/suspend-to-disk").get("enabled") == "no"


def test_windows_without_firmware_and_tpm_on_the_host_goes_without() -> None:
    platform = msgspec.structs.replace(make_platform(), efi=False, secure_boot=False, tpm=False)
    domain = render(make_spec(os=OsFamily.WINDOWS), platform)
    assert the(domain, "os").attrib == {}
    assert domain.find("devices/tpm") is None
    assert domain.find("features/smm") is None


def test_firmware_and_tpm_that_were_asked_for_do_not_follow_the_system() -> None:
    asked = msgspec.structs.replace(make_spec(), firmware=Firmware.UEFI, tpm=Tpm.ON)
    domain = render(asked)
    assert the(domain, "os").get("firmware") == "efi"
    # An image that nobody signed boots too.
    assert the(domain, "os/firmware/feature[@name='secure-boot']").get("enabled") == "no"
    assert domain.find("features/smm") is None
    assert the(domain, "devices/tpm/backend").get("version") == "2.0"
    old = msgspec.structs.replace(
        make_spec(os=OsFamily.WINDOWS), firmware=Firmware.BIOS, tpm=Tpm.OFF
    )
    domain = render(old)
    assert the(domain, "os").attrib == {}
    assert domain.find("devices/tpm") is None
    assert domain.find("features/smm") is None


def test_the_end_of_a_guest_is_left_to_others() -> None:
    domain = render(make_spec())
    assert domain.findtext("on_poweroff") == "destroy"
    assert domain.findtext("on_reboot") == "restart"
    assert domain.findtext("on_crash") == "destroy"


def test_consoles_are_sockets_of_the_file_system() -> None:
    domain = render(make_spec())
    assert the(domain, "devices/graphics").attrib == {"type": "vnc"}
    listen = the(domain, "devices/graphics/listen")
    assert listen.attrib == {"type": "socket", "socket": f"/consoles/sockets/{make_id(1)}.vnc"}
    serial = the(domain, "devices/serial/source")
    assert serial.get("path") == f"/consoles/sockets/{make_id(1)}.serial"
    assert the(domain, "devices/serial/log").get("file") == f"/consoles/{make_id(1)}.log"
    assert the(domain, "devices/channel/target").get("name") == "org.qemu.guest_agent.0"


def test_disks_tell_their_format_and_bear_the_image_id() -> None:
    domain = render(make_spec(disks=(7, 8)))
    disks = domain.findall("devices/disk[@device='disk']")
    assert [disk.findtext("serial") for disk in disks] == [make_id(7), make_id(8)]
    assert {the(disk, "driver").get("type") for disk in disks} == {"qcow2"}
    assert [the(disk, "target").get("bus") for disk in disks] == ["virtio", "virtio"]
    assert [disk.find("boot") is not None for disk in disks] == [True, False]


def test_the_medium_is_read_only_and_where_a_cloud_kernel_finds_it() -> None:
    seed = DiskSpec(storage_pool=POOL, image_id=make_id(9))
    domain = render(msgspec.structs.replace(make_spec(), seed=seed))
    medium = the(domain, "devices/disk[@device='cdrom']")
    assert the(medium, "source").get("file") == f"/pool/{make_id(9)}.qcow2"
    assert medium.find("readonly") is not None
    assert the(medium, "target").get("bus") == "scsi"


def test_a_port_bears_the_name_that_its_filter_expects() -> None:
    domain = render(make_spec())
    card = the(domain, "devices/interface")
    assert the(card, "target").get("dev") == "kwda1e70000001"
    assert the(card, "source").get("bridge") == "br0"


def test_no_two_devices_share_an_address() -> None:
    cards = tuple(
        InterfaceSpec(mac=f"da:1e:70:00:01:{number:02x}", bridge="br0") for number in range(24)
    )
    spec = msgspec.structs.replace(make_spec(disks=range(1, 25)), interfaces=cards)
    addresses = [
        tuple(sorted(address.attrib.items()))
        for address in render(spec).iterfind("devices//address[@type='pci']")
    ]
    assert len(set(addresses)) == len(addresses)
    with pytest.raises(Invalid):
        render(make_spec(disks=range(1, 26)))


def test_a_definition_is_read_back_with_its_layout() -> None:
    spec = make_spec(disks=(1, 2, 3))
    existing = read_existing(render(spec))
    assert existing is not None
    assert existing.spec == spec
    assert existing.layout == Layout(
        machine="q35",
        disks={make_id(1): 0, make_id(2): 1, make_id(3): 2},
        cards={"da:1e:70:00:00:01": 0},
    )
    assert existing.max_vcpus == 8
    assert existing.banks == 2


def test_a_new_definition_keeps_machine_and_places() -> None:
    kept = Layout(machine="pc-q35-7.2", disks={make_id(1): 0, make_id(3): 2})
    spec = make_spec(disks=(1, 3))
    assert lay_out(spec, kept).disks == kept.disks
    domain = render(spec, kept=kept)
    assert the(domain, "os/type").get("machine") == "pc-q35-7.2"
    targets = [target.get("dev") for target in domain.iterfind("devices/disk/target")]
    assert targets == ["vda", "vdc", "sda"]
