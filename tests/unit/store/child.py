"""A process that writes pairs of rows, eight batches at a time, and says which are durable.

    python -m tests.unit.store.child PATH

To be killed at any moment: the test then compares what it said with what is there.
"""

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from appliance.core.clock import SystemClock
from appliance.store.sqlite import SqliteStore
from tests.unit.store.rows import CREATE, add


async def main(path: Path) -> None:
    store = await SqliteStore.open(path, clock=SystemClock(), migrations=())
    await store.batch([CREATE])
    numbers = count()

    async def write() -> None:
        while True:
            number = next(numbers)
            await store.batch([add(f"{number}-1", "x" * 900), add(f"{number}-2", "x" * 900)])
            os.write(1, b"%d\n" % number)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(write())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
