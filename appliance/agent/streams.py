"""The kinds of byte streams that an agent can dial for Kahuna."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress

from appliance.agent.logring import LogRing
from appliance.core.errors import Forbidden, Unavailable
from appliance.rpc.stream import ByteStream

StreamKind = Callable[[ByteStream, str], Awaitable[None]]
"""Serve one stream about a target; the socket is closed when it returns or raises."""


def log_stream(ring: LogRing, agent_id: str) -> StreamKind:
    """Return the kind `log`: the tail of the agent's own log, followed until closed."""

    async def serve(stream: ByteStream, about: str) -> None:
        if about != f"agent/{agent_id}":
            raise Forbidden(f"this agent has no log of {about}")
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(_send(ring, stream))
            with suppress(Unavailable):
                while await stream.read():  # nothing is expected but the end
                    pass
            sending.cancel()

    return serve


async def _send(ring: LogRing, stream: ByteStream) -> None:
    with suppress(Unavailable):
        async with aclosing(ring.follow()) as pieces:
            async for lines in pieces:
                await stream.write(lines)
