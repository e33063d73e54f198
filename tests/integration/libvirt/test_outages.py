"""libvirtd comes and goes; domains and the driver stay."""

import asyncio
from collections.abc import Awaitable, Generator
from contextlib import suppress

import pytest

from appliance.core.errors import KowabungaError, Unavailable
from appliance.model.compute import DomainEvent, ObservedDomain
from appliance.model.domain_state import DomainReason, DomainState, Power
from tests.contract.drivers.rig import Rig
from tests.support.faults import What, Where, breaks
from tests.support.libvirtd import Libvirtd, private_libvirtd
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
