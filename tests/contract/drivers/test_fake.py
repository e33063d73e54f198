"""What only the fakes have: faults, a world that lasts, one pool for many nodes, and their word."""

import asyncio
from pathlib import Path

import pytest

from appliance.core.errors import Conflict, DriverError, InsufficientResource, NotFound, Unavailable
from appliance.drivers.fake.compute import HostSize
from appliance.drivers.fake.node import NodeTraits, SimulatedNode
from appliance.drivers.fake.storage import Internet, RemoteFile
from appliance.drivers.fake.world import World
from appliance.model.compute import ConsoleKind
from appliance.model.domain_state import DomainState, Power
from appliance.model.storage import (
    ImportProgress,
    LocalPool,
    RbdPool,
    StoragePoolRef,
    TemplateSource,
    VolumeSpec,
)
from tests.contract.drivers.conftest import fake_rig
from tests.contract.drivers.rig import MIB, ignore, some_id
from tests.support.clock import ManualClock, settle

LOCAL = LocalPool(directory="/pool")
RBD = RbdPool(pool="rbd", monitor_address="192.0.2.1", monitor_port=3300)


def node(world: World, node_id: str = "a" * 24, **traits: object) -> SimulatedNode:
    chosen = NodeTraits(**{"latency_s": 0, **traits})  # type: ignore[arg-type] # a test's own
    return SimulatedNode(node_id, world, clock=ManualClock(), traits=chosen)


def volume(image_id: str) -> VolumeSpec:
    return VolumeSpec(image_id=image_id, size_bytes=MIB)


async def image_ids(some_node: SimulatedNode, storage_pool: StoragePoolRef) -> list[str]:
    return [image.image_id for image in await some_node.storage.list_images(storage_pool)]


class TestFaults:
    async def test_fail_the_next_calls_of_a_method_before_their_effect(self) -> None:
        with World() as world:
            troubled = node(world)
            troubled.faults.fail(method="storage.ensure_image", times=2)
            await troubled.storage.get_pool_statistics(LOCAL)
            for _ in range(2):
                with pytest.raises(DriverError):
                    await troubled.storage.ensure_image(LOCAL, volume(some_id()))
            assert await image_ids(troubled, LOCAL) == []
            await troubled.storage.ensure_image(LOCAL, volume(some_id()))

    async def test_fail_after_the_effect_leave_it_done(self) -> None:
        with World() as world:
            troubled = node(world)
            image_id = some_id()
            troubled.faults.fail(after_effect=True, error=Unavailable)
            with pytest.raises(Unavailable):
                await troubled.storage.ensure_image(LOCAL, volume(image_id))
            assert await image_ids(troubled, LOCAL) == [image_id]

    async def test_fail_until_mended(self) -> None:
        with World() as world:
            troubled = node(world)
            troubled.faults.fail(times=None)
            for _ in range(3):
                with pytest.raises(DriverError):
                    await troubled.compute.get_host()
            troubled.faults.mend()
            await troubled.compute.get_host()

    async def test_reach_every_call(self) -> None:
        """Each driver method passes the faults: here, all that take no more than an id."""
        with World() as world:
            troubled = node(world)
            troubled.faults.fail(times=None)
            for call in (
                troubled.compute.get_host(),
                troubled.compute.list_domains(),
                troubled.compute.list_statistics(),
                troubled.compute.get_domain(some_id()),
                troubled.compute.ensure_domain_absent(some_id()),
                troubled.storage.list_images(LOCAL),
                troubled.storage.ensure_image_absent(LOCAL, some_id()),
                troubled.host_network.list_bridges(),
                troubled.network.get_region_network(),
            ):
                with pytest.raises(DriverError, match="injected"):
                    await call

    async def test_slow_stretches_every_wait(self) -> None:
        clock = ManualClock()
        with World() as world:
            slow = SimulatedNode("a" * 24, world, clock=clock, traits=NodeTraits(latency_s=0.1))
            slow.faults.slow(10)
            done: list[str] = []

            async def call() -> None:
                await slow.compute.get_host()
                done.append("done")

            work = call()
            async with asyncio.TaskGroup() as group:
                group.create_task(work)
                await clock.advance(0.9)
                assert done == []
                await clock.advance(0.1)
                assert done == ["done"]

    async def test_cut_is_told_to_whoever_plays_the_agent(self) -> None:
        with World() as world:
            troubled = node(world)
            seen: list[str] = []

            async def play() -> None:
                await troubled.faults.wait_until_cut()
                seen.append("cut")
                await troubled.faults.wait_until_mended()
                seen.append("mended")

            async with asyncio.TaskGroup() as group:
                group.create_task(play())
                await settle()
                assert seen == []
                troubled.faults.cut()
                await settle()
                assert (seen, troubled.faults.is_cut) == (["cut"], True)
                await troubled.compute.get_host()  # the node itself goes on
                troubled.faults.mend()
            assert (seen, troubled.faults.is_cut) == (["cut", "mended"], False)


class TestWorld:
    async def test_outlasts_the_process_in_its_file(self, tmp_path: Path) -> None:
        with World(tmp_path / "world.db") as world:
            rig = fake_rig(world, "a" * 24, LOCAL)
            spec = await rig.spec()
            await rig.compute.ensure_domain(spec)
            await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
        with World(tmp_path / "world.db") as world:
            rig = fake_rig(world, "a" * 24, LOCAL)
            assert (await rig.compute.get_domain(spec.domain_id)).state is DomainState.RUNNING
            with pytest.raises(Conflict):
                await rig.storage.ensure_image_absent(LOCAL, spec.disks[0].image_id)

    async def test_changes_at_once_or_not_at_all(self) -> None:
        with World() as world:

            def put(image_id: str, *, fails: bool) -> None:
                with world.at_once():
                    world.put("here", "volume", image_id, volume(image_id))
                    if fails:
                        raise ZeroDivisionError

            put("1" * 24, fails=False)
            with pytest.raises(ZeroDivisionError):
                put("2" * 24, fails=True)
            assert world.list_things("here", "volume", VolumeSpec) == [volume("1" * 24)]

    async def test_keeps_the_nodes_apart(self) -> None:
        with World() as world:
            first = fake_rig(world, "a" * 24, LOCAL)
            spec = await first.spec()
            await first.compute.ensure_domain(spec)
            second = node(world, "b" * 24)
            assert await second.compute.list_domains() == []
            assert await image_ids(second, LOCAL) == []
            assert (await second.host_network.list_bridges()).bridges == ()

    async def test_joins_the_nodes_of_one_rbd_pool(self) -> None:
        with World() as world:
            first, second = fake_rig(world, "a" * 24, RBD), fake_rig(world, "b" * 24, RBD)
            spec = await first.spec()
            await first.compute.ensure_domain(spec)
            await first.compute.ensure_power(spec.domain_id, Power.RUNNING)

            await second.spec()  # makes the bridge
            await second.compute.ensure_domain(spec)
            with pytest.raises(Conflict):
                await second.compute.ensure_power(spec.domain_id, Power.RUNNING)
            await first.compute.ensure_power(spec.domain_id, Power.STOPPED)
            await second.compute.ensure_power(spec.domain_id, Power.RUNNING)


class TestHonesty:
    async def test_a_simulated_host_says_so(self) -> None:
        with World() as world:
            host = await node(world).compute.get_host()
        assert host.simulated
        assert (host.cpu_vendor, host.cpu_model) == ("Simulated", "Simulated")
        assert "Simulated" in host.hypervisor

    async def test_a_host_has_the_size_it_was_given(self) -> None:
        with World() as world:
            host = await node(
                world, host=HostSize(cpu_threads=8, memory_bytes=MIB)
            ).compute.get_host()
        assert (host.cpu_threads, host.memory_bytes) == (8, MIB)

    async def test_a_template_that_does_not_fit_is_refused(self) -> None:
        with World() as world:
            small = node(
                world,
                pool_capacity_bytes=3 * MIB,
                internet=Internet(default=RemoteFile(2 * MIB)),
            )

            def source(template_id: str) -> TemplateSource:
                return TemplateSource(template_id=template_id, url="https://images.example/a")

            first = some_id()
            await small.storage.import_template(LOCAL, source(first), ignore)
            with pytest.raises(InsufficientResource):
                await small.storage.import_template(LOCAL, source(some_id()), ignore)
            assert await image_ids(small, LOCAL) == [first]

    async def test_a_download_takes_its_time(self) -> None:
        clock = ManualClock()
        internet = Internet(default=RemoteFile(100), bytes_per_s=10)
        traits = NodeTraits(internet=internet, latency_s=0)
        told: list[ImportProgress] = []
        with World() as world:
            storage = SimulatedNode("a" * 24, world, clock=clock, traits=traits).storage
            source = TemplateSource(template_id=some_id(), url="https://images.example/a")
            async with asyncio.TaskGroup() as group:
                group.create_task(storage.import_template(LOCAL, source, told.append))
                await clock.advance(5)
                assert told[-1].done_bytes == 50
                assert await storage.list_images(LOCAL) == []
                await clock.advance(5)
            assert len(await storage.list_images(LOCAL)) == 1


async def test_a_power_cycle_stops_all_and_tells_nobody() -> None:
    with World() as world:
        machine = node(world)
        rig = fake_rig(world, "a" * 24, LOCAL)
        spec = await rig.spec()
        await machine.compute.ensure_domain(spec)
        await machine.compute.ensure_power(spec.domain_id, Power.RUNNING)
        events: list[DomainState] = []
        machine.compute.on_event(lambda event: events.append(event.state))
        machine.compute.power_cycle_host()
        assert events == []
        (domain,) = await machine.compute.list_domains()
        assert domain.state is DomainState.SHUTOFF
        await machine.compute.ensure_power(spec.domain_id, Power.RUNNING)
        assert events == [DomainState.RUNNING]


async def test_what_does_not_exist_cannot_crash() -> None:
    with World() as world, pytest.raises(NotFound):
        node(world).compute.crash_domain(some_id())


# --- consoles


async def running(world: World) -> tuple[SimulatedNode, str]:
    rig = fake_rig(world, "a" * 24, LOCAL)
    spec = await rig.spec()
    await rig.compute.ensure_domain(spec)
    await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
    return node(world), spec.domain_id


async def test_a_simulated_serial_line_says_so_and_echoes() -> None:
    with World() as world:
        host, domain_id = await running(world)
        reader, writer = await host.compute.open_console(domain_id, ConsoleKind.SERIAL)
        assert b"Simulated" in await reader.readline()
        writer.write(b"anybody?")
        await writer.drain()
        assert await reader.readexactly(8) == b"anybody?"
        writer.close()
        assert await reader.read() == b""


@pytest.mark.parametrize(
    ("version", "no_security"), [(b"RFB 003.008\n", bytes(1)), (b"RFB 003.003\n", bytes(4))]
)
async def test_a_simulated_screen_is_refused_with_the_reason(
    version: bytes, no_security: bytes
) -> None:
    with World() as world:
        host, domain_id = await running(world)
        reader, writer = await host.compute.open_console(domain_id, ConsoleKind.VNC)
        assert await reader.readexactly(12) == b"RFB 003.008\n"
        writer.write(version[:5])
        writer.write(version[5:])
        assert await reader.readexactly(len(no_security)) == no_security
        length = int.from_bytes(await reader.readexactly(4), "big")
        assert b"simulated" in await reader.readexactly(length)
        assert await reader.read() == b""
        writer.write(b"more")


async def test_a_simulated_console_holds_up_who_does_not_read() -> None:
    with World() as world:
        host, domain_id = await running(world)
        reader, writer = await host.compute.open_console(domain_id, ConsoleKind.SERIAL)
        await reader.readline()
        sent = 0
        while sent < 64 * MIB:
            sent += 65536
            writer.write(b"x" * 65536)
            draining = asyncio.ensure_future(writer.drain())
            await settle()
            if not draining.done():
                break
        else:
            pytest.fail("the writer is never held up")
        await reader.readexactly(sent)
        await draining
        writer.close()
