"""Two hundred creates at once: what there is goes to so many, and to no two."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from appliance.api.v1.routes import V1_PATH
from appliance.store.base import Statement
from tests.property.clients.bodies import GIB, Known
from tests.property.clients.furnish import furnish
from tests.property.clients.invariants import broken
from tests.property.clients.served import Served, open_served
from tests.support.logs import captured_logs

_CREATES: Final = 200
_REST_S: Final = 100.0


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncGenerator[Served]:
    with captured_logs():
        async with open_served(tmp_path) as served:
            yield served


async def _create_all(served: Served, known: Known, *, vcpus: int) -> list[httpx.Response]:
    """Ask for all at once; every other one is public."""
    project, zone = known.kept["projectId"][0], known.kept["zoneId"][0]
    body: dict[str, Any] = {"memory": GIB, "vcpus": vcpus, "disk": 2 * GIB}
    return await asyncio.gather(
        *(
            served.master.post(
                f"{V1_PATH}/project/{project}/zone/{zone}/kompute",
                params={"public": "true"} if number % 2 else {},
                json=body | {"name": f"web-{number}"},
            )
            for number in range(_CREATES)
        )
    )


async def _is_sound(served: Served) -> bool:
    return (await served.come_to_rest(_REST_S), await broken(served.services.store)) == ([], {})


async def test_two_hundred_creates_at_once_get_what_the_quota_holds_and_share_nothing(
    served: Served,
) -> None:
    known = Known()
    await furnish(served, known)
    project = f"{V1_PATH}/project/{known.kept['projectId'][0]}"
    stored = await served.ask("GET", project)
    await served.ask("PUT", project, stored | {"quotas": {"vcpus": 121, "instances": 100}})
    answers = await _create_all(served, known, vcpus=2)
    told = Counter(answer.status_code for answer in answers)
    assert told == {201: 60, 507: 140}
    assert len({answer.json()["ip"] for answer in answers if answer.is_success}) == 60
    assert "quota" in next(answer for answer in answers if not answer.is_success).text
    assert await served.ask("GET", f"{project}/usage") | {"storage": 0} == {
        "vcpus": 120, "memory": 60 * GIB, "storage": 0, "instances": 60,
    }  # fmt: skip
    assert await _is_sound(served)


@pytest.mark.parametrize("cpu_ratio", [1, 2])
async def test_two_hundred_creates_at_once_get_what_the_hosts_hold(
    served: Served, cpu_ratio: int
) -> None:
    known = Known()
    await furnish(served, known)
    for kaktus in known.kept["kaktusId"]:
        path = f"{V1_PATH}/kaktus/{kaktus}"
        stored = await served.ask("GET", path)
        await served.ask("PUT", path, stored | {"overcommit_cpu_ratio": cpu_ratio})
    hosts = await served.services.store.query(Statement("SELECT cpu_threads AS n FROM kaktus"))
    vcpus = 5
    room = sum(int(host["n"] or 0) * cpu_ratio // vcpus for host in hosts)
    assert 0 < room < _CREATES
    answers = await _create_all(served, known, vcpus=vcpus)
    assert Counter(answer.status_code for answer in answers) == {201: room, 507: _CREATES - room}
    assert await _is_sound(served)
