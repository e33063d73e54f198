"""Deadlines and attachment of requests whose work is an operation, in manual time."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.core.errors import DeadlineExceeded, NotFound, Unavailable
from appliance.core.ids import new_id
from appliance.resources.instance import INSTANCES
from appliance.resources.instance_work import INSTANCE_UPDATE, PowerAction
from appliance.resources.kompute import KOMPUTES
from appliance.resources.kompute_work import KOMPUTE_CREATE
from appliance.resources.template import TEMPLATE_CREATE
from appliance.services.compute import COMPUTE_KINDS
from appliance.services.durable import CHANGE_S, CREATE_S, deadline_s
from appliance.services.komputes import KomputeOptions
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore
from tests.support.cloud import ASKED, Cloud, cloud_on, kompute
from tests.support.drive import Drive, DrivenStore, JumpingClock
from tests.support.wait import until

TERRAFORM_CREATE_S = 30 * 60
TERRAFORM_CHANGE_S = 5 * 60


@pytest_asyncio.fixture
async def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
def drive(clock: JumpingClock) -> Drive:
    return Drive(clock)


@pytest_asyncio.fixture
async def cloud(tmp_path: Path, clock: JumpingClock, drive: Drive) -> AsyncGenerator[Cloud]:
    store = await SqliteStore.open(tmp_path / "state.db", clock=clock)
    try:
        async with cloud_on(DrivenStore(store, drive), tmp_path, clock, hosts=1) as cloud:
            cloud.nodes.at_work = drive.in_thread
            yield cloud
    finally:
        await store.close()


def test_deadlines_lie_under_those_of_the_clients() -> None:
    assert deadline_s(KOMPUTE_CREATE) == CREATE_S < TERRAFORM_CREATE_S
    assert deadline_s(INSTANCE_UPDATE) == CHANGE_S < TERRAFORM_CHANGE_S
    for kind in COMPUTE_KINDS:
        budget_s = kind.budget_s
        assert budget_s <= deadline_s(kind), kind.name
    assert TEMPLATE_CREATE.budget_s > 900


async def test_a_passed_deadline_names_the_operation_which_goes_on(
    cloud: Cloud, clock: JumpingClock, drive: Drive
) -> None:
    asked_at = clock.monotonic()
    gate = cloud.nodes.hold("compute.ensure_domain")
    begun = await cloud.compute.komputes.create(
        ASKED, cloud.project, cloud.zone, kompute("web"), KomputeOptions()
    )
    await until(lambda: gate.waiting, "the create to be under way")
    cloud.nodes.hold("compute.ensure_domain_absent")  # the undo hangs too
    task: asyncio.Task[object] = asyncio.get_running_loop().create_task(_of(begun.outcome()))
    await drive.until(task.done)
    assert clock.monotonic() - asked_at <= CREATE_S + 60
    with pytest.raises(DeadlineExceeded, match=str(begun.operation_id)):
        await task
    assert not (await cloud.engine.get(str(begun.operation_id))).finished


async def test_a_create_that_takes_too_long_is_undone(
    cloud: Cloud, clock: JumpingClock, drive: Drive
) -> None:
    asked_at = clock.monotonic()
    gate = cloud.nodes.hold("compute.ensure_domain")
    begun = await cloud.compute.komputes.create(
        ASKED, cloud.project, cloud.zone, kompute("web"), KomputeOptions()
    )
    await until(lambda: gate.waiting, "the create to be under way")
    task: asyncio.Task[object] = asyncio.get_running_loop().create_task(_of(begun.outcome()))
    await drive.until(task.done)
    assert clock.monotonic() - asked_at <= CREATE_S
    with pytest.raises(Unavailable, match="undone"):
        await task
    assert await cloud.count("kompute") == 0


async def test_a_busy_object_is_waited_for_up_to_the_deadline_of_the_request(
    cloud: Cloud, clock: JumpingClock, drive: Drive
) -> None:
    await cloud.add_kompute("web")
    (instance_id,) = await cloud.catalog.list_ids(INSTANCES)
    holder = await _hold(cloud, f"instance/{instance_id}")
    begun = clock.monotonic()
    task: asyncio.Task[object] = asyncio.get_running_loop().create_task(
        _of(cloud.compute.machines.act(ASKED, INSTANCES, instance_id, PowerAction.STOP))
    )
    await drive.until(task.done)
    with pytest.raises(DeadlineExceeded, match=holder):
        await task
    assert clock.monotonic() - begun <= CHANGE_S + 2
    assert await cloud.value("SELECT power FROM instance") == "running"


async def test_an_object_that_goes_while_a_request_waits_for_it_is_not_found(
    cloud: Cloud,
) -> None:
    made = await cloud.add_kompute("web")
    gate = cloud.nodes.hold("compute.ensure_domain_absent")
    loop = asyncio.get_running_loop()
    deleting = await cloud.compute.komputes.delete(ASKED, str(made.id))
    await until(lambda: gate.waiting, "the delete to be under way")
    waiting: asyncio.Task[object] = loop.create_task(
        _of(cloud.compute.komputes.delete(ASKED, str(made.id)))
    )
    await asyncio.sleep(0)
    gate.open()
    await deleting.outcome()
    with pytest.raises(NotFound):
        await waiting
    with pytest.raises(NotFound):
        await cloud.catalog.get(KOMPUTES, str(made.id))


async def _of(awaitable: object) -> object:
    return await awaitable  # type: ignore[misc]


async def _hold(cloud: Cloud, target: str) -> str:
    """Let an operation that this engine does not know hold a target."""
    operation_id = new_id()
    await cloud.store.batch(
        [
            Statement(
                "INSERT INTO operation (id, kind, origin, principal, arguments, targets, state,"
                " claimed_by, budget_ms, created_at_ms)"
                " VALUES (?, 'foreign', 'user', 'master', '{}', '[]', 'running', 'x', 1000, 0)",
                (operation_id,),
            ),
            Statement(
                "INSERT INTO operation_target (target, operation_id, fence) VALUES (?, ?, 99)",
                (target, operation_id),
            ),
        ]
    )
    return operation_id
