"""Which host takes an instance: the pure decision, the query and the promises."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.core.errors import InsufficientResource
from appliance.core.ids import new_id
from appliance.model.compute import Architecture
from appliance.resources.placement import Host, Spread, Wanted, place, refuse, set_spread
from appliance.services.compute import Compute
from appliance.services.komputes import KomputeOptions
from appliance.services.placement import Needs
from appliance.store.base import Statement
from tests.support.cloud import ASKED, GIB, Cloud, kompute, open_cloud

WANTED = Wanted(
    vcpus=2, memory_bytes=4 * GIB, architecture=Architecture.X86_64, reachable=frozenset("abcd")
)


def host(name: str, **traits: object) -> Host:
    """Return an empty host of 8 threads and 32 GiB, whose agent has its name."""
    fields: dict[str, object] = {
        "id": name,
        "name": name,
        "architecture": "x86_64",
        "has_cpu_model": 1,
        "cpu_threads": 8,
        "memory_bytes": 32 * GIB,
        "cpu_ratio": 3,
        "memory_ratio": 2,
        "schedulable": 1,
        "instances": 0,
        "used_vcpus": 0,
        "used_memory_bytes": 0,
        "siblings": 0,
        "agents": [name],
    }
    return Host(**(fields | traits))  # type: ignore[arg-type]


def chosen(hosts: list[Host], wanted: Wanted = WANTED) -> str | None:
    decision = place(hosts, wanted)
    return None if decision.host is None else decision.host.id


def test_the_least_full_host_is_chosen_by_what_is_scarcest_there() -> None:
    assert chosen([host("a", used_vcpus=4), host("b"), host("c", used_vcpus=2)]) == "b"
    much_memory = host("a", used_vcpus=1, used_memory_bytes=40 * GIB)
    assert chosen([much_memory, host("b", used_vcpus=10)]) == "b"
    # A large host takes more than a small one.
    assert chosen([host("a", used_vcpus=8), host("b", cpu_threads=64, used_vcpus=20)]) == "b"


def test_of_equal_hosts_the_first_is_chosen() -> None:
    assert chosen([host("a"), host("b")]) == "a"


@pytest.mark.parametrize(
    ("spread", "expected"), [(Spread.NONE, "a"), (Spread.SOFT, "b"), (Spread.HARD, "b")]
)
def test_siblings_keep_apart_as_the_project_wants(spread: Spread, expected: str) -> None:
    wanted = Wanted(
        vcpus=2,
        memory_bytes=4 * GIB,
        architecture=Architecture.X86_64,
        reachable=frozenset("ab"),
        spread=spread,
    )
    assert chosen([host("a", siblings=1), host("b", used_vcpus=12)], wanted) == expected
    alone = chosen([host("a", siblings=1)], wanted)
    assert alone == (None if spread is Spread.HARD else "a")


@pytest.mark.parametrize(
    ("traits", "reason"),
    [
        ({"agents": []}, "no agent acts for it"),
        ({"agents": ["z"]}, "its agent is not connected"),
        ({"architecture": "", "cpu_threads": 0, "memory_bytes": 0}, "has not reported"),
        ({"schedulable": 0}, "closed to new instances"),
        ({"architecture": "aarch64"}, "it is aarch64, the template is for x86_64"),
        ({"has_cpu_model": 0}, "cannot give its guests the processor of its zone"),
        ({"memory_bytes": 3 * GIB}, "its whole memory is"),
        ({"used_vcpus": 23}, "1 vCPUs and"),
        ({"used_vcpus": 30}, "0 vCPUs and"),  # a ratio was lowered
        ({"used_memory_bytes": 61 * GIB}, f"{3 * GIB} bytes of memory are free"),
    ],
)
def test_a_host_is_refused_with_the_reason(traits: dict[str, object], reason: str) -> None:
    decision = place([host("a", **traits)], WANTED)
    assert decision.host is None
    (refusal,) = decision.refusals
    assert reason in refusal.reason
    assert reason in refuse("zone", WANTED, decision.refusals).detail


def test_what_just_fits_fits() -> None:
    assert chosen([host("a", used_vcpus=22, used_memory_bytes=60 * GIB)]) == "a"


def test_a_local_pool_refuses_all_hosts_but_its_own() -> None:
    wanted = Wanted(
        vcpus=1,
        memory_bytes=GIB,
        architecture=Architecture.X86_64,
        reachable=frozenset("ab"),
        agents=frozenset("b"),
    )
    decision = place([host("a"), host("b", used_vcpus=12)], wanted)
    assert decision.host is not None
    assert decision.host.id == "b"
    assert "local to another host" in decision.refusals[0].reason


def test_a_message_names_only_so_many_hosts() -> None:
    refusals = place([host(f"h{number}") for number in range(50)], WANTED).refusals
    assert "and 30 more" in refuse("zone", WANTED, refusals).detail


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path, hosts=3) as cloud:
        yield cloud


def needs(cloud: Cloud) -> Needs:
    return Needs(
        instance_id=new_id(),
        zone_id=cloud.zone,
        project_id=cloud.project,
        vcpus=2,
        memory_bytes=GIB,
        architecture=Architecture.X86_64,
    )


async def test_promises_count_until_they_are_forgotten(cloud: Cloud) -> None:
    placement = cloud.compute.placement
    wants = [needs(cloud) for _ in range(3)]
    hosts = {(await placement.choose(each)).host_id for each in wants}
    assert hosts == set(cloud.hosts)
    for each in wants:
        placement.forget(each.instance_id)
    assert (await placement.choose(wants[0])).host_id == cloud.hosts[0]


async def test_two_processes_that_race_for_the_last_room_do_not_both_get_it(cloud: Cloud) -> None:
    # Neither knows the other's promises: only the guard in the batch can tell.
    for host_id in cloud.hosts[1:]:
        await cloud.store.batch([_close(host_id)])
    other = Compute.joined(
        cloud.store,
        cloud.engine,
        cloud.nodes,
        cloud.catalog,
        cloud.secrets,
        alarm=cloud.alarms.raise_alarm,
        clock=cloud.clock,
    )
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_outcome(cloud, f"web-{number}", vcpus=100, compute=compute))
            for number, compute in enumerate((cloud.compute, other))
        ]
    assert sorted(task.result() for task in tasks) == ["made", "refused"]


async def test_the_mode_of_a_project_is_heeded(cloud: Cloud) -> None:
    await cloud.store.batch([set_spread(cloud.project, Spread.HARD)])
    results = [await _outcome(cloud, f"web-{number}") for number in range(4)]
    assert results == ["made", "made", "made", "refused"]
    decision = await cloud.compute.placement.explain(needs(cloud))
    assert {refusal.reason for refusal in decision.refusals} == {
        "it has an instance of this project, which must be apart"
    }


def _close(host_id: str) -> Statement:
    return Statement("UPDATE kaktus SET schedulable = 0 WHERE id = ?", (host_id,))


async def _outcome(
    cloud: Cloud, name: str, *, vcpus: int = 1, compute: Compute | None = None
) -> str:
    try:
        begun = await (compute or cloud.compute).komputes.create(
            ASKED, cloud.project, cloud.zone, kompute(name, vcpus=vcpus), KomputeOptions()
        )
        await begun.outcome()
    except InsufficientResource:
        return "refused"
    return "made"


async def test_a_question_is_answered_and_nothing_is_made(cloud: Cloud) -> None:
    before = await cloud.contents()
    decision = await cloud.compute.komputes.explain(
        cloud.project, cloud.zone, vcpus=1000, memory_bytes=GIB, options=KomputeOptions()
    )
    assert decision.host is None
    assert [refusal.host_name for refusal in decision.refusals] == [
        "kaktus-0",
        "kaktus-1",
        "kaktus-2",
    ]
    assert await cloud.contents() == before
