"""Reads of komputes over HTTP, against a bare Litestar route on sqlite3 with the same SQL.

Both are served by uvicorn, each in a process of its own, over the same database with rows that
were put there directly. Then a mix of requests at a fixed rate, timed from when each was due.
"""

import asyncio
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from appliance.core.ids import new_id
from appliance.resources.kompute import KOMPUTES
from tests.bench.http_load import Connection, gets_per_s, percentile
from tests.support.furnish import GIB, Api, Furnished, furnish
from tests.support.simulation import simulation
from tests.support.wait import until_now

_COUNTS: Final = (1_000, 20_000)
_ROUNDS: Final = 3
_MIXED_PER_S: Final = 300
_MIXED_S: Final = 6
_CONNECTIONS: Final = 32

# No agent is played here: nobody misses the machines that these rows tell of.
_KAHUNA: Final = """
import sys
from pathlib import Path
from appliance.core.logs import LogLevel, configure_logs
from appliance.core.service import run_service
from appliance.roles.kahuna import KahunaConfig, run_kahuna
configure_logs(LogLevel.WARNING)
config = KahunaConfig(
    state=Path(sys.argv[1]), host="127.0.0.1", port=0, node_name="n1", plain=True
)
run_service(run_kahuna(config, ready=lambda ready: print("ready", ready.url, flush=True)))
"""

_BARE: Final = """
import socket, sqlite3, sys
import uvicorn
from litestar import Litestar, get
database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
database.row_factory = sqlite3.Row
ONE, LIST = sys.argv[2:4]
@get("/kompute/{kompute_id:str}")
async def one(kompute_id: str) -> dict:
    (row,) = database.execute(ONE, (kompute_id,)).fetchall()
    return dict(row)
@get("/kompute")
async def ids() -> list[str]:
    return [row[0] for row in database.execute(LIST).fetchall()]
app = Litestar([one, ids], openapi_config=None, logging_config=None)
listener = socket.create_server(("127.0.0.1", 0), backlog=256)
print("ready", f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
uvicorn.Server(config).run(sockets=[listener])
"""


def run() -> dict[str, float]:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with simulation(directory, nodes=1) as server, server.client() as client:
            api = Api(client)
            place = furnish(api, prefix_length=16)
            sizes = {"vcpus": 1, "memory": GIB, "disk": 2 * GIB}
            api.post(f"/project/{place.project}/zone/{place.zone}/kompute", name="first", **sizes)
        key = (directory / "master.key").read_text(encoding="ascii").strip()
        database = directory / "state" / "state.db"
        for count in _COUNTS:
            with closing(sqlite3.connect(database)) as connection:
                ids = _fill(connection, count)
            figures |= asyncio.run(_measure(directory, database, key, place, ids))
    return figures


async def _measure(
    directory: Path, database: Path, key: str, place: Furnished, ids: list[str]
) -> dict[str, float]:
    one, everything = KOMPUTES.read("").sql, KOMPUTES.list_ids.sql
    figures: dict[str, float] = {}
    with (
        _process(directory, "kahuna", _KAHUNA, str(directory / "state")) as ours,
        _process(directory, "bare", _BARE, str(database), one, everything) as bare,
    ):
        paths = {"one": [f"/kompute/{each}" for each in ids], "list": ["/kompute"]}
        for what, wanted in paths.items():
            below = [f"/api/v1{path}" for path in wanted]
            best_ours = best_bare = 0.0
            for _ in range(_ROUNDS):  # in turns: noise of the machine falls on both alike
                best_ours = max(best_ours, await gets_per_s(ours, below, key=key))
                best_bare = max(best_bare, await gets_per_s(bare, wanted))
            name = f"GET {what} of {len(ids)}"
            figures |= {f"{name}, per s": best_ours, f"{name}, of bare": best_ours / best_bare}
        figures[f"GET list of {len(ids)}, ms"] = await _once_ms(ours, key)
        figures |= await _mixed(ours, key, place, ids)
    return figures


async def _once_ms(url: str, key: str) -> float:
    async with Connection.open(url, key) as connection:
        began = time.perf_counter()
        await connection.ask("GET", "/api/v1/kompute")
        return (time.perf_counter() - began) * 1e3


async def _mixed(url: str, key: str, place: Furnished, ids: list[str]) -> dict[str, float]:
    """Ask at a fixed rate; a late answer does not put off the next request."""
    due: asyncio.Queue[tuple[float, tuple[str, str, bytes]] | None] = asyncio.Queue()
    latencies: dict[str, list[float]] = {}
    team = f"/team/{await _team(url, key)}"

    async def work() -> None:
        async with Connection.open(url, key) as connection:
            while (task := await due.get()) is not None:
                began, (method, path, body) = task
                await connection.ask(method, f"/api/v1{path}", body)
                latencies.setdefault(method, []).append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(_CONNECTIONS):
            group.create_task(work())
        began = time.perf_counter()
        for number, request in enumerate(_requests(place, ids, team)):
            at = began + number / _MIXED_PER_S
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            due.put_nowait((at, request))
        for _ in range(_CONNECTIONS):
            due.put_nowait(None)
    everything = [latency for each in latencies.values() for latency in each]
    name = f"at {_MIXED_PER_S}/s mixed, {len(ids)} komputes"
    return {
        f"p95 ms {name}": percentile(everything, 95) * 1e3,
        f"p95 ms of writes {name}": percentile(latencies["PUT"], 95) * 1e3,
    }


def _requests(place: Furnished, ids: list[str], team: str) -> Iterator[tuple[str, str, bytes]]:
    """Of 20: 12 komputes, 4 states of machines, 2 projects, 1 usage, 1 write."""
    for number in range(_MIXED_PER_S * _MIXED_S):
        kompute = f"/kompute/{ids[number * 31 % len(ids)]}"
        match number % 20:
            case 0:
                body = {"name": "ops", "description": str(number), "users": []}
                yield "PUT", team, json.dumps(body).encode()
            case 1 | 2:
                yield "GET", f"/project/{place.project}", b""
            case 3:
                yield "GET", f"/project/{place.project}/usage", b""
            case 4 | 5 | 6 | 7:
                yield "GET", f"{kompute}/state", b""
            case _:
                yield "GET", kompute, b""


async def _team(url: str, key: str) -> str:
    async with Connection.open(url, key) as connection:
        (team,) = json.loads((await connection.ask("GET", "/api/v1/team")).body)
        return str(team)


def _fill(connection: sqlite3.Connection, count: int) -> list[str]:
    """Copy the rows of one kompute until there are `count`; return all ids."""
    connection.row_factory = sqlite3.Row
    (existing,) = connection.execute("SELECT COUNT(*) FROM kompute").fetchone()
    first = connection.execute("SELECT id FROM kompute ORDER BY id LIMIT 1").fetchone()[0]
    (instance,) = connection.execute(
        "SELECT id FROM instance WHERE kompute_id = ?", (first,)
    ).fetchone()
    volume = connection.execute("SELECT * FROM volume WHERE kompute_id = ?", (first,)).fetchone()
    adapter = connection.execute("SELECT * FROM adapter WHERE kompute_id = ?", (first,)).fetchone()
    copied = {
        "kompute": connection.execute("SELECT * FROM kompute WHERE id = ?", (first,)).fetchone(),
        "instance": connection.execute(
            "SELECT * FROM instance WHERE id = ?", (instance,)
        ).fetchone(),
        "volume": volume,
        "adapter": adapter,
        "adapter_address": connection.execute(
            "SELECT * FROM adapter_address WHERE adapter_id = ?", (adapter["id"],)
        ).fetchone(),
    }
    for number in range(existing, count):
        ids = {table: new_id() for table in copied}
        changes: dict[str, dict[str, str | int]] = {
            "kompute": {"id": ids["kompute"], "name": f"k{number}"},
            "instance": {
                "id": ids["instance"], "kompute_id": ids["kompute"], "name": f"k{number}",
            },
            "volume": {
                "id": ids["volume"], "kompute_id": ids["kompute"],
                "instance_id": ids["instance"], "name": f"v{number}",
            },
            "adapter": {
                "id": ids["adapter"], "kompute_id": ids["kompute"],
                "instance_id": ids["instance"], "name": f"a{number}",
                "mac": ":".join(f"{number:012x}"[at : at + 2] for at in range(0, 12, 2)),
            },
            "adapter_address": {
                "adapter_id": ids["adapter"],
                "address": copied["adapter_address"]["address"] + number,
            },
        }  # fmt: skip
        for table, row in copied.items():
            copy = {**dict(row), **changes[table]}
            marks = ", ".join("?" * len(copy))
            connection.execute(
                f"INSERT INTO {table} ({', '.join(copy)}) VALUES ({marks})", list(copy.values())
            )
    connection.commit()
    return [row[0] for row in connection.execute("SELECT id FROM kompute ORDER BY id")]


@contextmanager
def _process(directory: Path, name: str, program: str, *words: str) -> Generator[str]:
    """Run a server; yield its URL."""
    told = directory / f"{name}.out"
    with (
        told.open("wb") as out,
        subprocess.Popen([sys.executable, "-c", program, *words], stdout=out) as process,
    ):
        try:
            until_now(
                lambda: process.poll() is not None or told.read_text().endswith("\n"),
                f"{name} is ready",
                timeout_s=60,
            )
            assert process.poll() is None, told.read_text()
            yield told.read_text().split()[1]
        finally:
            process.terminate()
            process.wait(20)
