"""A Kaktus says what it lacks, goes on with the rest, and notices when that comes."""

import asyncio

from appliance.core.errors import Unavailable
from appliance.model.compute import Architecture, HostFacts
from appliance.model.node_status import RoleState
from appliance.roles.kaktus import Health, until_installed, watch_libvirt
from tests.support.clock import ManualClock

Told = list[tuple[RoleState, str]]
_HOST = HostFacts(
    architecture=Architecture.X86_64,
    cpu_vendor="v",
    cpu_model="m",
    cpu_sockets=1,
    cpu_cores=1,
    cpu_threads=1,
    memory_bytes=2**30,
    hypervisor="QEMU",
    accelerated=False,
)


def test_a_role_is_running_once_it_is_connected_and_libvirt_is_there() -> None:
    told: Told = []
    health = Health(lambda *state: told.append(state))
    health.well("guests run on KVM")
    assert told == []
    health.connected()
    health.well("guests run on KVM")
    assert told == [(RoleState.RUNNING, "guests run on KVM")]


def test_what_changes_is_told_once_each_way() -> None:
    told: Told = []
    health = Health(lambda *state: told.append(state))
    health.connected()
    for _ in range(3):
        health.troubled("libvirt is away")
    health.well("")
    assert told == [(RoleState.DEGRADED, "libvirt is away"), (RoleState.RUNNING, "")]


async def test_without_libvirts_binding_the_role_says_so_and_waits_for_it() -> None:
    clock = ManualClock()
    told: Told = []
    installed = False
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(
            until_installed(
                clock, lambda *state: told.append(state), is_installed=lambda: installed
            )
        )
        await clock.advance(60)
        assert [state for state, _ in told] == [RoleState.DEGRADED]
        assert "apt-get install python3-libvirt" in told[0][1]
        assert not waiting.done()
        installed = True
        await clock.advance(60)
        await waiting
    assert len(told) == 1


async def test_libvirt_that_goes_and_comes_is_told() -> None:
    clock = ManualClock()
    told: Told = []
    away = True

    async def get_host() -> HostFacts:
        if away:
            raise Unavailable("libvirt is not connected")
        return _HOST

    health = Health(lambda *state: told.append(state))
    health.connected()
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch_libvirt(get_host, health, clock))
        await clock.advance(60)
        away = False
        await clock.advance(60)
        watching.cancel()
    assert told == [
        (RoleState.DEGRADED, "libvirt is not connected"),
        (RoleState.RUNNING, "guests are emulated: slow"),
    ]
