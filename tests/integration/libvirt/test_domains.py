"""What domains are like on a real libvirtd, beyond what every driver does."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import libvirt
import msgspec
import pytest

from appliance.core.clock import SystemClock
from appliance.core.errors import DeadlineExceeded, DriverError, NotFound
from appliance.drivers.libvirt.compute import LibvirtCompute
from appliance.drivers.libvirt.console import LOG_LIMIT_BYTES, bound_logs
from appliance.drivers.libvirt.definition import console_log
from appliance.drivers.libvirt.record import domain_uuid
from appliance.model.compute import (
    Architecture,
    Change,
    DomainSpec,
    Firmware,
    InterfaceSpec,
    OsFamily,
    Tpm,
)
from appliance.model.domain_state import DomainState, Power
from tests.contract.drivers.rig import BRIDGE, Rig, some_id
from tests.contract.drivers.rig_libvirt import RecordedPorts
from tests.support.domains import make_platform, make_spec, render
from tests.support.faults import What, Where, breaks
from tests.support.libvirtd import Libvirtd
from tests.support.needs import need
from tests.support.small_guest import DEAF, READY
from tests.support.wait import until

HOSTILE = "</title><devices/>&amp;'\" \x00\x1b\ud7ff\ufffe\uffff \U0001f995 \r\n\t]]>"


@contextmanager
def raw(libvirtd: Libvirtd) -> Generator[libvirt.virConnect]:
    """Look at libvirt without the driver."""
    with closing(libvirt.open(libvirtd.uri)) as connection:
        yield connection


def live_xml(libvirtd: Libvirtd, domain_id: str) -> ET.Element:
    with raw(libvirtd) as connection:
        return ET.fromstring(connection.lookupByUUIDString(domain_uuid(domain_id)).XMLDesc())


def addresses(domain: ET.Element) -> dict[str | None, dict[str, str]]:
    found = dict[str | None, dict[str, str]]()
    for disk in domain.findall("devices/disk[@device='disk']"):
        address, target = disk.find("address"), disk.find("target")
        assert address is not None
        assert target is not None
        found[disk.findtext("serial")] = {**address.attrib, "target": target.get("dev", "")}
    return found


async def start(rig: Rig, spec: DomainSpec) -> None:
    await rig.compute.ensure_domain(spec)
    await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)


async def stop(rig: Rig, spec: DomainSpec) -> None:
    await rig.compute.ensure_power(spec.domain_id, Power.STOPPED)


async def test_any_name_and_description_are_carried(rig: Rig) -> None:
    spec = msgspec.structs.replace(await rig.spec(), name=HOSTILE, description=HOSTILE)
    await start(rig, spec)
    (observed,) = await rig.compute.list_domains()
    assert observed.name == HOSTILE
    again = msgspec.structs.replace(spec, name=f"{HOSTILE}!", description="")
    assert (await rig.compute.ensure_domain(again)).change is Change.LIVE
    assert (await rig.compute.get_domain(spec.domain_id)).name == f"{HOSTILE}!"


async def test_a_disk_keeps_its_place_when_another_goes(rig: Rig, libvirtd: Libvirtd) -> None:
    disks = [rig.disk(await rig.volume()) for _ in range(3)]
    spec = msgspec.structs.replace(await rig.spec(), disks=tuple(disks))
    await start(rig, spec)
    before = addresses(live_xml(libvirtd, spec.domain_id))
    fewer = msgspec.structs.replace(spec, disks=(disks[0], disks[2]), generation=2)
    assert (await rig.compute.ensure_domain(fewer)).change is Change.LIVE
    await stop(rig, spec)
    await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
    after = addresses(live_xml(libvirtd, spec.domain_id))
    assert after == {disk.image_id: before[disk.image_id] for disk in (disks[0], disks[2])}


@pytest.mark.parametrize("os", list(OsFamily))
@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize("cpu_model", [None, "x86-64-v3", "EPYC-Rome"])
def test_a_definition_is_valid_by_libvirts_schema(
    libvirtd: Libvirtd, os: OsFamily, accelerated: bool, cpu_model: str | None
) -> None:
    """Libvirt passes over what it does not know, so this looks for every variant."""
    platform = make_platform(kind="qemu", accelerated=accelerated)
    definition = render(msgspec.structs.replace(make_spec(os=os), cpu_model=cpu_model), platform)
    with raw(libvirtd) as connection:
        domain = connection.defineXMLFlags(
            ET.tostring(definition, encoding="unicode"), libvirt.VIR_DOMAIN_DEFINE_VALIDATE
        )
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)


async def test_a_guest_that_hangs_holds_up_no_other(rig: Rig, libvirtd: Libvirtd) -> None:
    hung, other = await rig.spec(), await rig.spec()
    await start(rig, hung)
    await start(rig, other)
    libvirtd.signal_qemu(hung.domain_id, "STOP")
    try:
        listed = await rig.compute.list_domains()
        assert [domain.domain_id for domain in listed] == [hung.domain_id, other.domain_id]
        with pytest.raises(DeadlineExceeded):
            await rig.compute.list_statistics()
        assert len(await rig.compute.list_statistics()) == 2  # passes over what it would wait for
        await rig.compute.ensure_power(other.domain_id, Power.PAUSED)
    finally:
        libvirtd.signal_qemu(hung.domain_id, "CONT")
    assert len(await rig.compute.list_statistics()) == 2


async def test_a_guest_that_does_not_let_go_keeps_its_disk_until_a_restart(
    rig: Rig,
) -> None:
    extra = rig.disk(await rig.volume())
    spec = await rig.spec()
    more = msgspec.structs.replace(spec, disks=(*spec.disks, extra))
    await rig.compute.ensure_domain(more)
    await rig.compute.ensure_power(spec.domain_id, Power.PAUSED)  # a paused guest does nothing
    fewer = msgspec.structs.replace(spec, generation=2)
    for _ in range(2):
        applied = await rig.compute.ensure_domain(fewer)
        assert applied.restart_for == ("disks",)
        assert applied.observed.running_generation == spec.generation
    await stop(rig, spec)
    await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
    assert (await rig.compute.ensure_domain(fewer)).change is Change.NONE


@breaks(
    What.PROCESS,
    "libvirtd killed while it plugs a disk into a running machine",
    expected="a clear error; the machine runs on, and has the disk once it is stopped and started",
    where=Where.NAMESPACE,
)
async def test_a_disk_that_is_half_plugged_comes_with_the_next_start(
    rig: Rig, libvirtd: Libvirtd
) -> None:
    """Half of it is in QEMU already, and the libvirtd that put it there is no more."""
    spec = await rig.spec()
    await start(rig, spec)
    extra = rig.disk(await rig.volume())
    image = await rig.storage.locate(rig.storage_pool, extra.image_id)
    half = {
        "execute": "blockdev-add",
        "arguments": {
            "node-name": "half",
            "driver": image.format,
            "file": {"driver": "file", "filename": image.path},
        },
    }
    asked = json.dumps(half)
    libvirtd.run("virsh", "-c", libvirtd.uri, "qemu-monitor-command", spec.domain_id, asked)
    more = msgspec.structs.replace(spec, disks=(*spec.disks, extra), generation=2)
    for _ in range(2):
        with pytest.raises(DriverError, match="stop and start the machine"):
            await rig.compute.ensure_domain(more)
    observed = await rig.compute.get_domain(spec.domain_id)
    assert (observed.state, observed.running_generation) == (DomainState.RUNNING, 1)
    await stop(rig, spec)
    await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
    assert (await rig.compute.ensure_domain(more)).change is Change.NONE
    assert extra.image_id in addresses(live_xml(libvirtd, spec.domain_id))


async def test_nothing_listens_on_the_network(rig: Rig, libvirtd: Libvirtd) -> None:
    await start(rig, await rig.spec())
    assert libvirtd.run("ss", "-H", "-l", "-t", "-u", "-n") == ""


async def test_the_serial_line_is_kept_over_restarts(rig: Rig, libvirtd: Libvirtd) -> None:
    spec = await rig.spec()
    await start(rig, spec)
    await stop(rig, spec)
    await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
    log = console_log(libvirtd.directory / "consoles", spec.domain_id)
    assert log.read_bytes().count(READY) == 2


async def test_a_log_that_is_cut_goes_on_from_its_beginning(rig: Rig, libvirtd: Libvirtd) -> None:
    spec = await rig.spec()
    await start(rig, spec)
    log = console_log(libvirtd.directory / "consoles", spec.domain_id)
    with log.open("ab") as printed:
        printed.write(b"x" * LOG_LIMIT_BYTES)
    bound_logs(log.parent)
    await rig.deafen_guest(spec.domain_id)  # it answers over the serial line
    assert log.read_bytes() == DEAF * log.stat().st_size
    assert log.with_name(f"{log.name}.0").stat().st_size == LOG_LIMIT_BYTES


async def test_domains_of_others_are_neither_listed_nor_touched(
    rig: Rig, libvirtd: Libvirtd
) -> None:
    foreign_id = some_id()
    foreign = f"""<domain type='qemu'><name>{foreign_id}</name><memory unit='MiB'>64</memory>
        <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"""
    with raw(libvirtd) as connection:
        domain = connection.defineXMLFlags(foreign)
        try:
            domain.create()
            assert await rig.compute.list_domains() == []
            assert await rig.compute.list_statistics() == []
            with pytest.raises(NotFound):
                await rig.compute.ensure_power(foreign_id, Power.STOPPED)
            await rig.compute.ensure_domain_absent(foreign_id)
            assert domain.isActive()
        finally:
            domain.destroy()
            domain.undefineFlags()


@pytest.mark.parametrize("model", ["x86-64-v2", "Nehalem"])
async def test_a_guest_runs_with_the_processor_that_was_asked_for(
    rig: Rig, libvirtd: Libvirtd, model: str
) -> None:
    possible = (await rig.compute.get_host()).cpu_models
    assert model in possible
    assert "x86-64-v4" not in possible  # the emulator has no AVX-512
    spec = msgspec.structs.replace(await rig.spec(), cpu_model=model)
    await start(rig, spec)
    live = live_xml(libvirtd, spec.domain_id)
    assert live.findtext("cpu/model") == ("kvm64" if model == "x86-64-v2" else model)
    # libvirt has compared what QEMU gives with what was asked for.
    assert live.find("cpu[@check='full']") is not None


async def test_linux_gets_the_firmware_and_the_tpm_that_were_asked_for(
    rig: Rig, libvirtd: Libvirtd
) -> None:
    before = files_of_libvirt(libvirtd)
    spec = msgspec.structs.replace(await rig.spec(), firmware=Firmware.UEFI, tpm=Tpm.ON)
    await rig.compute.ensure_domain(spec)
    await rig.compute.ensure_power(spec.domain_id, Power.PAUSED)
    domain = live_xml(libvirtd, spec.domain_id)
    assert domain.findtext("os/loader", "").endswith(".fd")
    assert domain.find("devices/tpm") is not None
    await rig.compute.ensure_domain_absent(spec.domain_id)
    assert files_of_libvirt(libvirtd) == before


async def test_windows_gets_firmware_and_tpm_and_leaves_nothing(
    rig: Rig, libvirtd: Libvirtd
) -> None:
    before = files_of_libvirt(libvirtd)
    spec = msgspec.structs.replace(await rig.spec(), os=OsFamily.WINDOWS)
    await rig.compute.ensure_domain(spec)
    await rig.compute.ensure_power(spec.domain_id, Power.PAUSED)
    domain = live_xml(libvirtd, spec.domain_id)
    assert domain.findtext("os/loader", "").endswith(".fd")
    assert domain.find("devices/tpm") is not None
    assert domain.find("clock[@offset='localtime']") is not None
    assert files_of_libvirt(libvirtd) > before
    await rig.compute.ensure_domain_absent(spec.domain_id)
    assert files_of_libvirt(libvirtd) == before


def files_of_libvirt(libvirtd: Libvirtd) -> set[Path]:
    """Return what libvirt keeps about domains, besides what they logged."""
    places = (libvirtd.directory / "lib", libvirtd.directory / "etc")
    return {file for place in places for file in place.rglob("*") if file.is_file()}


async def test_a_tpm_that_libvirt_forgot_goes_with_its_domain(rig: Rig, libvirtd: Libvirtd) -> None:
    """As after a libvirtd that died between the definition's end and that of the TPM."""
    state = libvirtd.directory / "lib" / "swtpm" / domain_uuid(spec_id := some_id())
    (state / "tpm2").mkdir(parents=True)
    await rig.compute.ensure_domain_absent(spec_id)
    assert not state.exists()


async def test_a_changed_medium_is_in_the_drive_at_once(rig: Rig, libvirtd: Libvirtd) -> None:
    def medium() -> str | None:
        source = live_xml(libvirtd, spec.domain_id).find("devices/disk[@device='cdrom']/source")
        return None if source is None else source.get("file")

    spec = await rig.spec()
    await start(rig, spec)
    assert medium() is None
    seed = rig.disk(await rig.volume())
    seeded = msgspec.structs.replace(spec, seed=seed, generation=2)
    assert (await rig.compute.ensure_domain(seeded)).change is Change.LIVE
    assert medium() == (await rig.storage.locate(rig.storage_pool, seed.image_id)).path
    assert (await rig.compute.ensure_domain(spec)).change is Change.LIVE
    assert medium() is None


async def test_a_card_moves_to_another_bridge_live(rig: Rig, libvirtd: Libvirtd) -> None:
    other = msgspec.structs.replace(BRIDGE, name="kwtest1")
    await rig.host_network.ensure_bridge(other)
    spec = await rig.spec()
    await start(rig, spec)
    card = InterfaceSpec(mac=spec.interfaces[0].mac, bridge=other.name)
    moved = msgspec.structs.replace(spec, interfaces=(card,), generation=2)
    assert (await rig.compute.ensure_domain(moved)).change is Change.LIVE
    port = "kw" + card.mac.replace(":", "")
    assert port in libvirtd.run("ip", "-o", "link", "show", "master", other.name)
    await rig.host_network.ensure_bridge_absent(BRIDGE.name)


async def test_a_guest_of_aarch64_boots_its_firmware(
    rig: Rig, libvirtd: Libvirtd, tmp_path: Path
) -> None:
    need("qemu-system-aarch64")
    sockets = libvirtd.directory / "consoles"
    spec = msgspec.structs.replace(await rig.spec(), architecture=Architecture.AARCH64)
    async with LibvirtCompute(
        libvirtd.uri,
        locate=rig.storage.locate,
        ports=RecordedPorts(),
        directory=sockets,
        accelerated=False,
        architecture=Architecture.AARCH64,
        clock=SystemClock(),
        has_bridge=lambda _: True,
    ) as compute:
        await compute.ensure_domain(spec)
        observed = await compute.ensure_power(spec.domain_id, Power.RUNNING)
        assert observed.state is DomainState.RUNNING
        log = console_log(sockets, spec.domain_id)
        await until(lambda: b"UEFI" in log.read_bytes(), "words of the firmware", timeout_s=100)
        await compute.ensure_domain_absent(spec.domain_id)
