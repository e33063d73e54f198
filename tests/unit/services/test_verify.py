"""What `state verify` finds on nodes beside domains and images, each planted once."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import pytest_asyncio

from appliance.core.ids import new_id
from appliance.drivers.fake.node import SimulatedNode
from appliance.drivers.fake.storage import _DOWNLOAD, _Download
from appliance.model.network import BridgeSpec
from appliance.model.storage import RbdPool
from appliance.services.verify import verify_world
from tests.support.cloud import ASKED, Cloud, Gate, open_cloud
from tests.support.wait import until

POOL: Final = RbdPool(pool="ssd", monitor_address="ceph.example", monitor_port=3300)
BRIDGE: Final = "br1"  # of the vnet that every machine of the cloud has a card in


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path, hosts=1) as cloud:
        await cloud.add_kompute("web")
        assert await found(cloud) == []
        yield cloud


def node(cloud: Cloud) -> SimulatedNode:
    return cloud.nodes[cloud.agents[0]].node


async def found(cloud: Cloud) -> list[tuple[str, str]]:
    verdict = await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)
    assert not verdict.unseen
    return [(each.target, each.detail) for each in verdict.differences]


async def test_a_bridge_that_nobody_needs_is_found(cloud: Cloud) -> None:
    await node(cloud).host_network.ensure_bridge(BridgeSpec(name="br99", vlan=99))
    about = f"kaktus/{cloud.hosts[0]}"
    assert await found(cloud) == [(about, "no instance here needs bridge br99")]


async def test_a_bridge_that_is_missing_or_in_another_vlan_is_found(cloud: Cloud) -> None:
    about = f"kaktus/{cloud.hosts[0]}"
    told = [(about, f"bridge {BRIDGE} is missing, or not in VLAN 1")]
    await node(cloud).host_network.ensure_bridge(BridgeSpec(name=BRIDGE, vlan=7))
    assert await found(cloud) == told
    node(cloud).host_network._bridges.remove(BRIDGE)
    assert await found(cloud) == told


async def test_what_a_node_keeps_of_a_domain_that_is_gone_is_found(cloud: Cloud) -> None:
    gone = new_id()
    node(cloud).host_network._bridges.plug(gone, "52:54:00:00:00:99", BRIDGE)
    (only,) = await found(cloud)
    assert only == (f"instance/{gone}", "a card is plugged, and its domain is gone")


async def test_a_download_that_nobody_goes_on_with_is_found(cloud: Cloud) -> None:
    template = new_id()
    cloud.nodes.world.put(
        "rbd/ceph.example:3300/ssd", _DOWNLOAD, template, _Download(template, "https://x", 1)
    )
    assert node(cloud).storage._images.place(POOL) == "rbd/ceph.example:3300/ssd"
    assert await found(cloud) == [(f"image/{template}", f".{template}.part was never finished")]


async def test_what_operations_work_on_is_no_finding(cloud: Cloud) -> None:
    """A host is never between two states for whoever looks, wherever the work has come to."""
    for method in ("storage.ensure_image", "compute.ensure_domain", "compute.ensure_power"):
        gate = cloud.nodes.hold(method)

        def has_come(gate: Gate = gate) -> bool:
            return gate.waiting > 0

        adding = asyncio.create_task(cloud.add_kompute(f"at-{method.rpartition('.')[2][7:]}"))
        await until(has_come, "the work comes to the gate")
        assert await found(cloud) == []
        gate.open()
        await adding
    assert await found(cloud) == []


async def test_verification_changes_nothing(cloud: Cloud) -> None:
    await node(cloud).host_network.ensure_bridge(BridgeSpec(name="br99", vlan=99))
    before = await cloud.contents()
    cloud.nodes.methods()
    assert await found(cloud)
    assert await cloud.contents() == before
    assert all(".list_" in method for method in cloud.nodes.methods())


async def test_the_bridge_of_the_last_machine_goes_soon_after_it(cloud: Cloud) -> None:
    async with asyncio.TaskGroup() as group:
        reconciling = group.create_task(cloud.compute.reconciler.run())
        kompute_id = str(await cloud.value("SELECT id FROM kompute"))
        await (await cloud.compute.komputes.delete(ASKED, kompute_id)).outcome()
        removal = (cloud.agents[0], "network.ensure_bridge_absent")
        await until(lambda: removal in cloud.nodes.calls, "the bridge is removed")
        (mending,) = (each for each in await cloud.engine.list() if each.kind == "bridges_mend")
        await cloud.engine.wait(mending.id, 60)
        reconciling.cancel()
    assert await found(cloud) == []
