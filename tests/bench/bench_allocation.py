"""Addresses given per second in a /20 that is empty, and in one with 4,000 taken in a row.

The baseline is the same adapter with an address that its caller chose, so that the ratios say what
choosing costs. The full subnet is the worst case: no gap before the last free addresses.
"""

import asyncio
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Final

import structlog
import uvloop

from appliance.core.clock import SystemClock
from appliance.core.ids import new_id
from appliance.resources.adapter import insert_adapter
from appliance.resources.ipv4 import format_address, parse_address
from appliance.resources.region import REGIONS, Region
from appliance.resources.subnet import SUBNETS, Subnet
from appliance.resources.vnet import VNETS, VNet
from appliance.store.base import Statement, Store
from appliance.store.sqlite import SqliteStore

_TAKEN: Final = 4000
_CALLERS: Final = 16
_PER_ROUND: Final = 64  # 4,000 and these fit into a /20
_ROUNDS: Final = 15


def run() -> dict[str, float]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory(prefix="kowabunga-bench-") as directory:
        return uvloop.run(_measure(Path(directory)))


async def _measure(directory: Path) -> dict[str, float]:
    store = await SqliteStore.open(directory / "store" / "state.db", clock=SystemClock())
    try:
        empty, full, chosen = await _subnets(store)
        await _fill(store, full)
        best = {"chosen_per_s": 0.0, "empty_per_s": 0.0, "nearly_full_per_s": 0.0}
        # In turns, and the best of each: noise of the machine falls on all alike.
        for _ in range(_ROUNDS):
            for name, subnet_id, automatic in (
                ("chosen_per_s", chosen, False),
                ("empty_per_s", empty, True),
                ("nearly_full_per_s", full, True),
            ):
                best[name] = max(best[name], await _round(store, subnet_id, automatic=automatic))
    finally:
        await store.close()
    return best | {
        "empty_ratio": best["empty_per_s"] / best["chosen_per_s"],
        "nearly_full_ratio": best["nearly_full_per_s"] / best["chosen_per_s"],
    }


async def _subnets(store: Store) -> list[str]:
    region, vnet, *subnets = (new_id() for _ in range(5))
    await store.batch(
        [
            *REGIONS.insert(region, "", Region(name="r", domain="example.org"), 0),
            *VNETS.insert(vnet, region, VNet(name="v", interface="br0"), 0),
            *(
                statement
                for number, subnet_id in enumerate(subnets)
                for statement in SUBNETS.insert(
                    subnet_id,
                    vnet,
                    Subnet(
                        name=f"n{number}",
                        cidr=f"10.{number}.0.0/20",
                        gateway=f"10.{number}.0.1",
                    ),
                    0,
                )
            ),
        ]
    )
    return subnets


async def _fill(store: Store, subnet_id: str) -> None:
    first = parse_address("10.1.0.2", "first")
    await store.batch(
        insert_adapter(
            new_id(),
            subnet_id,
            "many",
            0,
            addresses=[format_address(first + number) for number in range(_TAKEN)],
        )
    )


async def _round(store: Store, subnet_id: str, *, automatic: bool) -> float:
    """Make adapters, then take them away again so that every round finds the same."""
    offsets = count(parse_address("10.2.0.2", "first"))

    async def caller() -> None:
        for _ in range(_PER_ROUND // _CALLERS):
            addresses = [] if automatic else [format_address(next(offsets))]
            adapter_id = new_id()
            await store.batch(
                insert_adapter(
                    adapter_id,
                    subnet_id,
                    f"a-{adapter_id}",
                    0,
                    addresses=addresses,
                    automatic=automatic,
                )
            )

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(_CALLERS):
            group.create_task(caller())
    took = time.perf_counter() - start
    await store.batch(
        [Statement("DELETE FROM adapter WHERE subnet_id = ? AND name <> 'many'", (subnet_id,))]
    )
    return _PER_ROUND / took
