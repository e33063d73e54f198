"""Templates on the real engine, store and dispatchers, before simulated nodes."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.core.errors import Conflict, Invalid, NotFound, Unavailable
from appliance.core.ids import new_id
from appliance.drivers.fake.node import NodeTraits
from appliance.drivers.fake.storage import Internet, RemoteFile
from appliance.model.compute import Architecture
from appliance.model.storage import TemplateSource
from appliance.operations.operation import State
from appliance.resources.storage_pool import STORAGE_POOLS
from appliance.resources.template import TEMPLATES, Template, architecture_of
from appliance.services.durable import Asked
from appliance.services.verify import verify_world
from appliance.store.base import Statement
from tests.support.cloud import ASKED, MIB, Cloud, open_cloud
from tests.support.wait import until

SOURCE = "https://images.example/other.qcow2"


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path) as cloud:
        yield cloud


async def is_clean(cloud: Cloud) -> bool:
    return (await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)).is_clean


def default(cloud: Cloud) -> str:
    return "SELECT id FROM template WHERE is_default = 1"


async def test_a_create_answers_when_the_import_is_done(cloud: Cloud) -> None:
    assert await cloud.value("SELECT size_bytes FROM template") == 8 * MIB
    read = await cloud.catalog.get(TEMPLATES, cloud.template)
    assert (read.name, read.source) == ("debian", "https://images.example/debian.qcow2")
    assert await is_clean(cloud)


async def test_the_first_template_of_a_pool_is_its_default_until_another_is_chosen(
    cloud: Cloud,
) -> None:
    other = await cloud.add_template(name="other")
    assert await cloud.value(default(cloud)) == cloud.template
    await cloud.catalog.set_default(TEMPLATES, other, STORAGE_POOLS, cloud.pool)
    assert await cloud.value(default(cloud)) == other


async def test_names_are_unique_in_their_pool(cloud: Cloud) -> None:
    with pytest.raises(Conflict, match=cloud.template):
        await cloud.add_template()
    pool = await cloud.add_pool("hdd", cloud.agents)
    await cloud.add_template(pool)


async def test_a_failed_import_is_told_and_leaves_nothing(cloud: Cloud) -> None:
    begun = await cloud.compute.templates.create(
        ASKED, cloud.pool, Template(name="lost", source="https://nowhere.invalid/a.qcow2")
    )
    with pytest.raises(Invalid, match="leads nowhere"):
        await begun.outcome()
    assert await cloud.count("template") == 1
    assert await is_clean(cloud)


async def test_an_import_is_told_where_it_may_not_go(cloud: Cloud) -> None:
    asked: list[TemplateSource] = []

    class Watched(Internet):
        def fetch(self, source: TemplateSource) -> RemoteFile:
            asked.append(source)
            return super().fetch(source)

    for agent in cloud.agents:
        traits = NodeTraits(internet=Watched(default=RemoteFile(8 * MIB)), latency_s=0)
        await cloud.nodes.play(agent, traits)
    await cloud.add_template(name="first")
    await cloud.store.batch(
        [
            Statement(
                "INSERT INTO setting (name, value, updated_at_ms, updated_by)"
                """ VALUES ('templates.allowed_sources', '["10.9.0.0/16"]', 0, 'master')"""
            )
        ]
    )
    await cloud.add_template(name="second")
    rows = await cloud.store.query(Statement("SELECT cidr FROM subnet"))
    networks = {str(row["cidr"]) for row in rows}
    assert networks
    assert [set(source.refused_networks) for source in asked] == [networks, networks]
    assert [source.allowed_sources for source in asked] == [(), ("10.9.0.0/16",)]


async def test_a_delete_stops_a_running_import(cloud: Cloud) -> None:
    gate = cloud.nodes.hold("storage.import_template")
    begun = await cloud.compute.templates.create(
        ASKED, cloud.pool, Template(name="other", source=SOURCE)
    )
    await until(lambda: gate.waiting, "the import to be under way")
    hidden = str(await cloud.value("SELECT id FROM template WHERE phase = 'creating'"))
    assert await cloud.catalog.list_ids(TEMPLATES) == [cloud.template]
    await (await cloud.compute.templates.delete(ASKED, hidden)).outcome()
    assert (await cloud.engine.get(str(begun.operation_id))).state is State.CANCELLED
    assert await cloud.count("template") == 1


async def test_a_delete_ends_a_download_that_the_node_is_at(cloud: Cloud) -> None:
    endless = Internet(default=RemoteFile(8 * MIB), bytes_per_s=1)
    for agent in cloud.agents:
        await cloud.nodes.play(agent, NodeTraits(internet=endless, latency_s=0))
    cloud.nodes.methods()
    begun = await cloud.compute.templates.create(
        ASKED, cloud.pool, Template(name="other", source=SOURCE)
    )
    await until(lambda: cloud.nodes.calls, "the import to be under way")
    hidden = str(await cloud.value("SELECT id FROM template WHERE phase = 'creating'"))
    await (await cloud.compute.templates.delete(ASKED, hidden)).outcome()
    assert (await cloud.engine.get(str(begun.operation_id))).state is State.CANCELLED
    assert await is_clean(cloud)


async def test_the_same_import_attaches(cloud: Cloud) -> None:
    gate = cloud.nodes.hold("storage.import_template")
    same = Asked("master", "a" * 64)
    wanted = Template(name="other", source=SOURCE)
    first = await cloud.compute.templates.create(same, cloud.pool, wanted)
    second = await cloud.compute.templates.create(same, cloud.pool, wanted)
    gate.open()
    assert (await first.outcome()).id == (await second.outcome()).id


async def test_a_template_with_clones_is_not_deleted(cloud: Cloud) -> None:
    volume = await cloud.add_volume("system")
    with pytest.raises(Conflict, match=r"volumes \(1\)"):
        await cloud.compute.templates.delete(ASKED, cloud.template)
    await (await cloud.compute.volumes.delete(ASKED, volume)).outcome()
    await (await cloud.compute.templates.delete(ASKED, cloud.template)).outcome()
    await cloud.catalog.delete(STORAGE_POOLS, cloud.pool)
    with pytest.raises(NotFound):
        await cloud.compute.templates.delete(ASKED, cloud.template)


async def test_a_rename_is_free_and_another_source_is_refused(cloud: Cloud) -> None:
    stored = await cloud.catalog.get(TEMPLATES, cloud.template)
    for agent in cloud.agents:
        cloud.nodes[agent].connected = False
    renamed = await cloud.catalog.update(
        TEMPLATES, cloud.template, Template(name="debian-13", source=stored.source)
    )
    assert renamed.name == "debian-13"
    with pytest.raises(Invalid, match="source"):
        await cloud.catalog.update(TEMPLATES, cloud.template, Template(name="a", source=SOURCE))


async def test_a_pool_needs_an_agent_that_is_connected(cloud: Cloud) -> None:
    nobody = await cloud.add_pool("nobody", [])
    with pytest.raises(Invalid, match="no agent acts for"):
        await cloud.add_template(nobody)
    for agent in cloud.agents:
        cloud.nodes[agent].connected = False
    with pytest.raises(Unavailable, match="connected"):
        await cloud.add_template(name="other")
    with pytest.raises(NotFound):
        await cloud.add_template(new_id())
    assert await cloud.count("template") == 1


def test_the_file_name_tells_the_architecture() -> None:
    for source, expected in (
        ("https://a.example/debian-13-generic-arm64.qcow2", Architecture.AARCH64),
        ("https://a.example/AARCH64/image.raw", Architecture.AARCH64),
        ("https://arm64.example/image.raw", Architecture.X86_64),
        ("https://a.example/debian-13-generic-amd64.qcow2", Architecture.X86_64),
    ):
        assert architecture_of(source) is expected
