"""A process that imports a template and that a test kills."""

import asyncio
import sys
from pathlib import Path

from appliance.core.clock import SystemClock
from appliance.drivers.local_pool.storage import LocalPoolStorage
from appliance.model.storage import LocalPool, TemplateSource


async def main(root: str, url: str, template_id: str) -> None:
    storage = LocalPoolStorage(
        [Path(root)], memory=Path(root, "known-pools.json"), clock=SystemClock()
    )
    source = TemplateSource(template_id=template_id, url=url, allowed_sources=("127.0.0.0/8",))
    await storage.import_template(LocalPool(directory=f"{root}/a"), source, lambda _: None)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
