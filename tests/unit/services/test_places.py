"""What lies somewhere stays there: who reaches a pool, and which changes would move things."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from appliance.core.errors import Invalid
from appliance.core.ids import new_id
from appliance.model.storage import RbdPool, VolumeSpec
from appliance.resources.instance import INSTANCES
from appliance.resources.kaktus import KAKTUSES
from appliance.resources.kompute import Kompute
from appliance.resources.region import REGIONS
from appliance.resources.storage_pool import STORAGE_POOLS, StoragePool
from appliance.resources.template import Template
from appliance.resources.volume import Volume, VolumeType
from appliance.services.komputes import KomputeOptions
from appliance.services.verify import verify_world
from appliance.store.base import Statement
from tests.support.cloud import ASKED, GIB, Cloud, CountedStore, kompute, open_cloud
from tests.support.meanwhile import Meanwhile

LOCAL = "local:///var/lib/kowabunga/pool"


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path) as cloud:
        yield cloud


async def make(cloud: Cloud, name: str, pool: str) -> Kompute:
    begun = await cloud.compute.komputes.create(
        ASKED, cloud.project, cloud.zone, kompute(name), KomputeOptions(pool_id=pool)
    )
    return await begun.outcome()


async def add_volume(cloud: Cloud, name: str, pool: str) -> str:
    begun = await cloud.compute.volumes.create(
        ASKED,
        cloud.project,
        cloud.region,
        Volume(name=name, type=VolumeType.RAW, size=GIB),
        pool_id=pool,
        template_id=None,
    )
    return str((await begun.outcome()).id)


async def set_agents(cloud: Cloud, host: str, agents: list[str]) -> None:
    kaktus = await cloud.catalog.get(KAKTUSES, host)
    await cloud.catalog.update(KAKTUSES, host, msgspec.structs.replace(kaktus, agents=agents))


async def change_pool(cloud: Cloud, pool_id: str, **changes: object) -> None:
    pool = await cloud.catalog.get(STORAGE_POOLS, pool_id)
    await cloud.catalog.update(STORAGE_POOLS, pool_id, msgspec.structs.replace(pool, **changes))


async def is_clean(cloud: Cloud) -> bool:
    return (await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)).is_clean


def just_before_the_next_batch(cloud: Cloud, act: Callable[[], Awaitable[object]]) -> None:
    assert isinstance(cloud.store, CountedStore)
    cloud.store._store = Meanwhile(cloud.store._store, act)


# --- who reaches a pool


async def test_a_ceph_pool_is_reached_from_every_host_and_asked_about_through_its_agents(
    cloud: Cloud,
) -> None:
    asked, other = cloud.agents
    pool = await cloud.add_pool("big", [asked])
    await cloud.add_template(pool)
    await cloud.compute.placement.set_schedulable(cloud.hosts[0], schedulable=False)
    cloud.nodes.calls.clear()
    await make(cloud, "web", pool)
    assert {agent for agent, method in cloud.nodes.calls if "storage" in method} == {asked}
    assert {agent for agent, method in cloud.nodes.calls if "compute" in method} == {other}
    assert await is_clean(cloud)


async def test_a_seed_is_kept_true_also_on_a_host_that_has_no_agent_in_the_list_of_its_pool(
    cloud: Cloud,
) -> None:
    asked, _ = cloud.agents
    pool = await cloud.add_pool("big", [asked])
    await cloud.add_template(pool)
    await cloud.compute.placement.set_schedulable(cloud.hosts[0], schedulable=False)
    await make(cloud, "web", pool)
    await cloud.store.batch([Statement("UPDATE subnet SET dns = '10.1.0.53'")])
    assert not await is_clean(cloud)
    for agent in cloud.agents:
        await cloud.compute.reconciler.look(agent)
    for operation in await cloud.engine.list(unfinished=True):
        await cloud.engine.wait(operation.id, 60)
    assert await is_clean(cloud)


async def test_a_local_pool_is_reached_from_its_own_host_only_and_explained_so(
    cloud: Cloud,
) -> None:
    pool = await cloud.add_pool("disk", cloud.agents[1:], LOCAL)
    await cloud.add_template(pool)
    decision = await cloud.compute.komputes.explain(
        cloud.project,
        cloud.zone,
        vcpus=1,
        memory_bytes=GIB,
        options=KomputeOptions(pool_id=pool),
    )
    assert decision.host is not None
    assert decision.host.id == cloud.hosts[1]
    (refusal,) = decision.refusals
    assert (refusal.host_id, refusal.reason) == (
        cloud.hosts[0],
        "it does not reach the storage pool, which is local to another host",
    )


async def test_a_volume_that_is_local_to_another_host_is_not_attached(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    host = await cloud.value("SELECT kaktus_id FROM instance WHERE id = ?", instance_id)
    stored = await cloud.catalog.get(INSTANCES, instance_id)
    assert isinstance(stored.volumes, list)
    for agent, here in zip(cloud.agents, (each == host for each in cloud.hosts), strict=True):
        pool = await cloud.add_pool(f"disk-{agent}", [agent], LOCAL)
        volume = await add_volume(cloud, f"data-{agent}", pool)
        wanted = msgspec.structs.replace(stored, volumes=[*stored.volumes, volume])
        if here:
            await (await cloud.compute.instances.update(ASKED, instance_id, wanted)).outcome()
            stored = wanted
            continue
        before = await cloud.contents()
        with pytest.raises(Invalid, match="local to another host") as refused:
            await cloud.compute.instances.update(ASKED, instance_id, wanted)
        assert refused.value.context["field"] == "volumes"
        assert await cloud.contents() == before


# --- the agents of a Kaktus


async def test_a_kaktus_with_instances_keeps_its_agents(cloud: Cloud) -> None:
    await cloud.add_kompute("web")
    host = str(await cloud.value("SELECT kaktus_id FROM instance"))
    agent = cloud.agents[cloud.hosts.index(host)]
    more = await cloud.add_agent()
    before = await cloud.contents()
    for agents in ([more], [agent, more], []):
        with pytest.raises(Invalid, match=r"stay the same while it has instances \(1\)") as refused:
            await set_agents(cloud, host, agents)
        assert refused.value.context["field"] == "agents"
        assert refused.value.hint
    assert (await cloud.catalog.get(KAKTUSES, host)).agents == [agent]
    assert await cloud.contents() == before


async def test_the_agents_of_a_kaktus_change_places_at_any_time_and_all_else_while_it_is_empty(
    cloud: Cloud,
) -> None:
    host, more = cloud.hosts[0], await cloud.add_agent()
    await set_agents(cloud, host, [cloud.agents[0], more])
    await cloud.compute.placement.set_schedulable(cloud.hosts[1], schedulable=False)
    made = await cloud.add_kompute("web")
    await set_agents(cloud, host, [more, cloud.agents[0]])
    await set_agents(cloud, host, [cloud.agents[0], more])
    await (await cloud.compute.komputes.delete(ASKED, str(made.id))).outcome()
    await set_agents(cloud, host, [more])


async def test_a_host_that_loses_its_agent_while_it_is_chosen_is_not_asked_through_it(
    cloud: Cloud,
) -> None:
    more = await cloud.add_agent()
    just_before_the_next_batch(cloud, lambda: set_agents(cloud, cloud.hosts[0], [more]))
    await cloud.add_kompute("web")
    assert await cloud.value("SELECT kaktus_id FROM instance") == cloud.hosts[0]
    assert await cloud.nodes[more].node.compute.list_domains()
    assert await is_clean(cloud)


# --- the place of a storage pool


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"pool": "other"}, "pool"),
        ({"ceph_address": ""}, "ceph_address"),
        ({"ceph_address": "other.example,ceph.example"}, "ceph_address"),
        ({"ceph_port": 6789}, "ceph_port"),
    ],
)
@pytest.mark.parametrize("content", ["template", "volume"])
async def test_a_ceph_pool_with_something_in_it_keeps_its_place(
    cloud: Cloud, change: dict[str, object], field: str, content: str
) -> None:
    pool = await cloud.add_pool("big", cloud.agents)
    await change_pool(cloud, pool, **change)  # it is empty
    await change_pool(cloud, pool, pool="big", ceph_address="ceph.example", ceph_port=3300)
    if content == "template":
        await cloud.add_template(pool)
    else:
        await add_volume(cloud, "data", pool)
    before = await cloud.catalog.get(STORAGE_POOLS, pool)
    with pytest.raises(Invalid, match="stays the same while templates, volumes") as refused:
        await change_pool(cloud, pool, name="renamed", **change)
    assert refused.value.context["field"] == field
    assert refused.value.hint
    assert await cloud.catalog.get(STORAGE_POOLS, pool) == before
    assert await is_clean(cloud)


async def test_a_ceph_pool_changes_its_agents_and_further_monitors_at_any_time(
    cloud: Cloud,
) -> None:
    pool = await cloud.add_pool("big", cloud.agents[:1], "")
    await add_volume(cloud, "data", pool)
    await change_pool(cloud, pool, agents=cloud.agents[1:], name="huge")
    for address in ("localhost", "localhost,ceph-2.example", "localhost,10.0.0.3"):
        await change_pool(cloud, pool, ceph_address=address)
    await change_pool(cloud, pool, ceph_port=0)  # the default, like 3300
    await add_volume(cloud, "more", pool)
    assert await is_clean(cloud)


async def test_a_local_pool_with_something_in_it_keeps_its_agent(cloud: Cloud) -> None:
    one, other = cloud.agents
    pool = await cloud.add_pool("disk", [one], LOCAL)
    await change_pool(cloud, pool, agents=[other], pool="any-name")  # it is empty
    await add_volume(cloud, "data", pool)
    await change_pool(cloud, pool, pool="any-other-name")
    with pytest.raises(Invalid, match="stays the same while templates, volumes") as refused:
        await change_pool(cloud, pool, agents=[one])
    assert refused.value.context["field"] == "agents"
    assert (await cloud.catalog.get(STORAGE_POOLS, pool)).agents == [other]
    assert await is_clean(cloud)


async def test_a_local_pool_that_moves_while_something_is_made_in_it_gets_it_in_the_new_place(
    cloud: Cloud,
) -> None:
    one, other = cloud.agents
    for number, (old, new) in enumerate([(one, other), (other, one)]):
        pool = await cloud.add_pool(f"disk-{number}", [old], f"{LOCAL}{number}")
        just_before_the_next_batch(cloud, partial(change_pool, cloud, pool, agents=[new]))
        if number:
            await add_volume(cloud, "data", pool)
        else:
            template = Template(name="alpine", source="https://images.example/alpine.qcow2")
            await (await cloud.compute.templates.create(ASKED, pool, template)).outcome()
        assert (await cloud.catalog.get(STORAGE_POOLS, pool)).agents == [new]
        assert await is_clean(cloud)


# --- what `kowabunga state verify` tells of them


async def test_a_host_or_pool_without_agents_is_reported_only_if_something_should_be_there(
    cloud: Cloud,
) -> None:
    await set_agents(cloud, cloud.hosts[0], [])
    empty = await cloud.add_pool("empty", [])
    assert await is_clean(cloud)
    await add_volume(cloud, "data", cloud.pool)
    await change_pool(cloud, cloud.pool, agents=[])
    await change_pool(cloud, empty, name="still-empty")
    verdict = await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)
    assert [told.partition(":")[0] for told in verdict.unseen] == [f"storage_pool/{cloud.pool}"]


@pytest.mark.parametrize(
    ("address", "shares"),
    [
        ("ceph.example", True),
        ("ceph.example,ceph-2.example", True),
        ("ceph-2.example,ceph.example", False),  # asked through the other, so it is another one
        ("ceph-2.example", False),
    ],
)
async def test_an_image_of_another_row_of_the_same_ceph_pool_is_not_unknown(
    cloud: Cloud, address: str, shares: bool
) -> None:
    other = await cloud.catalog.create(
        STORAGE_POOLS,
        StoragePool(name="twin", pool="ssd", ceph_address=address, agents=cloud.agents),
        REGIONS,
        cloud.region,
    )
    for number, pool in enumerate((cloud.pool, str(other.id))):
        await add_volume(cloud, f"data-{number}", pool)
    assert await is_clean(cloud)
    stray = new_id()
    place = RbdPool(pool="ssd", monitor_address="ceph.example", monitor_port=3300)
    node = cloud.nodes[cloud.agents[0]].node
    await node.storage.ensure_image(place, VolumeSpec(image_id=stray, size_bytes=GIB))
    verdict = await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)
    assert [each.target for each in verdict.differences] == [f"image/{stray}"]
    assert shares == (len(await node.storage.list_images(place)) == 4)
