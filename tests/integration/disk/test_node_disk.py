"""Disks of a node that fail below a real Kahuna and a real Kaktus, as users see it."""

import asyncio
from collections.abc import Generator

import httpx
import pytest

from tests.contract.drivers.rig import MIB
from tests.integration.disk.test_fences_full import FULL as FENCES_FULL
from tests.integration.disk.test_pool_disk import FULL, IMAGE, UNMOUNTED
from tests.support.small_disk import small_disk
from tests.support.storage_node import StorageNode, storage_node
from tests.support.wait import until
from tests.support.web import Page, open_web

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def node() -> Generator[StorageNode]:
    with storage_node() as running:
        yield running


async def create_volume(client: httpx.AsyncClient, node: StorageNode, name: str) -> httpx.Response:
    return await client.post(node.volumes, json={"name": name, "type": "raw", "size": 2 * MIB})


async def delete(client: httpx.AsyncClient, volume_id: str) -> httpx.Response:
    return await client.delete(f"/api/v1/volume/{volume_id}")


@FULL
async def test_without_room_users_hear_it_and_nothing_is_left(node: StorageNode) -> None:
    async with node.client() as client, open_web() as web:
        source = web.put("/image", Page(content=IMAGE))
        templates = f"/api/v1/pool/{node.pool_id}/template"
        node.disk.fill()
        for answer in (
            await create_volume(client, node, "data"),
            await client.post(templates, json={"name": "debian", "source": source}),
        ):
            assert answer.status_code == 507, answer.text
            assert "add storage" in answer.json()["reason"]
        node.assert_sound()
        assert node.names() == []
        node.disk.relieve()
        made = await create_volume(client, node, "data")
        imported = await client.post(templates, json={"name": "debian", "source": source})
        assert (made.status_code, imported.status_code) == (201, 201)
        node.assert_sound()
        await delete(client, made.json()["id"])
        await client.delete(f"/api/v1/template/{imported.json()['id']}")
        assert node.names() == []


@UNMOUNTED
async def test_a_disk_that_is_not_mounted_is_waited_for(node: StorageNode) -> None:
    async with node.client() as client, asyncio.TaskGroup() as group:
        volume_id = (await create_volume(client, node, "data")).json()["id"]
        with small_disk(node.disk.path, "1m") as bare:
            node.restart_kaktus()  # its pools are looked at when it comes
            await until(lambda: node.ask("/alarms"), "an alarm is raised")
            (alarm,) = node.ask("/alarms")
            assert (alarm["kind"], alarm["target"]) == (
                "pool_unusable",
                f"storage_pool/{node.pool_id}",
            )
            deleting = group.create_task(delete(client, volume_id))
            creating = group.create_task(create_volume(client, node, "more"))
            await until(
                lambda: [bool(each["problem"]) for each in node.unfinished()] == [True, True],
                "both tell why they wait",
            )
            for operation in node.unfinished():
                assert "mount its disk" in operation["problem"]["hint"]
            assert bare.names() == []
        assert (await deleting).is_success
        made = await creating
        assert made.status_code == 201, made.text
        node.assert_sound()
        assert node.names() == [f"{made.json()['id']}.volume.qcow2"]
        assert (await delete(client, made.json()["id"])).is_success


@FENCES_FULL
async def test_an_agent_that_cannot_keep_its_fences_does_nothing_until_it_can(
    node: StorageNode,
) -> None:
    async with node.client() as client, asyncio.TaskGroup() as group:
        node.agent_disk.fill()
        tasks = list[asyncio.Task[httpx.Response]]()
        # What is free within the file is used up first.
        while not any(each["problem"] for each in node.unfinished()):
            name = f"data-{len(tasks)}"
            tasks.append(group.create_task(create_volume(client, node, name)))
            await asyncio.wait(tasks, timeout=0.5, return_when=asyncio.ALL_COMPLETED)
        made = len(node.names())
        (waiting, *_) = [each for each in node.unfinished() if each["problem"]]
        assert "fences.db" in waiting["problem"]["detail"]
        assert "free some space" in waiting["problem"]["hint"]
        node.agent_disk.relieve()
        answers = [await task for task in tasks]
        assert {answer.status_code for answer in answers} == {201}
        assert made < len(answers)
        node.assert_sound()
        for answer in answers:
            assert (await delete(client, answer.json()["id"])).is_success
