"""A whole simulated Kahuna without sockets: requests enter at its edge, agents dial in memory."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from appliance.api.app import as_asgi, create_app
from appliance.api.authenticate import by_credential
from appliance.api.edge import Edge
from appliance.api.services import Services
from appliance.core.clock import SystemClock
from appliance.core.errors import KowabungaError
from appliance.core.files import ensure_private_directory
from appliance.roles.cast import Cast
from appliance.roles.kahuna import KahunaConfig, open_kahuna
from appliance.rpc.local import LocalDialer

EXT: Final = "/api/ext/v1"
_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Served:
    services: Services
    master: httpx.AsyncClient
    cast: Cast

    async def ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        """Send a request that must be answered well; return what is answered."""
        answer = await self.master.request(method, path, json=body)
        assert answer.is_success, (method, path, body, answer.text)
        return answer.json() if answer.content else None

    async def findings(self) -> list[str]:
        """Return what `kowabunga state verify` tells."""
        found: list[str] = (await self.ask("POST", f"{EXT}/state/verify"))["findings"]
        return found

    async def come_to_rest(self, timeout_s: float) -> list[str]:
        """Mend every node and let all work end; return what is left that should not be.

        The nodes are looked at meanwhile, as Kahuna does by itself every few minutes.
        """
        end = time.monotonic() + timeout_s
        while True:
            unfinished = await self.services.engine.list(unfinished=True, limit=1000)
            left = [f"unfinished: {operation}" for operation in unfinished]
            if not left:
                left = await self.findings()
            if not left or time.monotonic() > end:
                return left
            for node in await self.ask("GET", f"{EXT}/sim/nodes"):
                await self.ask("POST", f"{EXT}/sim/nodes/{node['agent_id']}/mend")
                self.services.compute.reconciler.agent_connected(node["agent_id"])
            for operation in unfinished:
                try:
                    await self.services.engine.retry(operation.id, "master")
                except KowabungaError:
                    continue  # it has ended meanwhile
            await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def open_served(directory: Path) -> AsyncGenerator[Served]:
    """Run one for the life of the block."""
    clock = SystemClock()
    cast = Cast(clock)
    config = KahunaConfig(
        state=directory / "state", host="127.0.0.1", port=0, node_name="n1", plain=True
    )
    async with open_kahuna(config, clock, directory_of=cast.directory_of, stage=cast) as kahuna:
        services = kahuna.services
        place = config.state / "simulation"
        ensure_private_directory(place)
        edge = Edge(
            as_asgi(create_app(services)),
            authenticate=by_credential(services.api_keys, services.sessions),
            hosts=None,
            clock=clock,
        )
        transport = httpx.ASGITransport(app=edge, raise_app_exceptions=False)
        key = (config.state / "master.key").read_text(encoding="ascii").strip()
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(service)
                for service in (
                    services.hub.run(),
                    services.engine.run(),
                    services.compute.reconciler.run(),
                    cast.play(place, services.agents, LocalDialer(services.hub)),
                )
            ]
            try:
                async with httpx.AsyncClient(
                    transport=transport, base_url="http://kahuna", headers={"x-api-key": key}
                ) as master:
                    yield Served(services, master, cast)
            finally:
                for task in running:
                    task.cancel()
