"""Fifty clients at once, over all that the contract serves, while nodes fail: nothing breaks."""

import asyncio
import random
from pathlib import Path
from typing import Final

import pytest

from appliance.api.v1.routes import V1_PATH
from appliance.drivers.fake.world import World
from appliance.store.base import Statement
from tests.property.clients.bodies import GIB, Known
from tests.property.clients.crowd import ROUTES_BY_ID, Client, History, trouble_nodes
from tests.property.clients.furnish import furnish
from tests.property.clients.invariants import broken
from tests.property.clients.served import Served, open_served
from tests.support.logs import captured_logs

_SEEDS: Final = (1, 2, 3)
_CLIENTS: Final = 50
_REQUESTS: Final = 50  # of each client
_CROWD_S: Final = 200.0  # a request that takes so long waits for what will not come
_REST_S: Final = 100.0


async def run_crowd(served: Served, seed: int, history: History) -> None:
    """Let the crowd in, and go on when the last of it has its answer."""
    known = Known()
    await furnish(served, known)
    clients = [
        Client(f"c{number:02}", random.Random(f"{seed}/{number}"), served, known, history)
        for number in range(_CLIENTS)
    ]
    async with asyncio.TaskGroup() as group:
        trouble = group.create_task(trouble_nodes(random.Random(seed), served, history))
        await asyncio.gather(*(client.act(_REQUESTS) for client in clients))
        trouble.cancel()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", _SEEDS)
async def test_whatever_fifty_clients_do_at_once_the_cloud_is_sound_afterwards(
    seed: int, tmp_path: Path
) -> None:
    history = History()
    with captured_logs() as log:
        async with open_served(tmp_path) as served:
            try:
                async with asyncio.timeout(_CROWD_S):
                    await run_crowd(served, seed, history)
            except TimeoutError:
                history.wrong.append("some wait for ever")
            left = await served.come_to_rest(_REST_S)
            rows = await broken(served.services.store)
    bugs = [line for line in log.getvalue().splitlines() if "request_failed" in line]
    if history.wrong or left or rows or bugs:
        print(*history.lines, sep="\n")
    assert (history.wrong, left, rows, bugs) == ([], [], {}, []), f"seed {seed}"
    # The crowd was no crowd if hardly anything could be done.
    assert len(history.asked) > 0.9 * len(ROUTES_BY_ID)
    assert len(history.succeeded) > 0.8 * len(ROUTES_BY_ID)


async def test_the_checker_notices_what_changes_behind_kahunas_back(tmp_path: Path) -> None:
    known = Known()
    with captured_logs():
        async with open_served(tmp_path) as served:
            await furnish(served, known)
            project, zone = known.kept["projectId"][0], known.kept["zoneId"][0]
            for name in ("gone", "grown"):
                body = {"name": name, "memory": GIB, "vcpus": 1, "disk": 2 * GIB}
                path = f"{V1_PATH}/project/{project}/zone/{zone}/kompute"
                await served.ask("POST", path, body)
            assert await served.come_to_rest(_REST_S) == []
            store = served.services.store
            rows = await store.query(
                Statement(
                    "SELECT instance.id, agent_id FROM instance"
                    " JOIN kaktus_agent USING (kaktus_id) WHERE name = 'gone'"
                )
            )
            domain = str(rows[0]["id"])
            with World(tmp_path / "state/simulation/world.db") as world:
                world.remove(f"node/{rows[0]['agent_id']}", "domain", domain)
            await store.batch(
                [
                    Statement("UPDATE project SET quota_vcpus = 1 WHERE id = ?", (project,)),
                    Statement(
                        "INSERT INTO volume (id, project_id, storage_pool_id, name, description,"
                        " type, size_bytes, phase, observed_generation, created_at_ms,"
                        " updated_at_ms) VALUES (?, ?, ?, 'by hand', '', 'raw', 1024, 'ready', 1,"
                        " 0, 0)",
                        ("f" * 24, project, known.kept["poolId"][0]),
                    ),
                ]
            )
            found = await served.findings()
            passed = await broken(store)
    assert sorted(found) == [
        f"instance/{domain}: a card is plugged, and its domain is gone",
        f"instance/{domain}: its domain is not on its host",
        f"volume/{'f' * 24}: its image is not in its pool",
    ]
    assert "a quota that was passed" in passed
