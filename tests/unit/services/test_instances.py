"""Instances and their power on the real engine, store and dispatchers, before simulated nodes."""

from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from appliance.core.errors import Conflict, InsufficientResource, Invalid, NotFound, Unavailable
from appliance.model.compute import ObservedDomain
from appliance.model.domain_state import DomainState
from appliance.resources.instance import INSTANCES, Instance
from appliance.resources.instance_work import PowerAction
from appliance.resources.kompute import KOMPUTES
from appliance.resources.volume import VOLUMES, VolumeType
from appliance.services.verify import verify_world
from appliance.store.base import Statement
from tests.support.cloud import ASKED, GIB, Cloud, open_cloud


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path) as cloud:
        yield cloud


async def domain(cloud: Cloud) -> ObservedDomain:
    hosts = [await cloud.nodes[agent].node.compute.list_domains() for agent in cloud.agents]
    (only,) = [domain for host in hosts for domain in host]
    return only


async def create(cloud: Cloud, wanted: Instance) -> Instance:
    begun = await cloud.compute.instances.create(ASKED, cloud.project, cloud.zone, wanted)
    return await begun.outcome()


async def change(cloud: Cloud, instance_id: str, **changes: object) -> Instance:
    stored = await cloud.catalog.get(INSTANCES, instance_id)
    wanted = msgspec.structs.replace(stored, **changes)
    return await (await cloud.compute.instances.update(ASKED, instance_id, wanted)).outcome()


async def act(cloud: Cloud, instance_id: str, action: PowerAction) -> None:
    await (await cloud.compute.machines.act(ASKED, INSTANCES, instance_id, action)).outcome()


async def is_clean(cloud: Cloud) -> bool:
    return (await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)).is_clean


def machine(
    name: str = "web", *, adapters: list[str] | None = None, volumes: list[str] | None = None
) -> Instance:
    return Instance(name=name, memory=GIB, vcpus=1, adapters=adapters or [], volumes=volumes or [])


# --- create


async def test_an_instance_comes_back_as_it_was_sent_and_runs(cloud: Cloud) -> None:
    adapters = [await cloud.add_adapter(f"card-{number}") for number in range(3)]
    volumes = [
        await cloud.add_volume("data", VolumeType.RAW),
        await cloud.add_volume("system"),
        await cloud.add_volume("more", VolumeType.RAW),
    ]
    wanted = machine(adapters=adapters[::-1], volumes=volumes)
    made = await create(cloud, wanted)
    assert (made.adapters, made.volumes) == (adapters[::-1], volumes)
    assert await cloud.catalog.get(INSTANCES, str(made.id)) == made
    assert (await domain(cloud)).state is DomainState.RUNNING
    assert await is_clean(cloud)


async def test_the_disk_with_the_system_and_the_public_card_come_first_in_the_guest(
    cloud: Cloud,
) -> None:
    inner, outer = (
        await cloud.add_adapter("inner"),
        await cloud.add_adapter("outer", cloud.public_subnet),
    )
    data, system = await cloud.add_volume("data", VolumeType.RAW), await cloud.add_volume("system")
    made = await create(cloud, machine(adapters=[inner, outer], volumes=[data, system]))
    agent = next(agent for agent, method in cloud.nodes.calls if method == "compute.ensure_domain")
    defined = cloud.nodes[agent].node.compute._get(str(made.id)).defined
    assert [disk.image_id for disk in defined.disks] == [system, data]
    assert [card.addresses for card in defined.interfaces] == [("203.0.113.2",), ("10.1.0.2",)]


async def test_parts_that_are_not_to_be_had_are_refused_naming_them(cloud: Cloud) -> None:
    system, data = await cloud.add_volume("system"), await cloud.add_volume("data", VolumeType.RAW)
    second = await cloud.add_volume("second")
    public = [await cloud.add_adapter(f"p{n}", cloud.public_subnet) for n in range(2)]
    other = await cloud.add_second_project("other")
    foreign = await cloud.add_volume("foreign", project=other)
    subnet = str(await cloud.value("SELECT id FROM subnet WHERE name = 'private-other'"))
    foreign_card = await cloud.add_adapter("foreign", subnet)
    owned = await cloud.add_kompute("owner")
    owned_volume = str(await cloud.value("SELECT id FROM volume WHERE kompute_id IS NOT NULL"))
    owned_card = str(await cloud.value("SELECT id FROM adapter WHERE kompute_id IS NOT NULL"))
    before = await cloud.contents()
    for wanted, field, said in (
        (machine(volumes=[]), "volumes", "exactly one volume of type os"),
        (machine(volumes=[data]), "volumes", "exactly one volume of type os"),
        (machine(volumes=[system, second]), "volumes", "not 2"),
        (machine(volumes=[system, "0" * 24]), "volumes[1]", "does not exist"),
        (machine(volumes=["system"]), "volumes[0]", "does not exist"),
        (machine(volumes=[foreign]), "volumes[0]", "does not exist in this project"),
        (machine(volumes=[owned_volume]), "volumes[0]", f"owned by kompute {owned.id}"),
        (machine(volumes=[system, system]), "volumes[1]", "twice"),
        (machine(volumes=[system], adapters=[foreign_card]), "adapters[0]", "in this project"),
        (machine(volumes=[system], adapters=[owned_card]), "adapters[0]", "owned by kompute"),
        (machine(volumes=[system], adapters=public), "adapters", "at most one"),
    ):
        with pytest.raises(Invalid, match=said) as raised:
            await create(cloud, wanted)
        assert raised.value.context["field"] == field
    assert await cloud.contents() == before


async def test_a_part_belongs_to_one_instance_at_most(cloud: Cloud) -> None:
    first = await cloud.add_instance("first")
    volume = str(await cloud.value("SELECT id FROM volume"))
    with pytest.raises(Invalid, match=f"attached to instance {first}"):
        await create(cloud, machine("second", volumes=[volume]))


async def test_names_are_host_names_of_instances_and_komputes_together(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    system = await cloud.add_volume("system")
    with pytest.raises(Conflict, match=str(made.id)):
        await create(cloud, machine("WEB", volumes=[system]))


async def test_quota_counts_instances_processors_and_memory(cloud: Cloud) -> None:
    system = await cloud.add_volume("system")
    for resource, limit in (("vcpus", 1), ("memory", GIB)):
        await cloud.store.batch([_quota(cloud.project, resource, limit)])
        with pytest.raises(InsufficientResource, match=resource):
            await create(
                cloud, Instance(name="web", memory=2 * GIB, vcpus=2, volumes=[system], adapters=[])
            )
        await cloud.store.batch([_quota(cloud.project, resource, 0)])


# --- update


async def test_parts_come_and_go_and_change_places(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    stored = await cloud.catalog.get(INSTANCES, instance_id)
    assert isinstance(stored.volumes, list)
    assert isinstance(stored.adapters, list)
    data, card = await cloud.add_volume("data", VolumeType.RAW), await cloud.add_adapter("second")
    changed = await change(
        cloud,
        instance_id,
        volumes=[data, *stored.volumes],
        adapters=[card, *stored.adapters],
    )
    assert changed.volumes == [data, *stored.volumes]
    assert changed.adapters == [card, *stored.adapters]
    back = await change(cloud, instance_id, volumes=stored.volumes, adapters=[])
    assert (back.volumes, back.adapters) == (stored.volumes, [])
    await (await cloud.compute.volumes.delete(ASKED, data)).outcome()
    await cloud.reconcile()  # the bridge goes too
    assert await is_clean(cloud)


async def test_what_is_left_out_of_an_update_stays(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    before = await cloud.catalog.get(INSTANCES, instance_id)
    begun = await cloud.compute.instances.update(
        ASKED, instance_id, Instance(name="web", memory=2 * GIB, vcpus=1)
    )
    after = await begun.outcome()
    assert after == msgspec.structs.replace(before, memory=2 * GIB)


async def test_a_stopped_machine_stays_stopped_when_it_changes(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    await act(cloud, instance_id, PowerAction.STOP)
    await change(cloud, instance_id, vcpus=4)
    assert (await domain(cloud)).state is DomainState.SHUTOFF
    await act(cloud, instance_id, PowerAction.START)
    seen = await domain(cloud)
    assert seen.running_generation == seen.generation


async def test_a_guest_that_had_left_is_not_started_by_a_change(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    for agent in cloud.agents:
        node = cloud.nodes[agent].node
        if await node.compute.list_domains():
            node.compute.shut_guest_down(instance_id)
    await change(cloud, instance_id, vcpus=2)
    assert (await domain(cloud)).state is DomainState.SHUTOFF
    assert await cloud.value("SELECT power FROM instance") == "stopped"


# --- delete


async def test_a_delete_leaves_adapters_and_volumes_free(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    stored = await cloud.catalog.get(INSTANCES, instance_id)
    await (await cloud.compute.instances.delete(ASKED, instance_id)).outcome()
    with pytest.raises(NotFound):
        await cloud.compute.instances.delete(ASKED, instance_id)
    again = await create(cloud, msgspec.structs.replace(stored, id=msgspec.UNSET))
    assert again.volumes == stored.volumes
    assert await is_clean(cloud)


# --- power and state


@pytest.mark.parametrize(
    ("action", "state"),
    [
        (PowerAction.STOP, DomainState.SHUTOFF),
        (PowerAction.SHUTDOWN, DomainState.SHUTOFF),
        (PowerAction.SUSPEND, DomainState.PAUSED),
        (PowerAction.REBOOT, DomainState.RUNNING),
        (PowerAction.RESET, DomainState.RUNNING),
        (PowerAction.START, DomainState.RUNNING),
        (PowerAction.RESUME, DomainState.RUNNING),
    ],
)
async def test_actions_lead_to_their_states_which_are_wanted_from_then_on(
    cloud: Cloud, action: PowerAction, state: DomainState
) -> None:
    instance_id = await cloud.add_instance("web")
    await act(cloud, instance_id, action)
    seen = await cloud.compute.machines.state(INSTANCES, instance_id)
    assert seen.state == state
    assert await is_clean(cloud)
    await act(cloud, instance_id, PowerAction.START)
    assert (await cloud.compute.machines.state(INSTANCES, instance_id)).state == "Running"


async def test_what_needs_a_running_guest_is_refused_without_one(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    await act(cloud, instance_id, PowerAction.STOP)
    for action in (
        PowerAction.REBOOT,
        PowerAction.RESET,
        PowerAction.SUSPEND,
        PowerAction.RESUME,
    ):
        with pytest.raises(Invalid, match="stopped"):
            await act(cloud, instance_id, action)
    await act(cloud, instance_id, PowerAction.STOP)


async def test_power_through_the_instance_of_a_kompute_works(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    instance_id = str(await cloud.value("SELECT id FROM instance"))
    await act(cloud, instance_id, PowerAction.STOP)
    assert (await cloud.compute.machines.state(KOMPUTES, str(made.id))).state == "Shutoff"


async def test_the_state_survives_the_agent(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    for agent in cloud.agents:
        cloud.nodes[agent].connected = False
    seen = await cloud.compute.machines.state(INSTANCES, instance_id)
    assert seen.state == "Running"
    assert "not connected" in seen.reason
    with pytest.raises(Unavailable, match="connected"):
        await act(cloud, instance_id, PowerAction.STOP)
    assert await cloud.value("SELECT power FROM instance") == "running"


async def test_a_failed_action_keeps_the_wish(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    for agent in cloud.agents:
        cloud.nodes[agent].node.faults.fail(method="compute.ensure_power", times=None)
    with pytest.raises(Unavailable, match="operation"):
        await act(cloud, instance_id, PowerAction.STOP)
    assert await cloud.value("SELECT power FROM instance") == "stopped"
    assert await cloud.value("SELECT phase FROM instance") == "error"


async def test_any_text_as_id_is_not_found(cloud: Cloud) -> None:
    for text in ("", "web", "0" * 24, "..", "A" * 24, "\0", "0" * 5000):
        for attempt in (
            cloud.compute.instances.delete(ASKED, text),
            cloud.compute.instances.update(ASKED, text, machine()),
            cloud.compute.volumes.delete(ASKED, text),
            cloud.compute.komputes.delete(ASKED, text),
            cloud.compute.templates.delete(ASKED, text),
            cloud.compute.machines.state(KOMPUTES, text),
            cloud.compute.machines.act(ASKED, INSTANCES, text, PowerAction.START),
            cloud.catalog.get(VOLUMES, text),
        ):
            with pytest.raises(NotFound):
                await attempt


def _quota(project: str, resource: str, limit: int) -> Statement:
    return Statement(f"UPDATE project SET quota_{resource} = {limit} WHERE id = ?", (project,))
