"""Komputes made per second in a simulated cloud of 100 and of 1,000 nodes, and how long one takes.

Through HTTP, with real operations, the real agent protocol and synced commits; a simulated driver
takes 5 ms for each call. The baseline is a synced commit of one row into a file beside.
"""

import asyncio
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.http_load import Connection, percentile
from tests.support.furnish import GIB, Api, Furnished, furnish
from tests.support.simulation import Simulated, simulation
from tests.support.wait import until_now

_NODES: Final = (100, 1000)
_KOMPUTES: Final = 400
_CLIENTS: Final = 32
_COMMITS: Final = 300


def run() -> dict[str, float]:
    figures: dict[str, float] = {}
    for nodes in _NODES:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            commits = _commits_per_s(directory / "bare.db")
            with simulation(directory, nodes=nodes) as server, server.client() as client:
                until_now(
                    lambda: _has_reported(Api(client), nodes),  # noqa: B023 - called at once
                    "every node has told what it has",
                    timeout_s=120,
                )
                place = furnish(Api(client))
                rate, latencies = asyncio.run(_create(server, place))
            figures |= {
                f"creates/s, {nodes} nodes": rate,
                f"bare commits per create, {nodes} nodes": commits / rate,
                f"create p50 ms, {nodes} nodes, {_CLIENTS} clients": percentile(latencies, 50)
                * 1e3,
                f"create p95 ms, {nodes} nodes, {_CLIENTS} clients": percentile(latencies, 95)
                * 1e3,
            }
    return figures


def _has_reported(api: Api, nodes: int) -> bool:
    kaktuses = api.get("/kaktus")
    # The last ones registered connect last.
    return len(kaktuses) == nodes and all(
        api.get(f"/kaktus/{kaktus}/caps")["memory"] for kaktus in reversed(kaktuses)
    )


async def _create(server: Simulated, place: Furnished) -> tuple[float, list[float]]:
    key = server.key_file.read_text(encoding="ascii").strip()
    path = f"/api/v1/project/{place.project}/zone/{place.zone}/kompute"
    numbers = iter(range(_KOMPUTES))
    latencies: list[float] = []

    async def work() -> None:
        async with Connection.open(server.url, key) as connection:
            for number in numbers:
                sizes = {"vcpus": 1, "memory": GIB // 4, "disk": 2 * GIB}
                body = msgspec.json.encode({"name": f"k{number}", **sizes})
                began = time.perf_counter()
                await connection.ask("POST", path, body)
                latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(_CLIENTS):
            group.create_task(work())
    return _KOMPUTES / (time.perf_counter() - began), latencies


def _commits_per_s(path: Path) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE one (id INTEGER PRIMARY KEY)")
        began = time.perf_counter()
        for number in range(_COMMITS):
            connection.execute("INSERT INTO one VALUES (?)", (number,))
        return _COMMITS / (time.perf_counter() - began)
    finally:
        connection.close()
