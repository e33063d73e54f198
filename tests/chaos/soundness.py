"""What must hold of a crowd that has come to rest, beyond what `kowabunga state verify` tells."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from appliance.core.clock import SystemClock
from appliance.model.domain_state import DomainState
from appliance.store.sqlite import SqliteStore
from tests.chaos.crowd import EXT, MACHINE, QUOTA, V1, Crowd
from tests.chaos.users import Machine
from tests.property.clients.invariants import broken

# What machines consist of, and leave nothing of.
_EMPTY: Final = (
    "kompute", "instance", "volume", "adapter", "adapter_address", "operation_target", "txn_guard",
    "vrrp_id",
)  # fmt: skip


_NEVER: Final = frozenset({"image_missing", "image_unknown", "domain_unknown"})
_BAD: Final = frozenset({"error", "critical"})


class _Event(msgspec.Struct):
    level: str


async def wrong_machines(
    crowd: Crowd, told: dict[str, Machine]
) -> dict[str, tuple[object, object]]:
    """Return the machines that users were told of and that are not, or the other way round."""
    found = {
        each["name"]: Machine(each["id"], each["vcpus"], await _runs(crowd, each["id"]))
        for each in await crowd.machines()
    }
    return {
        name: (told.get(name), found.get(name))
        for name in sorted(told.keys() | found.keys())
        if told.get(name) != found.get(name)
    }


async def _runs(crowd: Crowd, machine_id: str) -> bool:
    seen = await crowd.ask("GET", f"{V1}/kompute/{machine_id}/state")
    return bool(seen["state"] == DomainState.RUNNING)


async def remove_all(crowd: Crowd) -> None:
    for each in await crowd.machines():
        assert await crowd.persist("DELETE", f"{V1}/kompute/{each['id']}") in (200, 404)


async def fill(crowd: Crowd) -> list[int]:
    """Create what the quota holds, and one more; return the statuses of what was refused."""

    async def create(number: int) -> int:
        zone = crowd.zones[number % len(crowd.zones)]
        path = f"{V1}/project/{crowd.project}/zone/{zone}/kompute"
        return await crowd.persist("POST", path, name=f"full-{number}", **MACHINE)

    statuses = await asyncio.gather(*(create(number) for number in range(QUOTA + 1)))
    return sorted(status for status in statuses if status != 201)


async def false_alarms(crowd: Crowd) -> list[object]:
    """Return the alarms about what is missing or unknown: nothing ever was."""
    alarms = await crowd.ask("GET", f"{EXT}/alarms")
    return [each for each in alarms if each["kind"] in _NEVER]


async def wrong_rows(state: Path, *, empty: bool) -> dict[str, object]:
    """Look into the database of a Kahuna that has ended; `empty`: no machine is left."""
    store = await SqliteStore.open(state / "state.db", clock=SystemClock())
    try:
        found = await broken(store)
    finally:
        await store.close()
    with closing(sqlite3.connect(state / "state.db")) as rows:
        for table in _EMPTY if empty else _EMPTY[-3:-1]:
            (count,) = rows.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
            if count:
                found[table] = count
    return found


def things_left(world: Path) -> list[tuple[str, str, str]]:
    """Return what lies on the nodes and in the pools of a cloud without machines."""
    with closing(sqlite3.connect(world)) as things:
        return things.execute(
            "SELECT place, kind, id FROM thing WHERE NOT (kind = 'bridge' OR"
            " kind = 'image' AND json_extract(body, '$.purpose') = 'template')"
        ).fetchall()


def fences_ahead(crowd: Crowd) -> list[tuple[str, int, int]]:
    """Return the targets of which an agent knows a higher fence than Kahuna ever gave out."""
    with closing(sqlite3.connect(crowd.state / "state.db")) as rows:
        given = dict(rows.execute("SELECT target, fence FROM target_fence"))
        (floor,) = rows.execute("SELECT fence FROM fence_floor").fetchone()  # of those forgotten
    ahead: list[tuple[str, int, int]] = []
    for path in sorted((crowd.directory / "fences").glob("*.fences")):
        with closing(sqlite3.connect(path)) as book:
            ahead += [
                (target, fence, given.get(target, floor))
                for target, fence in book.execute("SELECT target, fence FROM fence")
                if fence > given.get(target, floor)
            ]
    return ahead


def bugs_told(crowd: Crowd) -> list[str]:
    """Return what the logs tell of that nobody should see, however much dies."""
    lines = [
        line
        for process in (crowd.kahuna, *crowd.nodes)
        for line in process.log.read_text().splitlines()
    ]
    return [line for line in lines if line.startswith("Traceback") or _is_bad(line)]


def _is_bad(line: str) -> bool:
    if not (line.startswith("{") and line.endswith("}")):
        return False  # killed in the middle of it
    return msgspec.json.decode(line, type=_Event).level in _BAD
