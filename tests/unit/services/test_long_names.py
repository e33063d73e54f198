"""A machine's name and its project's domain together are a DNS name: at most 253 characters."""

from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from appliance.core.errors import Invalid
from appliance.resources.instance import INSTANCES
from appliance.resources.kompute import KOMPUTES
from appliance.resources.project import PROJECTS
from appliance.services.projects import Projects
from appliance.store.base import Statement
from tests.support.cloud import ASKED, Cloud, CountedStore, open_cloud
from tests.support.meanwhile import Meanwhile

DOMAIN = ".".join(["d" * 60] * 4)  # 243 characters: leaves 9 for a name
FITS, TOO_LONG = "n" * 9, "n" * 10


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path) as cloud:
        await set_domain(cloud, DOMAIN)
        yield cloud


async def set_domain(cloud: Cloud, domain: str) -> None:
    projects = Projects(cloud.store, cloud.catalog, cloud.secrets, cloud.clock)
    stored = await projects.get(cloud.project)
    await projects.update(cloud.project, msgspec.structs.replace(stored, domain=domain))


async def test_a_kompute_is_made_and_renamed_within_its_projects_domain(cloud: Cloud) -> None:
    with pytest.raises(Invalid, match="253 are allowed") as refused:
        await cloud.add_kompute(TOO_LONG)
    assert refused.value.context["field"] == "name"
    assert await cloud.count("kompute") == 0
    web = str((await cloud.add_kompute(FITS)).id)
    stored = await cloud.catalog.get(KOMPUTES, web)
    for changes in ({"name": TOO_LONG}, {"name": TOO_LONG, "vcpus": stored.vcpus + 1}):
        with pytest.raises(Invalid, match="253 are allowed"):
            await cloud.compute.komputes.update(
                ASKED, web, msgspec.structs.replace(stored, **changes)
            )
    assert (await cloud.catalog.get(KOMPUTES, web)).name == FITS


async def test_an_instance_is_made_and_renamed_within_its_projects_domain(cloud: Cloud) -> None:
    with pytest.raises(Invalid, match="253 are allowed"):
        await cloud.add_instance(TOO_LONG)
    assert await cloud.count("instance") == 0
    web = await cloud.add_instance(FITS)
    stored = await cloud.catalog.get(INSTANCES, web)
    for changes in ({"name": TOO_LONG}, {"name": TOO_LONG, "vcpus": stored.vcpus + 1}):
        with pytest.raises(Invalid, match="253 are allowed"):
            await cloud.compute.instances.update(
                ASKED, web, msgspec.structs.replace(stored, **changes)
            )


async def test_a_domain_that_a_machine_does_not_fit_into_is_refused(cloud: Cloud) -> None:
    await cloud.add_kompute(FITS)
    with pytest.raises(Invalid, match=FITS) as refused:
        await set_domain(cloud, f"{DOMAIN}d")
    assert refused.value.context["field"] == "domain"
    await set_domain(cloud, f"{DOMAIN}.")  # the final dot is none of the name
    await set_domain(cloud, "")


async def test_a_domain_that_comes_meanwhile_is_seen(cloud: Cloud) -> None:
    async def set_it() -> None:
        await meanwhile.batch(
            [Statement("UPDATE project SET domain = ? WHERE id = ?", (DOMAIN, cloud.project))]
        )

    await set_domain(cloud, "")
    assert isinstance(cloud.store, CountedStore)
    meanwhile = cloud.store._store
    cloud.store._store = Meanwhile(meanwhile, set_it)
    with pytest.raises(Invalid, match="253 are allowed"):
        await cloud.add_kompute(TOO_LONG)
    assert (await cloud.catalog.get(PROJECTS, cloud.project)).domain == DOMAIN
    assert await cloud.count("kompute") == 0
