"""What machines are beyond the contract: processors by zone; firmware and TPM by template."""

from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from appliance.core.errors import Conflict, InsufficientResource, Invalid, NotFound
from appliance.core.ids import new_id
from appliance.drivers.fake.domain import FakeDomain
from appliance.model.compute import Architecture, DomainSpec, Firmware, Tpm
from appliance.resources.instance_work import PowerAction
from appliance.resources.kompute import KOMPUTES
from appliance.resources.region import REGIONS
from appliance.resources.template import TemplatePlatform
from appliance.resources.zone import ZONES, Zone
from appliance.services.placement import Needs
from appliance.services.verify import verify_world
from appliance.store.base import Statement
from tests.support.cloud import ASKED, Cloud, open_cloud

LEVELS = ["x86-64-v2", "x86-64-v3", "x86-64-v4"]


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path) as cloud:
        for agent_id in cloud.agents:
            await cloud.compute.reconciler.look(agent_id)
        yield cloud


def domain(cloud: Cloud) -> FakeDomain:
    """Return the only domain there is."""
    world = cloud.nodes.world
    things = [world.list_things(f"node/{agent}", "domain", FakeDomain) for agent in cloud.agents]
    (only,) = [each for host in things for each in host]
    return only


def running(cloud: Cloud) -> DomainSpec:
    spec = domain(cloud).running
    assert spec is not None
    return spec


async def report(cloud: Cloud, host: str, models: list[str]) -> None:
    await cloud.store.batch(
        [
            Statement(
                "UPDATE kaktus SET cpu_models = ? WHERE id = ?",
                (msgspec.json.encode(models).decode(), host),
            )
        ]
    )


async def act(cloud: Cloud, kompute_id: str, action: PowerAction) -> None:
    await (await cloud.compute.machines.act(ASKED, KOMPUTES, kompute_id, action)).outcome()


async def is_clean(cloud: Cloud) -> bool:
    return (await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)).is_clean


# --- the processor of a zone


async def test_machines_see_the_processor_of_their_zone(cloud: Cloud) -> None:
    zones = cloud.compute.zones
    assert await zones.get_cpu_model(cloud.zone) is None
    assert await zones.list_cpu_models(cloud.zone) == LEVELS
    await zones.set_cpu_model(cloud.zone, "x86-64-v2")
    assert await zones.get_cpu_model(cloud.zone) == "x86-64-v2"
    await cloud.add_kompute("web")
    assert running(cloud).cpu_model == "x86-64-v2"
    assert await is_clean(cloud)


async def test_another_zone_keeps_its_own(cloud: Cloud) -> None:
    other = await cloud.catalog.create(ZONES, Zone(name="other"), REGIONS, cloud.region)
    await cloud.compute.zones.set_cpu_model(str(other.id), "x86-64-v3")
    await cloud.add_kompute("web")
    assert running(cloud).cpu_model is None


async def test_machines_that_run_have_a_new_processor_when_they_are_started_anew(
    cloud: Cloud,
) -> None:
    web = str((await cloud.add_kompute("web")).id)
    started_at_ms = domain(cloud).started_at_ms
    await cloud.compute.zones.set_cpu_model(cloud.zone, "x86-64-v2")
    for agent_id in cloud.agents:
        await cloud.compute.reconciler.look(agent_id)
    assert await is_clean(cloud)
    # A change that can be live stays live.
    stored = await cloud.catalog.get(KOMPUTES, web)
    grown = msgspec.structs.replace(stored, vcpus=stored.vcpus + 1)
    await (await cloud.compute.komputes.update(ASKED, web, grown)).outcome()
    assert running(cloud).vcpus == grown.vcpus
    assert running(cloud).cpu_model is None
    assert domain(cloud).started_at_ms == started_at_ms
    await act(cloud, web, PowerAction.REBOOT)
    assert running(cloud).cpu_model is None
    await act(cloud, web, PowerAction.STOP)
    await act(cloud, web, PowerAction.START)
    assert running(cloud).cpu_model == "x86-64-v2"
    assert await is_clean(cloud)


async def test_a_processor_that_a_host_lacks_is_refused_with_what_all_have(cloud: Cloud) -> None:
    await report(cloud, cloud.hosts[0], ["x86-64-v2", "Nehalem"])
    zones = cloud.compute.zones
    with pytest.raises(Invalid, match="kaktus-0") as refused:
        await zones.set_cpu_model(cloud.zone, "x86-64-v4")
    assert refused.value.context["field"] == "model"
    assert "all hosts of the zone have: x86-64-v2;" in (refused.value.hint or "")
    assert await zones.get_cpu_model(cloud.zone) is None
    for name in ("", "a,b", "-cpu", "x" * 65, "host\n"):
        with pytest.raises(Invalid, match="model"):
            await zones.set_cpu_model(cloud.zone, name)
    with pytest.raises(NotFound):
        await zones.set_cpu_model(new_id(), "x86-64-v2")


async def test_a_host_that_lacks_the_processor_of_its_zone_takes_no_machine(cloud: Cloud) -> None:
    await cloud.compute.zones.set_cpu_model(cloud.zone, "x86-64-v2")
    for host in cloud.hosts:
        await report(cloud, host, [])
    with pytest.raises(InsufficientResource, match="cannot give its guests the processor"):
        await cloud.add_kompute("web")
    assert await cloud.count("instance") == 0


async def test_a_processor_of_x86_is_none_for_arm(cloud: Cloud) -> None:
    await cloud.compute.zones.set_cpu_model(cloud.zone, "x86-64-v2")
    await cloud.store.batch(
        [Statement("UPDATE kaktus SET cpu_arch = 'aarch64', cpu_models = '[]'")]
    )
    await cloud.compute.zones.set_cpu_model(cloud.zone, "x86-64-v3")
    await cloud.store.batch([Statement("UPDATE template SET architecture = 'aarch64'")])
    decision = await cloud.compute.placement.explain(_needs(cloud))
    assert decision.host is not None


def _needs(cloud: Cloud) -> Needs:
    return Needs(
        instance_id=new_id(),
        zone_id=cloud.zone,
        project_id=cloud.project,
        vcpus=1,
        memory_bytes=1 << 30,
        architecture=Architecture.AARCH64,
    )


# --- firmware and TPM of a template


async def test_machines_have_the_firmware_and_the_tpm_of_their_template(cloud: Cloud) -> None:
    templates = cloud.compute.templates
    asked = TemplatePlatform(Firmware.UEFI, Tpm.ON)
    assert await templates.get_platform(cloud.template) == TemplatePlatform(Firmware.AUTO, Tpm.AUTO)
    await templates.set_platform(cloud.template, asked)
    assert await templates.get_platform(cloud.template) == asked
    await cloud.add_instance("web")
    assert (running(cloud).firmware, running(cloud).tpm) == (Firmware.UEFI, Tpm.ON)


async def test_the_platform_of_a_template_that_is_in_use_stays(cloud: Cloud) -> None:
    templates = cloud.compute.templates
    await cloud.add_volume("system")
    with pytest.raises(Conflict, match=r"in use by volumes \(1\)"):
        await templates.set_platform(cloud.template, TemplatePlatform(Firmware.BIOS, Tpm.AUTO))
    same = TemplatePlatform(Firmware.AUTO, Tpm.AUTO)
    await templates.set_platform(cloud.template, same)
    assert await templates.get_platform(cloud.template) == same


async def test_an_aarch64_template_has_no_bios(cloud: Cloud) -> None:
    other = await cloud.add_template(name="debian-arm64")
    with pytest.raises(Invalid, match="aarch64") as refused:
        await cloud.compute.templates.set_platform(other, TemplatePlatform(Firmware.BIOS, Tpm.AUTO))
    assert refused.value.context["field"] == "firmware"
    with pytest.raises(NotFound):
        await cloud.compute.templates.get_platform(new_id())
