"""The agent process of a Kaktus or Kiwi node: finds its identity, then keeps connected.

A composition root. What identity and which Kahuna it is, `agent/identity.py` finds out.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from appliance.agent.client import AgentClient, agent_lock
from appliance.agent.compute import EventSender
from appliance.agent.dial import WebSocketDialer
from appliance.agent.dispatch import Dispatcher, Handler
from appliance.agent.fences import FenceBook
from appliance.agent.handlers import base_handlers, read_boot_id
from appliance.agent.identity import (
    Identity,
    LocalKahuna,
    ensure_enrolled,
    read_credential_file,
)
from appliance.agent.logring import LogRing
from appliance.agent.streams import StreamKind, log_stream
from appliance.core.clock import Clock, SystemClock
from appliance.core.files import ensure_private_directory, write_atomic
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
    config: AgentRoleConfig, *, ready: Callable[[], None], drivers: Drivers = no_drivers
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
        identity, urls, ca_file = await _prepare(config, clock)
        boot_id = read_boot_id()
        base = base_handlers(identity.agent_id, config.type, version=VERSION, boot_id=boot_id)
        clients: list[AgentClient] = []

        def send_event(event: Event) -> None:
            for client in clients:
                client.send_event(event)

        async with (
            drivers(send_event) as served,
            FenceBook.open(config.directory / "fences.db") as fences,
            Dispatcher({**base, **served.handlers}, fences) as dispatcher,
        ):
            client = AgentClient(
                urls,
                Greeting(identity.agent_id, config.type, identity.credential, boot_id, VERSION),
                dispatcher,
                dialer=WebSocketDialer(ca_file),
                clock=clock,
                stream_kinds={"log": log_stream(ring, identity.agent_id), **served.streams},
                on_connected=_once(ready),
            )
            clients.append(client)
            await client.run()


async def _prepare(
    config: AgentRoleConfig, clock: Clock
) -> tuple[Identity, tuple[str, ...], Path | None]:
    """Return who we are, whom to dial, and what to verify them by."""
    local = LocalKahuna(config.state / LOCAL_SOCKET, clock)
    ca_file = config.ca_file
    urls = config.kahunas
    authorities = ""
    if config.credential_file is not None:
        identity, authorities = read_credential_file(config.credential_file, config.type)
    else:
        name = f"{config.name}-{config.type.lower()}"
        identity = await ensure_enrolled(config.directory, name, config.type, local)
    if not urls:
        view = await local.describe()
        urls, authorities = (view.agent_url,), view.authorities
    if ca_file is None:
        ca_file = config.directory / _CA
        if authorities:
            write_atomic(ca_file, authorities.encode())
    return identity, urls, ca_file if ca_file.exists() else None


def _once(callback: Callable[[], None]) -> Callable[[], None]:
    called = False

    def call() -> None:
        nonlocal called
        if not called:
            called = True
            callback()

    return call
