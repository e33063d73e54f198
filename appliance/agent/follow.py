"""Follow the Kahuna of this node, which may come back elsewhere or with another authority.

While there is no session it is asked again, over its local socket, where and how to connect; once
it answers, it is dialled at once. Must not know how a client is made.
"""

import asyncio
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

import structlog

from appliance.agent.identity import LocalView
from appliance.core.clock import Clock

LOOK_S: Final = 5.0
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


class Describes(Protocol):
    async def describe(self) -> LocalView:
        """Return what the Kahuna of this node says about itself, once it runs."""
        ...


class Connects(Protocol):
    @property
    def connected(self) -> int: ...

    async def run(self) -> None: ...

    def hurry(self) -> None:
        """End a pause before the next try to connect."""
        ...


async def follow(
    local: Describes, client_of: Callable[[LocalView], Connects], clock: Clock
) -> NoReturn:
    """Run a client of the local Kahuna, and another one each time that it has moved."""
    view = await local.describe()
    while True:
        client = client_of(view)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(client.run())
            view = await _until_moved(local, client, view, clock)
            running.cancel()
        _log.info("local_kahuna_moved", url=view.agent_url)


async def _until_moved(
    local: Describes, client: Connects, view: LocalView, clock: Clock
) -> LocalView:
    while True:
        await clock.sleep(LOOK_S)
        if not client.connected:
            found = await local.describe()
            if found != view:
                return found
            client.hurry()
