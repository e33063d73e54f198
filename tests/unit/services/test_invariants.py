"""Each invariant is broken once, in the rows of a real cloud, and has to be found alone."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from appliance.services.invariants import CHECKS, verify_rows
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock
from tests.support.cloud import open_cloud

NOBODY: Final = "f" * 24

# By the name of the check: what breaks it, and what is told.
PLANTS: Final = {
    "an operation that has ended holds nothing": (
        "INSERT INTO operation_target SELECT target, (SELECT max(id) FROM operation), fence"
        " FROM target_fence WHERE target LIKE 'kompute/%'",
        "which has ended",
    ),
    "an operation that goes on holds all its targets": (
        "UPDATE operation SET state = 'running', finished_at_ms = NULL"
        " WHERE kind = 'template_create'",
        "is not held by operation",
    ),
    "who holds a target has its highest fence": (
        f"INSERT INTO operation VALUES ('{NOBODY}', 'x', 'user', 'master', NULL, '{{}}', '[]',"
        " 'running', 0, 0, NULL, 1, 0, NULL, 0, 1, 0, NULL, NULL, 0, NULL);"
        f"INSERT INTO operation_target SELECT target, '{NOBODY}', fence + 1"
        " FROM target_fence WHERE target LIKE 'kompute/%'",
        "is held under fence 2, and 1 was given out last",
    ),
    "what is being made is made by an operation": (
        "UPDATE kompute SET phase = 'creating'",
        "is being made, and no operation works on it",
    ),
    "a Kompute has an instance": (
        "UPDATE instance SET kompute_id = NULL; UPDATE volume SET kompute_id = NULL;"
        " UPDATE adapter SET kompute_id = NULL",
        "has no instance",
    ),
    "a Kompute and its instance are in one project and zone": (
        f"UPDATE kompute SET zone_id = '{NOBODY}'",
        "are not of one project and zone",
    ),
    "the parts of a Kompute are in its instance": (
        "UPDATE adapter SET instance_id = NULL, position = NULL",
        "is not in its instance",
    ),
    "an instance has one volume with a system, and its volumes are of its project": (
        f"UPDATE volume SET project_id = '{NOBODY}'",
        "has 1 volumes with a system and 1 of another project",
    ),
    "a clone is in the pool of its template": (
        f"UPDATE template SET storage_pool_id = '{NOBODY}'",
        "is not in the pool of its template",
    ),
    "nothing is seen that was never wished for": (
        "UPDATE volume SET observed_generation = generation + 1",
        "is seen as of generation 2",
    ),
    "an address is in the subnet of its adapter": (
        "UPDATE adapter_address SET address = 1",
        "has an address that is not of its subnet",
    ),
    "a private network is used by its own project": (
        f"UPDATE project_region SET project_id = '{NOBODY}'",
        "to a private network of another project",
    ),
    "a project's subnet is in its region": (
        f"UPDATE project_region SET region_id = '{NOBODY}'",
        "of another region",
    ),
    "the load of a host is the sum of its instances": (
        "UPDATE kaktus_load SET vcpus = vcpus + 1",
        "is said to run 1 instances",
    ),
    "a secret has an owner": (
        f"UPDATE secret SET owner = 'instance/{NOBODY}' WHERE owner LIKE 'instance/%'",
        "which does not exist",
    ),
    "what cannot be without a secret has it": (
        "UPDATE agent SET credential = 'hmac'",
        "has no secret verifier",
    ),
    "every member has every data key": ("DELETE FROM data_key_wrap", "cannot get data key"),
}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the database of a cloud with one machine."""

    async def furnish(directory: Path) -> None:
        async with open_cloud(directory, hosts=1) as cloud:
            await cloud.add_kompute("web")

    directory = tmp_path_factory.mktemp("cloud")
    asyncio.run(furnish(directory))
    return directory / "state.db"


async def verify(path: Path) -> list[str]:
    store = await SqliteStore.open(path, clock=ManualClock())
    try:
        return await verify_rows(store)
    finally:
        await store.close()


async def test_a_sound_cloud_breaks_none(furnished: Path, tmp_path: Path) -> None:
    assert await verify(Path(shutil.copy(furnished, tmp_path / "state.db"))) == []


def test_each_check_has_a_plant() -> None:
    assert list(PLANTS) == [check.name for check in CHECKS]


@pytest.mark.parametrize("name", PLANTS)
async def test_what_is_planted_is_found(furnished: Path, tmp_path: Path, name: str) -> None:
    plant, told = PLANTS[name]
    path = Path(shutil.copy(furnished, tmp_path / "state.db"))
    with closing(sqlite3.connect(path)) as careless:  # foreign keys are off by default
        careless.executescript(plant)
    findings = await verify(path)
    assert findings
    assert all(told in finding for finding in findings)
