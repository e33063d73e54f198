"""Placement decisions per second among 1,000 hosts, the query included, and what it is made of."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import uvloop

from appliance.core.clock import SystemClock
from appliance.core.errors import Unavailable
from appliance.core.ids import new_id
from appliance.model.compute import Architecture
from appliance.resources.placement import Spread, Wanted, hosts_of_zone, place
from appliance.services.placement import Needs, Placement, decode_hosts
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore

_HOSTS: Final = 1000
_ROUNDS: Final = 15
_DECISIONS: Final = 64  # per round
_CALLERS: Final = 32
_GIB: Final = 1024**3


class _Everybody:
    """A gateway that reaches every agent and is never asked to."""

    def reachable(self, agent_id: str) -> bool:
        return bool(agent_id)

    async def call(self, agent_id: str, *_: object, **__: object) -> object:
        raise Unavailable(agent_id)


def run() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="kowabunga-bench-") as directory:
        return uvloop.run(_measure(Path(directory)))


async def _measure(directory: Path) -> dict[str, float]:
    store = await SqliteStore.open(directory / "state.db", clock=SystemClock())
    try:
        zone, project = await _fill(store)
        placement = Placement(store, _Everybody())  # type: ignore[arg-type]

        async def decide() -> None:
            needs = Needs(
                instance_id=new_id(),
                zone_id=zone,
                project_id=project,
                vcpus=2,
                memory_bytes=4 * _GIB,
                architecture=Architecture.X86_64,
            )
            await placement.choose(needs)
            placement.forget(needs.instance_id)

        async def query() -> None:
            await store.query(hosts_of_zone(zone, project))

        (row,) = await store.query(hosts_of_zone(zone, project))
        text = str(row["hosts"])
        wanted = Wanted(
            vcpus=2,
            memory_bytes=4 * _GIB,
            architecture=Architecture.X86_64,
            reachable=frozenset(agent for host in decode_hosts(text) for agent in host.agents),
            spread=Spread.SOFT,
        )

        async def decode() -> None:
            decode_hosts(text)

        hosts = decode_hosts(text)

        async def pure() -> None:
            assert place(hosts, wanted).host is not None

        return {
            "decisions/s, one caller": await _rate(decide, 1),
            f"decisions/s, {_CALLERS} callers": await _rate(decide, _CALLERS),
            "of it: queries/s": await _rate(query, 1),
            "of it: decodings/s": await _rate(decode, 1),
            "of it: passes/s": await _rate(pure, 1),
        }
    finally:
        await store.close()


async def _rate(action: Callable[[], Awaitable[None]], callers: int) -> float:
    """Return how often the action is done in a second: the median of the rounds."""

    async def caller() -> None:
        for _ in range(_DECISIONS // callers):
            await action()

    rates: list[float] = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        rates.append(_DECISIONS / (time.perf_counter() - began))
    return statistics.median(rates)


async def _fill(store: SqliteStore) -> tuple[str, str]:
    """Make a zone of half-full hosts, and a project with a machine on every tenth."""
    region, zone, project, pool = new_id(), new_id(), new_id(), new_id()
    statements = [
        Statement(
            "INSERT INTO region (id, name, description, domain, created_at_ms, updated_at_ms)"
            " VALUES (?, 'eu', '', 'eu.example.org', 0, 0)",
            (region,),
        ),
        Statement(
            "INSERT INTO zone (id, region_id, name, description, created_at_ms, updated_at_ms)"
            " VALUES (?, ?, 'eu-a', '', 0, 0)",
            (zone, region),
        ),
        Statement(
            "INSERT INTO project (id, name, description, domain, bootstrap_user,"
            " bootstrap_pubkey, tags, metadatas, prefix_length, quota_vcpus, quota_memory,"
            " quota_storage, quota_instances, created_at_ms, updated_at_ms)"
            " VALUES (?, 'acme', '', '', '', '', '[]', '[]', 26, 0, 0, 0, 0, 0, 0)",
            (project,),
        ),
        Statement(
            "INSERT INTO storage_pool (id, region_id, name, description, pool, ceph_address,"
            " ceph_secret_uuid, ceph_port, price, currency, created_at_ms, updated_at_ms)"
            " VALUES (?, ?, 'ssd', '', 'ssd', '', '', 0, '0', 'EUR', 0, 0)",
            (pool, region),
        ),
    ]
    for number in range(_HOSTS):
        agent, host = new_id(), new_id()
        statements += [
            Statement(
                "INSERT INTO agent (id, name, description, type, credential, credential_serial,"
                " created_at_ms) VALUES (?, ?, '', 'Kaktus', 'none', 0, 0)",
                (agent, f"agent-{number}"),
            ),
            Statement(
                "INSERT INTO kaktus (id, zone_id, name, description, cpu_price, cpu_currency,"
                " memory_price, memory_currency, overcommit_cpu_ratio, overcommit_memory_ratio,"
                " cpu_arch, cpu_threads, memory_bytes, created_at_ms, updated_at_ms)"
                " VALUES (?, ?, ?, '', '0', 'EUR', '0', 'EUR', 3, 2, 'x86_64', 64, ?, 0, 0)",
                (host, zone, f"kaktus-{number}", 256 * _GIB),
            ),
            Statement(
                "INSERT INTO kaktus_agent (kaktus_id, position, agent_id) VALUES (?, 0, ?)",
                (host, agent),
            ),
        ]
        if number % 10 == 0:
            statements.append(
                Statement(
                    "INSERT INTO instance (id, project_id, kaktus_id, seed_pool_id, name,"
                    " description, memory_bytes, vcpus, power, phase, created_at_ms,"
                    " updated_at_ms) VALUES (?, ?, ?, ?, ?, '', ?, 90, 'running', 'ready', 0, 0)",
                    (new_id(), project, host, pool, f"web-{number}", 200 * _GIB),
                )
            )
    await store.batch(statements)
    return zone, project
