"""A Kahuna as a process that tests kill; it tells its tasks and objects, which /proc cannot.

Arguments: the state directory, the port, and the file to tell in.
"""

import asyncio
import gc
import sys
from pathlib import Path
from typing import Final

from appliance.core.clock import SystemClock
from appliance.core.logs import configure_logs
from appliance.core.service import run_service
from appliance.roles.kahuna import KahunaConfig, Ready, open_kahuna

_EVERY_S: Final = 0.5


async def _tell(path: Path) -> None:
    while True:
        new = path.with_suffix(".new")
        new.write_text(f"{len(asyncio.all_tasks())} {len(gc.get_objects())}\n")
        new.replace(path)
        await asyncio.sleep(_EVERY_S)


def _ready(ready: Ready) -> None:
    print("ready", ready.url, flush=True)


async def _serve(config: KahunaConfig, told: Path) -> None:
    async with open_kahuna(config, SystemClock()) as kahuna, asyncio.TaskGroup() as group:
        group.create_task(_tell(told))
        await kahuna.serve(_ready)


def main() -> None:
    state, port, told = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    configure_logs()
    config = KahunaConfig(state=state, host="127.0.0.1", port=port, node_name="n1", plain=True)
    run_service(_serve(config, told))


if __name__ == "__main__":
    main()
