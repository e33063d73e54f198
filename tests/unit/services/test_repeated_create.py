"""A create that comes again is told that the first one made the object, whatever is in its way."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.core.errors import Conflict, InsufficientResource
from appliance.resources.adapter import Adapter
from appliance.resources.instance import INSTANCES, Instance
from appliance.resources.kompute import Kompute
from appliance.resources.volume import VolumeType
from appliance.services.komputes import KomputeOptions
from tests.support.cloud import ASKED, GIB, Cloud, kompute, open_cloud


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path) as cloud:
        yield cloud


async def test_a_machine_that_fills_its_quota_is_named_when_asked_for_again(cloud: Cloud) -> None:
    project = await cloud.add_second_project("small", instances=1)

    async def create(name: str) -> Kompute:
        begun = await cloud.compute.komputes.create(
            ASKED, project, cloud.zone, kompute(name), KomputeOptions()
        )
        return await begun.outcome()

    made = await create("web")
    with pytest.raises(Conflict, match=str(made.id)):
        await create("web")
    with pytest.raises(InsufficientResource, match="quota"):
        await create("other")


async def test_a_disk_that_fills_its_quota_is_named_when_asked_for_again(cloud: Cloud) -> None:
    project = await cloud.add_second_project("small", storage=GIB)
    made = await cloud.add_volume("data", VolumeType.RAW, project=project)
    with pytest.raises(Conflict, match=made):
        await cloud.add_volume("data", VolumeType.RAW, project=project)


async def test_an_instance_is_named_though_it_has_the_parts_itself(cloud: Cloud) -> None:
    made = await cloud.add_instance("db")
    stored = await cloud.catalog.get(INSTANCES, made)
    same = Instance(
        name="db", memory=GIB, vcpus=1, adapters=stored.adapters, volumes=stored.volumes
    )
    with pytest.raises(Conflict, match=made):
        await cloud.compute.instances.create(ASKED, cloud.project, cloud.zone, same)


async def test_an_adapter_is_named_though_it_has_the_address_itself(cloud: Cloud) -> None:
    wanted = Adapter(name="card", addresses=["10.1.0.77"])
    made = await cloud.adapters.create(cloud.private_subnet, wanted, assign=False)
    with pytest.raises(Conflict, match=str(made.id)):
        await cloud.adapters.create(cloud.private_subnet, wanted, assign=False)
