"""libvirtd comes and goes; domains and the driver stay."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from functools import partial

import msgspec
import pytest

from appliance.core.errors import DriverError, KowabungaError, Unavailable
from appliance.model.compute import DomainEvent, ObservedDomain, OsFamily
from appliance.model.domain_state import DomainReason, DomainState, Power
from tests.contract.drivers.rig import Rig
from tests.support.faults import What, Where, breaks
from tests.support.libvirtd import HALF_STARTED, Libvirtd, private_libvirtd
from tests.support.wait import until

LIMIT_S = 100.0


@pytest.fixture
def libvirtd() -> Generator[Libvirtd]:
    """One for each test: these leave it in any state."""
    with private_libvirtd() as libvirtd:
        yield libvirtd


async def list_once_back(rig: Rig) -> list[ObservedDomain]:
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                return await rig.compute.list_domains()
            except Unavailable:
                await asyncio.sleep(0.05)


async def wait_until_away(rig: Rig) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                await rig.compute.list_domains()
            except Unavailable:
                return
            await asyncio.sleep(0.05)


async def running_domain(rig: Rig) -> str:
    spec = await rig.spec()
    await rig.compute.ensure_domain(spec)
    await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
    return spec.domain_id


async def paused_domain(rig: Rig) -> str:
    spec = await rig.spec()
    await rig.compute.ensure_domain(spec)
    await rig.compute.ensure_power(spec.domain_id, Power.PAUSED)
    return spec.domain_id


async def settled(call: Awaitable[object]) -> None:
    """Wait for a call, whether it succeeds or fails."""
    with suppress(KowabungaError):
        await call


@breaks(
    What.PROCESS,
    "libvirtd killed",
    expected="machines run on; the agent is connected again by itself",
    where=Where.NAMESPACE,
)
async def test_a_crash_of_libvirtd_costs_no_domain(rig: Rig, libvirtd: Libvirtd) -> None:
    domain_id = await running_domain(rig)
    before = await rig.compute.list_domains()
    libvirtd.kill()
    with pytest.raises(Unavailable):
        await rig.compute.get_domain(domain_id)
    await wait_until_away(rig)
    libvirtd.start()
    (after,) = await list_once_back(rig)
    assert after.state is DomainState.RUNNING
    assert after.running_generation == before[0].running_generation

    events: list[DomainEvent] = []
    rig.compute.on_event(events.append)
    await rig.shut_guest_down(domain_id)
    await until(lambda: events, "an event over the new connection")
    assert [(event.domain_id, event.state) for event in events] == [
        (domain_id, DomainState.SHUTOFF)
    ]


@breaks(
    What.PROCESS,
    "QEMU killed while libvirtd is away",
    expected="the end of the machine is told when libvirtd is back",
    where=Where.NAMESPACE,
)
async def test_what_happened_without_libvirtd_is_told_when_it_is_back(
    rig: Rig, libvirtd: Libvirtd
) -> None:
    events: list[DomainEvent] = []
    rig.compute.on_event(events.append)
    domain_id = await running_domain(rig)
    await until(lambda: events, "the start is told")
    libvirtd.kill()
    libvirtd.signal_qemu(domain_id, "KILL")
    libvirtd.start()
    await until(lambda: len(events) > 1, "the end is told")
    assert events[-1].domain_id == domain_id
    assert events[-1].state is DomainState.SHUTOFF
    assert events[-1].reason is not DomainReason.SHUTDOWN


@breaks(
    What.PROCESS,
    "an agent that starts before libvirtd",
    expected="it serves machines as soon as libvirtd is there",
    where=Where.NAMESPACE,
)
async def test_a_driver_may_come_before_libvirtd(rig: Rig, libvirtd: Libvirtd) -> None:
    libvirtd.kill()
    early = await rig.reopen_compute()
    with pytest.raises(Unavailable):
        await early.get_host()
    libvirtd.start()
    await list_once_back(rig)
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                await early.get_host()
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                break


@breaks(
    What.PROCESS,
    "libvirtd frozen",
    expected="calls fail within half a minute; machines run on, and all is well once it thaws",
    where=Where.NAMESPACE,
)
async def test_a_frozen_libvirtd_holds_up_nobody_for_ever(rig: Rig, libvirtd: Libvirtd) -> None:
    domain_id = await running_domain(rig)
    libvirtd.signal("STOP")
    try:
        async with asyncio.timeout(LIMIT_S):
            with pytest.raises(Unavailable):
                await rig.compute.get_domain(domain_id)
    finally:
        libvirtd.signal("CONT")
    (after,) = await list_once_back(rig)
    assert after.state is DomainState.RUNNING


@breaks(
    What.PROCESS,
    "five QEMUs hang while they are asked something",
    expected="libvirt answers about others at once, and what hangs can be ended",
    where=Where.NAMESPACE,
)
async def test_many_guests_that_hang_cut_nobody_off_libvirt(rig: Rig, libvirtd: Libvirtd) -> None:
    """So many calls at once are all that libvirtd takes from one connection."""
    hung = [await paused_domain(rig) for _ in range(5)]
    for domain_id in hung:
        libvirtd.signal_qemu(domain_id, "STOP")
    async with asyncio.TaskGroup() as calls:
        asked = [calls.create_task(settled(rig.compute.reset(domain_id))) for domain_id in hung]
        await asyncio.sleep(0)
        assert len(await rig.compute.list_domains()) == len(hung)
        ended = await rig.compute.ensure_power(hung[0], Power.STOPPED)
        assert ended.state is DomainState.SHUTOFF
        assert [call.done() for call in asked[1:4]] == [False] * 3
        for domain_id in hung[1:]:
            libvirtd.signal_qemu(domain_id, "CONT")


async def persist(act: Callable[[], Awaitable[object]]) -> None:
    """Repeat what fails, as operations do."""
    end = time.monotonic() + LIMIT_S
    while True:
        try:
            await act()
        except (Unavailable, DriverError) as error:
            if time.monotonic() > end:
                raise AssertionError("it fails for ever") from error
            await asyncio.sleep(0.05)
        else:
            return


def remains(libvirtd: Libvirtd) -> list[str]:
    """Return what there is of any machine: processes, taps, and what libvirt keeps of it."""
    processes = libvirtd.run("sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null || :").split()
    links = libvirtd.run("ip", "-o", "link").splitlines()
    kept = ("*.xml", "*.fd", "*.save", "*tpm*", "*.log", "*.serial", "*.vnc")
    return [
        *(name for name in processes if name.startswith(("qemu-system", "swtpm"))),
        *(link for link in links if "master kwtest0" in link),
        *(
            str(file)
            for place in ("lib", "etc", "consoles")
            for pattern in kept
            for file in (libvirtd.directory / place).rglob(pattern)
            if file.is_file()
        ),
    ]


@breaks(
    What.PROCESS,
    "libvirtd killed at a random moment of define, start, stop, undefine, ten times over",
    expected="a repeat does the rest; nothing is left of a machine that is undefined",
    where=Where.NAMESPACE,
    long=True,
)
async def test_libvirtd_may_die_at_any_moment(rig: Rig, libvirtd: Libvirtd) -> None:
    """Machines have a TPM and firmware with variables: there is more to be left behind."""
    compute = rig.compute
    for _ in range(10):
        spec = msgspec.structs.replace(await rig.spec(), os=OsFamily.WINDOWS)
        domain_id = spec.domain_id
        for act, lasts_s in (
            (partial(compute.ensure_domain, spec), 0.05),
            (partial(compute.ensure_power, domain_id, Power.PAUSED), 1.0),
            (partial(compute.ensure_power, domain_id, Power.STOPPED), 0.2),
            (partial(compute.ensure_power, domain_id, Power.PAUSED), 1.0),
            (partial(compute.ensure_domain_absent, domain_id), 0.4),
        ):
            async with asyncio.TaskGroup() as calls:
                calls.create_task(settled(act()))
                await asyncio.sleep(random.uniform(0, lasts_s))
                libvirtd.kill()
            libvirtd.start()
            await persist(act)
        await until(lambda: remains(libvirtd) == [], "nothing is left")


@breaks(
    What.PROCESS,
    "libvirtd killed between the first word of a start and QEMU",
    expected="libvirt keeps the machine as starting for ever; stopping it says what to do",
    where=Where.NAMESPACE,
    long=True,
)
async def test_what_libvirt_never_lets_go_of_is_told(rig: Rig, libvirtd: Libvirtd) -> None:
    domain_id = await paused_domain(rig)
    libvirtd.kill()
    libvirtd.signal_qemu(domain_id, "KILL")
    status = libvirtd.directory / "run" / "qemu" / f"{domain_id}.xml"
    told = re.sub("<domstatus [^>]*>", HALF_STARTED, status.read_text())
    job = "<job type='none' async='start' flags='0x1' asyncStarted='1795448400039'/>"
    status.write_text(told.replace("<blockjobs ", f"{job}<blockjobs "))
    libvirtd.start_as_it_is()
    await list_once_back(rig)
    with pytest.raises(DriverError, match="restart libvirtd"):
        await rig.compute.ensure_power(domain_id, Power.STOPPED)
    libvirtd.kill()
    libvirtd.start()
    await persist(partial(rig.compute.ensure_power, domain_id, Power.PAUSED))
