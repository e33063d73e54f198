"""What every ComputeDriver does."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from appliance.core.errors import Busy, Conflict, InsufficientResource, Invalid, NotFound
from appliance.model.compute import (
    Architecture,
    Change,
    ConsoleKind,
    DomainEvent,
    DomainSpec,
    Firmware,
    InterfaceSpec,
    ObservedDomain,
)
from appliance.model.domain_state import STATE_REASONS, DomainReason, DomainState, Power
from tests.contract.drivers.rig import BRIDGE, MIB, Rig, some_id

STATE_OF = {
    Power.RUNNING: DomainState.RUNNING,
    Power.STOPPED: DomainState.SHUTOFF,
    Power.PAUSED: DomainState.PAUSED,
}
EVERY_POWER = list(Power)


async def define(rig: Rig, power: Power = Power.STOPPED) -> DomainSpec:
    spec = await rig.spec()
    await rig.compute.ensure_domain(spec)
    await rig.compute.ensure_power(spec.domain_id, power)
    return spec


def changed(spec: DomainSpec, **fields: object) -> DomainSpec:
    """Return the next generation of `spec`."""
    return msgspec.structs.replace(spec, generation=spec.generation + 1, **fields)


async def state_of(rig: Rig, domain_id: str) -> DomainState:
    return (await rig.compute.get_domain(domain_id)).state


async def until(rig: Rig, holds: Callable[[], Awaitable[bool]]) -> None:
    """Let time pass until it is so."""
    for _ in range(100):
        if await holds():
            return
        await rig.pass_time(1)
    raise AssertionError("it never came true")


async def domains(rig: Rig) -> list[ObservedDomain]:
    return await rig.compute.list_domains()


class TestDefinition:
    async def test_starts_nothing(self, rig: Rig) -> None:
        spec = await rig.spec()
        applied = await rig.compute.ensure_domain(spec)
        assert applied.change is Change.DEFINED
        assert applied.observed.state is DomainState.SHUTOFF
        assert applied.observed.generation == spec.generation
        assert applied.observed.running_generation is None
        assert await domains(rig) == [applied.observed]

    @pytest.mark.parametrize("power", EVERY_POWER)
    async def test_ensured_twice_changes_nothing(self, rig: Rig, power: Power) -> None:
        spec = await define(rig, power)
        before = await domains(rig)
        assert (await rig.compute.ensure_domain(spec)).change is Change.NONE
        assert await domains(rig) == before

    async def test_of_a_stopped_domain_is_used_by_the_next_start(self, rig: Rig) -> None:
        spec = await define(rig)
        bigger = changed(spec, vcpus=4, memory_bytes=256 * MIB)
        assert (await rig.compute.ensure_domain(bigger)).change is Change.DEFINED
        observed = await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
        assert observed.generation == observed.running_generation == bigger.generation

    async def test_renames_live(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        renamed = changed(spec, name="another name", description="and why")
        applied = await rig.compute.ensure_domain(renamed)
        assert applied.change is Change.LIVE
        assert applied.observed.name == "another name"
        assert applied.observed.running_generation == renamed.generation

    async def test_grows_live_or_says_that_it_waits_for_a_restart(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        applied = await rig.compute.ensure_domain(changed(spec, vcpus=spec.vcpus + 1))
        assert applied.change is (Change.LIVE if rig.grows_live else Change.RESTART)
        assert applied.observed.state is DomainState.RUNNING

    @pytest.mark.parametrize(
        ("field", "value"), [("vcpus", 1), ("memory_bytes", 64 * MIB)], ids=["vcpus", "memory"]
    )
    async def test_that_shrinks_waits_for_a_restart(self, rig: Rig, field: str, value: int) -> None:
        spec = await define(rig, Power.RUNNING)
        smaller = changed(spec, **{field: value})
        for _ in range(2):
            applied = await rig.compute.ensure_domain(smaller)
            assert applied.change is Change.RESTART
            assert applied.restart_for == (field,)
            assert applied.observed.generation == smaller.generation
            assert applied.observed.running_generation == spec.generation

        await rig.compute.ensure_power(spec.domain_id, Power.STOPPED)
        restarted = await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
        assert restarted.running_generation == smaller.generation
        assert (await rig.compute.ensure_domain(smaller)).change is Change.NONE

    async def test_of_another_processor_waits_quietly_for_the_next_start(self, rig: Rig) -> None:
        model = (await rig.compute.get_host()).cpu_models[0]
        spec = await define(rig, Power.RUNNING)
        other = msgspec.structs.replace(spec, cpu_model=model)
        for change in (Change.DEFINED, Change.NONE):
            applied = await rig.compute.ensure_domain(other)
            assert applied.change is change
            assert applied.restart_for == ()
            assert applied.observed.generation == applied.observed.running_generation
        # What can change live still does, and asks for no restart.
        applied = await rig.compute.ensure_domain(changed(other, description="new"))
        assert applied.change is Change.LIVE
        assert applied.observed.running_generation == applied.observed.generation
        await rig.compute.ensure_power(spec.domain_id, Power.STOPPED)
        await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
        assert (await rig.compute.ensure_domain(changed(other, description="new"))).change is (
            Change.NONE
        )

    async def test_of_a_processor_that_the_host_cannot_give_is_refused(self, rig: Rig) -> None:
        spec = msgspec.structs.replace(await rig.spec(), cpu_model="no-such-model")
        with pytest.raises(Invalid) as refused:
            await rig.compute.ensure_domain(spec)
        assert refused.value.context["field"] == "cpu_model"
        assert "x86-64-v2" in (refused.value.hint or "")
        assert await domains(rig) == []

    async def test_of_an_aarch64_domain_with_a_bios_is_refused(self, rig: Rig) -> None:
        spec = msgspec.structs.replace(
            await rig.spec(), architecture=Architecture.AARCH64, firmware=Firmware.BIOS
        )
        with pytest.raises(Invalid, match="BIOS"):
            await rig.compute.ensure_domain(spec)

    async def test_taken_back_before_the_restart_waits_for_nothing(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        await rig.compute.ensure_domain(changed(spec, vcpus=1))
        back = msgspec.structs.replace(spec, generation=3)
        applied = await rig.compute.ensure_domain(back)
        assert applied.restart_for == ()
        assert applied.observed.running_generation == 3

    async def test_may_go_back_to_an_older_generation(self, rig: Rig) -> None:
        spec = await define(rig)
        await rig.compute.ensure_domain(changed(spec, vcpus=4))
        applied = await rig.compute.ensure_domain(spec)
        assert applied.observed.generation == spec.generation

    async def test_plugs_and_unplugs_disks_live(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        extra = await rig.volume()
        more = changed(spec, disks=(*spec.disks, rig.disk(extra)))
        assert (await rig.compute.ensure_domain(more)).change is Change.LIVE
        with pytest.raises(Busy):
            await rig.storage.ensure_image_absent(rig.storage_pool, extra)

        fewer = changed(more, disks=spec.disks)
        assert (await rig.compute.ensure_domain(fewer)).change is Change.LIVE
        await rig.storage.ensure_image_absent(rig.storage_pool, extra)

    async def test_that_swaps_the_boot_disk_waits_for_a_restart(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        other = changed(spec, disks=(rig.disk(await rig.volume()), *spec.disks))
        applied = await rig.compute.ensure_domain(other)
        assert applied.change is Change.RESTART
        assert applied.restart_for == ("disks",)

    @pytest.mark.parametrize("order", [(0, 2, 1), (0, 3, 1, 2)], ids=["swapped", "inserted"])
    async def test_that_moves_a_disk_waits_for_a_restart(
        self, rig: Rig, order: tuple[int, ...]
    ) -> None:
        disks = [rig.disk(await rig.volume()) for _ in range(4)]
        spec = msgspec.structs.replace(await rig.spec(), disks=tuple(disks[:3]))
        await rig.compute.ensure_domain(spec)
        await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
        moved = changed(spec, disks=tuple(disks[position] for position in order))
        applied = await rig.compute.ensure_domain(moved)
        assert applied.restart_for == ("disks",)

    async def test_plugs_and_unplugs_interfaces_live(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        extra = InterfaceSpec(mac="da:1e:70:ff:ff:ff", bridge=BRIDGE.name)
        more = changed(spec, interfaces=(*spec.interfaces, extra))
        assert (await rig.compute.ensure_domain(more)).change is Change.LIVE
        fewer = changed(more, interfaces=())
        assert (await rig.compute.ensure_domain(fewer)).change is Change.LIVE
        await rig.host_network.ensure_bridge_absent(BRIDGE.name)

    async def test_with_an_image_that_is_not_there_is_refused(self, rig: Rig) -> None:
        spec = await rig.spec()
        for broken in (
            msgspec.structs.replace(spec, disks=(*spec.disks, rig.disk(some_id()))),
            msgspec.structs.replace(spec, seed=rig.disk(some_id())),
        ):
            with pytest.raises(Invalid) as refused:
                await rig.compute.ensure_domain(broken)
            assert refused.value.context["field"] == "disks"
        assert await domains(rig) == []

    async def test_with_a_bridge_that_is_not_there_is_refused(self, rig: Rig) -> None:
        spec = await rig.spec()
        await rig.host_network.ensure_bridge_absent(BRIDGE.name)
        with pytest.raises(Invalid) as refused:
            await rig.compute.ensure_domain(spec)
        assert refused.value.context["field"] == "interfaces"
        assert await domains(rig) == []

    @pytest.mark.parametrize("field", ["disks", "interfaces"])
    async def test_with_the_same_part_twice_is_refused(self, rig: Rig, field: str) -> None:
        spec = await rig.spec()
        twice = msgspec.structs.replace(spec, **{field: getattr(spec, field) * 2})
        with pytest.raises(Invalid) as refused:
            await rig.compute.ensure_domain(twice)
        assert refused.value.context["field"] == field
        assert await domains(rig) == []

    async def test_larger_than_the_host_is_refused(self, rig: Rig) -> None:
        host = await rig.compute.get_host()
        spec = await define(rig)
        with pytest.raises(InsufficientResource):
            await rig.compute.ensure_domain(changed(spec, memory_bytes=host.memory_bytes + 1))
        assert (await rig.compute.get_domain(spec.domain_id)).generation == spec.generation

    async def test_of_a_foreign_architecture_is_refused(self, rig: Rig) -> None:
        spec = await rig.spec()
        foreign = next(other for other in Architecture if other is not rig.architecture)
        with pytest.raises((InsufficientResource, Conflict)):
            await rig.compute.ensure_domain(msgspec.structs.replace(spec, architecture=foreign))
        assert await domains(rig) == []


class TestPower:
    @pytest.mark.parametrize("before", EVERY_POWER)
    @pytest.mark.parametrize("after", EVERY_POWER)
    async def test_leads_from_everywhere_to_everywhere(
        self, rig: Rig, before: Power, after: Power
    ) -> None:
        spec = await define(rig, before)
        assert await state_of(rig, spec.domain_id) is STATE_OF[before]
        for _ in range(2):
            observed = await rig.compute.ensure_power(spec.domain_id, after)
            assert observed.state is STATE_OF[after]
            assert await rig.compute.get_domain(spec.domain_id) == observed
            assert (observed.running_generation is None) is (after is Power.STOPPED)

    async def test_tells_how_it_came_about(self, rig: Rig) -> None:
        spec = await rig.spec()
        await rig.compute.ensure_domain(spec)
        for power, reason in (
            (Power.RUNNING, DomainReason.BOOTED),
            (Power.PAUSED, DomainReason.USER),
            (Power.RUNNING, DomainReason.UNPAUSED),
            (Power.STOPPED, DomainReason.DESTROYED),
        ):
            observed = await rig.compute.ensure_power(spec.domain_id, power)
            assert observed.reason is reason

    async def test_off_with_grace_lets_the_guest_shut_down(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        observed = await rig.compute.ensure_power(spec.domain_id, Power.STOPPED, grace_s=60)
        assert observed.state is DomainState.SHUTOFF
        assert observed.reason is DomainReason.SHUTDOWN

    async def test_off_with_grace_ends_hard_when_the_guest_does_not_react(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        await rig.deafen_guest(spec.domain_id)
        stopping = asyncio.create_task(
            rig.compute.ensure_power(spec.domain_id, Power.STOPPED, grace_s=15)
        )
        await rig.pass_time(1)
        assert await state_of(rig, spec.domain_id) is DomainState.RUNNING
        await rig.pass_time(15)
        observed = await stopping
        assert observed.state is DomainState.SHUTOFF
        assert observed.reason is DomainReason.DESTROYED

    async def test_off_with_grace_does_not_wait_for_a_paused_guest(self, rig: Rig) -> None:
        spec = await define(rig, Power.PAUSED)
        observed = await rig.compute.ensure_power(spec.domain_id, Power.STOPPED, grace_s=60)
        assert observed.state is DomainState.SHUTOFF

    async def test_of_an_unknown_domain_is_not_found(self, rig: Rig) -> None:
        unknown = some_id()
        for power in Power:
            with pytest.raises(NotFound):
                await rig.compute.ensure_power(unknown, power)
        for call in (rig.compute.request_shutdown, rig.compute.reboot, rig.compute.reset):
            with pytest.raises(NotFound):
                await call(unknown)
        with pytest.raises(NotFound):
            await rig.compute.get_domain(unknown)

    async def test_on_is_refused_once_an_image_is_gone(self, rig: Rig) -> None:
        spec = await define(rig)
        await rig.storage.ensure_image_absent(rig.storage_pool, spec.disks[0].image_id)
        with pytest.raises(Invalid):
            await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
        assert await state_of(rig, spec.domain_id) is DomainState.SHUTOFF

    async def test_on_is_refused_while_another_domain_has_the_disk(self, rig: Rig) -> None:
        first = await define(rig, Power.RUNNING)
        second = msgspec.structs.replace(await rig.spec(), disks=first.disks)
        await rig.compute.ensure_domain(second)
        with pytest.raises(Conflict):
            await rig.compute.ensure_power(second.domain_id, Power.RUNNING)
        assert await state_of(rig, second.domain_id) is DomainState.SHUTOFF

        await rig.compute.ensure_power(first.domain_id, Power.STOPPED)
        await rig.compute.ensure_power(second.domain_id, Power.RUNNING)


class TestRequests:
    async def test_shutdown_stops_a_guest_that_reacts(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        await rig.compute.request_shutdown(spec.domain_id)

        async def is_off() -> bool:
            return await state_of(rig, spec.domain_id) is DomainState.SHUTOFF

        await until(rig, is_off)
        observed = await rig.compute.get_domain(spec.domain_id)
        assert (observed.state, observed.reason) == (DomainState.SHUTOFF, DomainReason.SHUTDOWN)

    async def test_shutdown_waits_for_nobody(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        await rig.deafen_guest(spec.domain_id)
        await rig.compute.request_shutdown(spec.domain_id)
        assert await state_of(rig, spec.domain_id) is DomainState.RUNNING

    async def test_shutdown_of_a_stopped_domain_has_no_effect(self, rig: Rig) -> None:
        spec = await define(rig)
        before = await rig.compute.get_domain(spec.domain_id)
        assert await rig.compute.request_shutdown(spec.domain_id) == before

    async def test_reboot_and_reset_keep_it_running(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        assert (await rig.compute.reboot(spec.domain_id)).state is DomainState.RUNNING
        assert (await rig.compute.reset(spec.domain_id)).state is DomainState.RUNNING

    async def test_reboot_and_reset_of_a_stopped_domain_are_refused(self, rig: Rig) -> None:
        spec = await define(rig)
        with pytest.raises(Conflict):
            await rig.compute.reboot(spec.domain_id)
        with pytest.raises(Conflict):
            await rig.compute.reset(spec.domain_id)
        assert await state_of(rig, spec.domain_id) is DomainState.SHUTOFF

    async def test_reboot_of_a_paused_domain_is_refused(self, rig: Rig) -> None:
        spec = await define(rig, Power.PAUSED)
        with pytest.raises(Conflict):
            await rig.compute.reboot(spec.domain_id)


class TestAbsence:
    async def test_of_what_was_never_there_is_fine(self, rig: Rig) -> None:
        await rig.compute.ensure_domain_absent(some_id())

    @pytest.mark.parametrize("power", EVERY_POWER)
    async def test_stops_it_and_lets_go_of_its_images(self, rig: Rig, power: Power) -> None:
        spec = await define(rig, power)
        for _ in range(2):
            await rig.compute.ensure_domain_absent(spec.domain_id)
            assert await domains(rig) == []
        image_id = spec.disks[0].image_id
        await rig.storage.get_image(rig.storage_pool, image_id)
        await rig.storage.ensure_image_absent(rig.storage_pool, image_id)


class TestDiskOfARunningDomain:
    @pytest.mark.parametrize("power", [Power.RUNNING, Power.PAUSED])
    async def test_is_not_deleted(self, rig: Rig, power: Power) -> None:
        spec = await define(rig, power)
        image_id = spec.disks[0].image_id
        with pytest.raises(Busy):
            await rig.storage.ensure_image_absent(rig.storage_pool, image_id)
        await rig.compute.ensure_power(spec.domain_id, Power.STOPPED)
        await rig.storage.ensure_image_absent(rig.storage_pool, image_id)

    async def test_grows_through_the_domain(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        image_id = spec.disks[0].image_id
        for _ in range(2):
            await rig.compute.grow_disk(spec.domain_id, image_id, 32 * MIB)
            image = await rig.storage.get_image(rig.storage_pool, image_id)
            assert image.size_bytes == 32 * MIB

    async def test_grows_in_its_pool_where_the_pool_can(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        image_id = spec.disks[0].image_id
        if rig.grows_open_images:
            assert (await rig.ensure(image_id, 32 * MIB)).size_bytes == 32 * MIB
        else:
            with pytest.raises(Busy):
                await rig.ensure(image_id, 32 * MIB)

    async def test_is_ensured_at_its_size_while_open(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        image_id = spec.disks[0].image_id
        size_bytes = (await rig.storage.get_image(rig.storage_pool, image_id)).size_bytes
        assert (await rig.ensure(image_id, size_bytes)).size_bytes == size_bytes

    async def test_never_shrinks(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        image_id = spec.disks[0].image_id
        with pytest.raises(Conflict):
            await rig.compute.grow_disk(spec.domain_id, image_id, 1 * MIB)

    async def test_must_be_one_of_its_own(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        with pytest.raises(NotFound):
            await rig.compute.grow_disk(spec.domain_id, await rig.volume(), 32 * MIB)
        with pytest.raises(NotFound):
            await rig.compute.grow_disk(some_id(), spec.disks[0].image_id, 32 * MIB)

    async def test_grows_in_its_pool_once_the_domain_is_off(self, rig: Rig) -> None:
        spec = await define(rig)
        image_id = spec.disks[0].image_id
        with pytest.raises(Conflict):
            await rig.compute.grow_disk(spec.domain_id, image_id, 32 * MIB)
        assert (await rig.ensure(image_id, 32 * MIB)).size_bytes == 32 * MIB


class TestWithoutBeingAsked:
    async def test_a_killed_domain_is_off_and_can_be_started_again(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        await rig.kill_domain(spec.domain_id)
        (observed,) = await domains(rig)
        assert observed.state is DomainState.SHUTOFF
        assert observed.reason in (DomainReason.CRASHED, DomainReason.FAILED)
        assert observed.running_generation is None
        started = await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
        assert started.state is DomainState.RUNNING

    async def test_a_guest_that_shuts_itself_down_tells_so(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        await rig.shut_guest_down(spec.domain_id)
        observed = await rig.compute.get_domain(spec.domain_id)
        assert (observed.state, observed.reason) == (DomainState.SHUTOFF, DomainReason.SHUTDOWN)

    async def test_every_change_of_state_is_an_event(self, rig: Rig) -> None:
        events: list[DomainEvent] = []
        rig.compute.on_event(events.append)
        spec = await define(rig, Power.RUNNING)
        await rig.compute.ensure_power(spec.domain_id, Power.PAUSED)
        await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
        await rig.shut_guest_down(spec.domain_id)
        await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
        await rig.kill_domain(spec.domain_id)
        expected = [
            DomainState.RUNNING,
            DomainState.PAUSED,
            DomainState.RUNNING,
            DomainState.SHUTOFF,
            DomainState.RUNNING,
            DomainState.SHUTOFF,
        ]

        async def all_came() -> bool:
            return len(events) >= len(expected)

        await until(rig, all_came)
        assert [event.state for event in events if event.domain_id == spec.domain_id] == expected
        for event in events:
            assert event.reason in STATE_REASONS[event.state]

    @pytest.mark.parametrize("power", EVERY_POWER)
    async def test_domains_outlast_the_agent(self, rig: Rig, power: Power) -> None:
        spec = await define(rig, power)
        before = await domains(rig)
        reopened = await rig.reopen_compute()
        assert await reopened.list_domains() == before
        assert (await reopened.ensure_domain(spec)).change is Change.NONE
        observed = await reopened.ensure_power(spec.domain_id, Power.RUNNING)
        assert observed.state is DomainState.RUNNING


async def test_host_tells_what_it_has(rig: Rig) -> None:
    host = await rig.compute.get_host()
    assert host.architecture is rig.architecture
    assert 1 <= host.cpu_sockets <= host.cpu_cores <= host.cpu_threads
    assert host.memory_bytes > 128 * MIB
    assert host.cpu_vendor
    assert host.cpu_model
    assert host.hypervisor


async def test_domains_are_listed_by_id(rig: Rig) -> None:
    made = [(await define(rig, power)).domain_id for power in Power]
    listed = await domains(rig)
    assert [domain.domain_id for domain in listed] == sorted(made)
    for domain in listed:
        assert domain.reason in STATE_REASONS[domain.state]


async def test_statistics_are_those_of_active_domains(rig: Rig) -> None:
    made = {power: await define(rig, power) for power in Power}
    await rig.pass_time(1)
    counted = {counters.domain_id: counters for counters in await rig.compute.list_statistics()}
    assert set(counted) == {made[Power.RUNNING].domain_id, made[Power.PAUSED].domain_id}
    running = counted[made[Power.RUNNING].domain_id]
    assert running.cpu_time_ns > 0
    assert running.memory_bytes > 0


class TestConsole:
    async def test_a_screen_speaks_rfb(self, rig: Rig) -> None:
        spec = await define(rig, Power.RUNNING)
        reader, writer = await rig.compute.open_console(spec.domain_id, ConsoleKind.VNC)
        assert (await reader.readexactly(12)).startswith(b"RFB 003.")
        writer.close()
        await writer.wait_closed()

    @pytest.mark.parametrize("kind", list(ConsoleKind))
    async def test_ends_with_what_runs(self, rig: Rig, kind: ConsoleKind) -> None:
        spec = await define(rig, Power.RUNNING)
        reader, writer = await rig.compute.open_console(spec.domain_id, kind)
        await rig.compute.ensure_power(spec.domain_id, Power.STOPPED)
        await reader.read()  # to the end
        writer.close()

    @pytest.mark.parametrize("kind", list(ConsoleKind))
    async def test_opens_again_after_it_was_closed(self, rig: Rig, kind: ConsoleKind) -> None:
        spec = await define(rig, Power.RUNNING)
        for _ in range(2):
            _, writer = await rig.compute.open_console(spec.domain_id, kind)
            writer.close()
            await writer.wait_closed()

    @pytest.mark.parametrize("kind", list(ConsoleKind))
    async def test_needs_what_runs(self, rig: Rig, kind: ConsoleKind) -> None:
        spec = await define(rig)
        with pytest.raises(Conflict, match=spec.domain_id):
            await rig.compute.open_console(spec.domain_id, kind)
        with pytest.raises(NotFound):
            await rig.compute.open_console(some_id(), kind)


class TestFlaws:
    async def test_are_none_of_a_domain_from_its_definition_to_its_end(self, rig: Rig) -> None:
        spec = await define(rig)
        assert await rig.compute.list_flaws() == []
        await rig.compute.ensure_domain_absent(spec.domain_id)
        assert await rig.compute.list_flaws() == []
