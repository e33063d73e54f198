"""Reconciliation on the real engine, store and dispatchers, before simulated nodes."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.core.errors import DriverError, Unavailable
from appliance.core.ids import new_id
from appliance.drivers.fake.compute import FakeComputeDriver
from appliance.model.compute import (
    Architecture,
    DiskSpec,
    DomainSpec,
    ObservedDomain,
    OsFamily,
)
from appliance.model.domain_state import DomainState
from appliance.model.network import BridgeSpec, ObservedBridge
from appliance.model.storage import RbdPool, VolumeSpec
from appliance.operations.operation import Origin
from appliance.resources.bridge import WantedBridge, compare_bridges
from appliance.resources.instance import INSTANCES
from appliance.resources.instance_work import PowerAction
from appliance.resources.kaktus import KAKTUS_CAPS, KAKTUSES
from appliance.resources.kompute import KOMPUTES
from appliance.rpc.compute import COMPUTE_ENSURE_POWER, COMPUTE_GET_HOST
from appliance.rpc.storage import STORAGE_LIST_IMAGES
from appliance.services.reconcile import CATCH_UP_S, MENDS, PERIOD_S, Mends
from appliance.services.verify import verify_world
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock
from tests.support.cloud import ASKED, GIB, Cloud, cloud_on, open_cloud
from tests.support.leap import LeapingClock, LeapingStore, run_leaping
from tests.support.wait import until

POOL = RbdPool(pool="ssd", monitor_address="ceph.example", monitor_port=3300)


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path, hosts=1) as cloud:
        yield cloud


def driver(cloud: Cloud) -> FakeComputeDriver:
    return cloud.nodes[cloud.agents[0]].node.compute


async def domain(cloud: Cloud) -> ObservedDomain:
    (only,) = await driver(cloud).list_domains()
    return only


async def look(cloud: Cloud) -> int:
    """Look at the node, wait for what that starts, and return how many operations it was."""
    before = {operation.id for operation in await cloud.engine.list()}
    await cloud.compute.reconciler.look(cloud.agents[0])
    # One may be finished already.
    started = [one for one in await cloud.engine.list() if one.id not in before]
    for operation in started:
        assert operation.origin is Origin.RECONCILE
        await cloud.engine.wait(operation.id, 60)
    return len(started)


async def is_clean(cloud: Cloud) -> bool:
    return (await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)).is_clean


async def test_what_is_as_it_should_be_is_left_alone(cloud: Cloud) -> None:
    await cloud.add_kompute("web")
    assert await look(cloud) == 0
    before = await cloud.contents()
    assert await look(cloud) == 0
    assert await cloud.contents() == before


async def test_a_guest_that_shut_itself_down_stays_stopped(cloud: Cloud) -> None:
    await cloud.add_kompute("web")
    driver(cloud).shut_guest_down((await domain(cloud)).domain_id)
    assert await look(cloud) == 0
    assert await cloud.value("SELECT power FROM instance") == "stopped"
    assert await look(cloud) == 0
    assert (await domain(cloud)).state is DomainState.SHUTOFF
    assert await is_clean(cloud)


@pytest.mark.parametrize("accident", ["crash", "power cut"])
async def test_a_crashed_guest_and_one_whose_host_rebooted_is_started(
    cloud: Cloud, accident: str
) -> None:
    await cloud.add_kompute("web")
    if accident == "crash":
        driver(cloud).crash_domain((await domain(cloud)).domain_id)
    else:
        driver(cloud).power_cycle_host()
    assert not await is_clean(cloud)
    assert await look(cloud) == 1
    assert (await domain(cloud)).state is DomainState.RUNNING
    assert await is_clean(cloud)


async def test_a_guest_that_crashes_at_every_start_is_reported_in_the_end(cloud: Cloud) -> None:
    await cloud.add_kompute("web")
    for mended in (*[1] * MENDS, 0):
        driver(cloud).crash_domain((await domain(cloud)).domain_id)
        assert await look(cloud) == mended
    assert [alarm.kind for alarm in await cloud.alarms.list()] == ["mended_in_vain"]


async def test_an_object_is_mended_so_often_in_each_period() -> None:
    clock = ManualClock()
    mends = Mends(clock)
    for _ in range(2):
        for _ in range(MENDS):
            assert not mends.are_too_many("instance/a")
            assert not mends.are_too_many("instance/a"), "to look is no mend"
            mends.count("instance/a")
        assert mends.are_too_many("instance/a")
        assert not mends.are_too_many("instance/b")
        await clock.advance(PERIOD_S)


async def test_what_a_user_asked_for_in_vain_is_tried_again_at_once(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(cloud.compute.reconciler.run())
        for action in (PowerAction.STOP, PowerAction.START):
            begun = await cloud.compute.machines.act(ASKED, KOMPUTES, str(made.id), action)
            if action is PowerAction.STOP:
                await begun.outcome()
                faults = cloud.nodes[cloud.agents[0]].node.faults
                faults.fail(method=COMPUTE_ENSURE_POWER.name, error=DriverError)
        with pytest.raises(Unavailable, match="tried again"):
            await begun.outcome()
        async with asyncio.timeout(60):
            while True:
                if (await domain(cloud)).state is DomainState.RUNNING:
                    break
                await asyncio.sleep(0.01)
        running.cancel()


async def test_a_stopped_machine_stays_so_over_a_power_cut(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    begun = await cloud.compute.machines.act(ASKED, KOMPUTES, str(made.id), PowerAction.STOP)
    await begun.outcome()
    driver(cloud).power_cycle_host()
    assert await look(cloud) == 0
    assert (await domain(cloud)).state is DomainState.SHUTOFF


async def test_a_lost_domain_is_defined_and_started_again(cloud: Cloud) -> None:
    await cloud.add_kompute("web")
    await driver(cloud).ensure_domain_absent((await domain(cloud)).domain_id)
    assert await look(cloud) == 1
    assert (await domain(cloud)).state is DomainState.RUNNING
    assert await is_clean(cloud)


async def test_a_lost_disk_is_reported_and_never_made_anew(cloud: Cloud) -> None:
    volume = await cloud.add_volume("data")
    node = cloud.nodes[cloud.agents[0]].node
    await node.storage.ensure_image_absent(POOL, volume)
    assert await look(cloud) == 0
    assert [alarm.kind for alarm in await cloud.alarms.list()] == ["image_missing"]
    verdict = await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)
    assert [each.target for each in verdict.differences] == [f"volume/{volume}"]


async def test_a_disk_that_is_deleted_meanwhile_is_not_reported(cloud: Cloud) -> None:
    machine = await cloud.add_kompute("web")
    gate = cloud.nodes.hold(STORAGE_LIST_IMAGES.name)
    async with asyncio.TaskGroup() as group:
        group.create_task(cloud.compute.reconciler.look(cloud.agents[0]))
        await until(lambda: gate.waiting == 1)
        await (await cloud.compute.komputes.delete(ASKED, str(machine.id))).outcome()
        gate.open()
    assert await cloud.alarms.list() == []


async def test_a_pool_that_its_node_refuses_is_reported_once_and_its_disks_are_not(
    cloud: Cloud,
) -> None:
    volume = await cloud.add_volume("data")
    node = cloud.nodes[cloud.agents[0]].node
    await node.storage.ensure_image_absent(POOL, volume)
    node.faults.fail(method="storage.list_images", error=Unavailable)
    assert await look(cloud) == 0
    alarms = [(alarm.kind, alarm.target) for alarm in await cloud.alarms.list()]
    assert alarms == [("pool_unusable", f"storage_pool/{cloud.pool}")]


async def test_a_host_that_cannot_be_seen_hides_no_pool(cloud: Cloud) -> None:
    volume = await cloud.add_volume("data")
    node = cloud.nodes[cloud.agents[0]].node
    await node.storage.ensure_image_absent(POOL, volume)
    node.faults.fail(method="compute.list_domains")
    await look(cloud)
    assert [alarm.target for alarm in await cloud.alarms.list()] == [f"volume/{volume}"]


async def test_what_nobody_knows_is_reported_and_never_touched(cloud: Cloud) -> None:
    await cloud.add_instance("web")
    node = cloud.nodes[cloud.agents[0]].node
    stray = new_id()
    await node.storage.ensure_image(POOL, VolumeSpec(image_id=stray, size_bytes=GIB))
    (known,) = await node.compute.list_domains()
    foreign = await _stray_domain(cloud, stray)
    assert await look(cloud) == 0
    alarms = {(alarm.kind, alarm.target) for alarm in await cloud.alarms.list()}
    assert alarms == {
        ("image_unknown", f"image/{stray}"),
        ("domain_unknown", f"instance/{foreign}"),
    }
    assert {each.domain_id for each in await node.compute.list_domains()} == {
        known.domain_id,
        foreign,
    }


async def test_a_rename_reaches_the_definition_in_the_end(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    instance = await cloud.catalog.get(INSTANCES, instance_id)
    instance.name = "www"
    await (await cloud.compute.instances.update(ASKED, instance_id, instance)).outcome()
    assert await look(cloud) == 1
    assert (await domain(cloud)).name == "www"
    assert await is_clean(cloud)


async def test_caps_and_statistics_are_recorded(cloud: Cloud) -> None:
    await look(cloud)
    caps = await cloud.catalog.get_part(KAKTUSES, KAKTUS_CAPS, cloud.hosts[0])
    assert (caps.cpu.vendor, caps.cpu.threads, caps.memory) == ("Simulated", 64, 256 * GIB)
    assert await cloud.value("SELECT capacity_bytes FROM storage_pool") == 10 * 1024**4


async def test_a_user_overrides_reconciliation(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    driver(cloud).power_cycle_host()
    gate = cloud.nodes.hold("compute.ensure_domain")
    await cloud.compute.reconciler.look(cloud.agents[0])
    begun = await cloud.compute.machines.act(ASKED, KOMPUTES, str(made.id), PowerAction.STOP)
    gate.open()
    await begun.outcome()
    assert (await domain(cloud)).state is DomainState.SHUTOFF
    assert await cloud.value("SELECT power FROM instance") == "stopped"


async def test_a_node_that_does_not_answer_is_looked_at_the_next_time(cloud: Cloud) -> None:
    await cloud.add_kompute("web")
    driver(cloud).power_cycle_host()
    cloud.nodes[cloud.agents[0]].connected = False
    assert await look(cloud) == 0
    assert (await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)).unseen
    cloud.nodes[cloud.agents[0]].connected = True
    assert await look(cloud) == 1
    assert await is_clean(cloud)


async def _stray_domain(cloud: Cloud, image_id: str) -> str:
    node = cloud.nodes[cloud.agents[0]].node
    spec = DomainSpec(
        domain_id=new_id(),
        name="stray",
        vcpus=1,
        memory_bytes=GIB,
        os=OsFamily.LINUX,
        architecture=Architecture.X86_64,
        disks=(DiskSpec(storage_pool=POOL, image_id=image_id),),
        generation=1,
    )
    await node.compute.ensure_domain(spec)
    return spec.domain_id


async def bridges(cloud: Cloud) -> list[str]:
    listed = await cloud.nodes[cloud.agents[0]].node.host_network.list_bridges()
    return [bridge.name for bridge in listed.bridges]


async def test_a_bridge_goes_with_the_last_machine_that_needs_it(cloud: Cloud) -> None:
    first, second = await cloud.add_kompute("web"), await cloud.add_kompute("www")
    made = await bridges(cloud)
    assert made
    for kompute, left in ((first, made), (second, [])):
        await (await cloud.compute.komputes.delete(ASKED, str(kompute.id))).outcome()
        await look(cloud)
        assert await bridges(cloud) == left
    assert await look(cloud) == 0


async def test_the_bridge_of_a_stopped_machine_stays(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    begun = await cloud.compute.machines.act(ASKED, KOMPUTES, str(made.id), PowerAction.STOP)
    await begun.outcome()
    before = await bridges(cloud)
    assert await look(cloud) == 0
    assert await bridges(cloud) == before


async def test_a_bridge_that_is_asked_for_meanwhile_stays(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    await (await cloud.compute.komputes.delete(ASKED, str(made.id))).outcome()
    (name,) = await bridges(cloud)
    gate = cloud.nodes.hold("network.ensure_bridge_absent")
    await cloud.compute.reconciler.look(cloud.agents[0])
    await cloud.nodes[cloud.agents[0]].node.host_network.ensure_bridge(
        BridgeSpec(name=name, vlan=0)
    )
    gate.open()
    for operation in await cloud.engine.list():
        await cloud.engine.wait(operation.id, 60)
    assert await bridges(cloud) == [name]


async def test_a_machine_is_started_though_its_bridge_is_gone(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    for action in (PowerAction.STOP, PowerAction.START):
        begun = await cloud.compute.machines.act(ASKED, KOMPUTES, str(made.id), action)
        await begun.outcome()
        for name in await bridges(cloud) if action is PowerAction.STOP else ():
            await cloud.nodes[cloud.agents[0]].node.host_network.ensure_bridge_absent(name)
    assert (await domain(cloud)).state is DomainState.RUNNING


async def seen_vlans(cloud: Cloud) -> list[int]:
    listed = await cloud.nodes[cloud.agents[0]].node.host_network.list_bridges()
    return [bridge.vlan for bridge in listed.bridges]


async def test_a_vnet_that_moves_to_another_vlan_takes_its_bridge_along(cloud: Cloud) -> None:
    await cloud.add_kompute("web")
    await cloud.store.batch([Statement("UPDATE vnet SET vlan = 301")])
    assert await look(cloud) == 1
    assert await seen_vlans(cloud) == [301]
    assert await look(cloud) == 0


def test_a_bridge_that_two_vnets_claim_is_left_as_it_is() -> None:
    seen = [ObservedBridge(name="br1", vlan=101, revision="")]
    assert not any(compare_bridges([WantedBridge("br1", 102, vlans=2)], seen))


async def test_a_lost_bridge_is_made_again(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    begun = await cloud.compute.machines.act(ASKED, KOMPUTES, str(made.id), PowerAction.STOP)
    await begun.outcome()
    before = await bridges(cloud)
    for name in before:
        await cloud.nodes[cloud.agents[0]].node.host_network.ensure_bridge_absent(name)
    assert await look(cloud) == 1
    assert await bridges(cloud) == before


async def test_a_slow_node_that_calls_again_and_again_holds_up_no_other(tmp_path: Path) -> None:
    async with open_cloud(tmp_path, hosts=2) as cloud, asyncio.TaskGroup() as group:
        slow, other = cloud.agents[:2]
        cloud.nodes.methods()
        gate = cloud.nodes.hold(COMPUTE_GET_HOST.name)
        reconciler = cloud.compute.reconciler
        running = group.create_task(reconciler.run())
        for _ in range(8):
            reconciler.agent_connected(slow)
            await until(lambda: gate.waiting == 1 and reconciler._due.empty())
        reconciler.agent_connected(other)
        await until(lambda: gate.waiting == 2)
        asked = [agent for agent, method in cloud.nodes.calls if method == COMPUTE_GET_HOST.name]
        assert asked == [slow, other]
        gate.open()
        await until(lambda: cloud.nodes.calls.count((slow, COMPUTE_GET_HOST.name)) == 2)
        running.cancel()


def test_what_could_not_be_seen_is_looked_at_soon(tmp_path: Path) -> None:
    clock = LeapingClock(now_ms=1_800_000_000_000)

    async def see() -> list[object]:
        store = await SqliteStore.open(tmp_path / "state.db", clock=clock)
        async with (
            cloud_on(LeapingStore(store, clock), tmp_path, clock, hosts=1) as cloud,
            asyncio.TaskGroup() as group,
        ):
            reconciler, agent_id = cloud.compute.reconciler, cloud.agents[0]
            faults = cloud.nodes[agent_id].node.faults
            faults.fail(method=COMPUTE_GET_HOST.name, times=None)
            await store.batch([Statement("UPDATE kaktus SET memory_bytes = 0")])
            running = group.create_task(reconciler.run())
            reconciler.agent_connected(agent_id)
            seen: list[object] = []
            for _ in range(2):
                await clock.sleep(1.5 * CATCH_UP_S)
                seen.append(await cloud.value("SELECT memory_bytes > 0 FROM kaktus"))
                faults.mend()
            running.cancel()
        await store.close()
        return seen

    assert run_leaping(clock, see()) == [0, 1]
