"""The agent process of a Kaktus or Kiwi node: finds its identity, then keeps connected.

A composition root. What identity and which Kahuna it is, `agent/identity.py` finds out.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from appliance.agent.client import AgentClient, agent_lock
from appliance.agent.compute import EventSender
from appliance.agent.dial import WebSocketDialer
from appliance.agent.dispatch import Dispatcher, Handler
from appliance.agent.fences import FenceBook
from appliance.agent.follow import follow
from appliance.agent.handlers import base_handlers
from appliance.agent.identity import (
    Identity,
    LocalKahuna,
    ensure_enrolled,
    read_credential_file,
)
from appliance.agent.logring import LogRing
from appliance.agent.streams import StreamKind, log_stream
from appliance.core.boot import read_boot_id
from appliance.core.clock import SystemClock
from appliance.core.files import ensure_private_directory, keep_written
from appliance.core.logs import copied_to
from appliance.core.version import VERSION
from appliance.model.agent import AgentType
from appliance.rpc.hello import Greeting
from appliance.rpc.methods import Event

LOCAL_SOCKET: Final = Path("run/api.sock")  # of the Kahuna, below the state directory
_CA: Final = "ca.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRoleConfig:
    """What one agent process needs to know.

    Attributes:
        state: the node's state directory; the agent keeps its own things in `agent/TYPE/` below.
        type: the role that this agent plays.
        name: the node's name; the agent enrols itself as NAME-TYPE.
        kahunas: `wss://host:port/ws` of every Kahuna; empty: the Kahuna of this node, whose local
            socket `state/run/api.sock` also enrols the agent.
        ca_file: what to verify Kahunas by; None: the authorities that came with the credential.
        credential_file: the file that `kowabunga agent credential` wrote; None: the key pair in
            the agent's directory, made on the first start and enrolled through the local socket.
    """

    state: Path
    type: AgentType
    name: str
    kahunas: tuple[str, ...] = ()
    ca_file: Path | None = None
    credential_file: Path | None = None

    @property
    def directory(self) -> Path:
        return self.state / "agent" / self.type.lower()


@dataclass(frozen=True, slots=True)
class Served:
    """What an agent of some role answers beyond what every agent does."""

    handlers: Mapping[str, Handler] = field(default_factory=dict[str, Handler])
    streams: Mapping[str, StreamKind] = field(default_factory=dict[str, StreamKind])


Drivers = Callable[[EventSender], AbstractAsyncContextManager[Served]]
"""Open what the role drives, for the life of the block; it sends events through its argument."""


@asynccontextmanager
async def no_drivers(send_event: EventSender) -> AsyncGenerator[Served]:
    """Serve nothing: the role's own work is not built yet."""
    del send_event
    yield Served()


async def run_agent(
    config: AgentRoleConfig,
    *,
    ready: Callable[[], None],
    drivers: Drivers = no_drivers,
    fence_book: type[FenceBook] = FenceBook,
) -> None:
    """Stay connected to every Kahuna until cancelled; `ready` is called on the first session.

    Raises:
        Invalid: the credential file or an address is unusable.
        Forbidden: a key file is readable by others.
        Conflict: another process runs this agent, or another agent has its name.
    """
    clock = SystemClock()
    for directory in (config.state, config.directory.parent, config.directory):
        ensure_private_directory(directory)
    ring = LogRing()
    with agent_lock(config.directory), copied_to(ring):
        local = LocalKahuna(config.state / LOCAL_SOCKET, clock)
        identity, authorities = await _identify(config, local)
        boot_id = read_boot_id()
        greeting = Greeting(identity.agent_id, config.type, identity.credential, boot_id, VERSION)
        connected = _once(ready)
        base = base_handlers(identity.agent_id, config.type, version=VERSION, boot_id=boot_id)
        clients: list[AgentClient] = []

        def send_event(event: Event) -> None:
            for client in clients:
                client.send_event(event)

        async with (
            drivers(send_event) as served,
            fence_book.open(config.directory / "fences.db") as fences,
            Dispatcher({**base, **served.handlers}, fences) as dispatcher,
        ):

            def client_of(urls: Sequence[str], authorities: str) -> AgentClient:
                client = AgentClient(
                    urls,
                    greeting,
                    dispatcher,
                    dialer=WebSocketDialer(_ca_file(config, authorities)),
                    clock=clock,
                    stream_kinds={"log": log_stream(ring, identity.agent_id), **served.streams},
                    on_connected=connected,
                )
                clients[:] = [client]
                return client

            if config.kahunas:
                await client_of(config.kahunas, authorities).run()
            else:
                await follow(
                    local, lambda view: client_of((view.agent_url,), view.authorities), clock
                )


async def _identify(config: AgentRoleConfig, local: LocalKahuna) -> tuple[Identity, str]:
    """Return who we are, and the authorities (PEM) that came with that, if any."""
    if config.credential_file is not None:
        return read_credential_file(config.credential_file, config.type)
    name = f"{config.name}-{config.type.lower()}"
    return await ensure_enrolled(config.directory, name, config.type, local), ""


def _ca_file(config: AgentRoleConfig, authorities: str) -> Path | None:
    """Return what to verify Kahunas by, once there is something."""
    if config.ca_file is not None:
        return config.ca_file
    kept = config.directory / _CA
    if authorities:
        keep_written(kept, authorities.encode())
    return kept if kept.exists() else None


def _once(callback: Callable[[], None]) -> Callable[[], None]:
    called = False

    def call() -> None:
        nonlocal called
        if not called:
            called = True
            callback()

    return call
