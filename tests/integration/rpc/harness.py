"""An agent and a Kahuna on real sockets: the real client, the real server, TLS, a proxy between."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from litestar import Litestar

from appliance.agent.client import AgentClient
from appliance.agent.dial import WebSocketDialer
from appliance.agent.dispatch import Dispatcher, Handler
from appliance.agent.fences import FenceBook
from appliance.agent.handlers import base_handlers
from appliance.agent.streams import StreamKind
from appliance.api.agents import agent_socket
from appliance.api.guards import guard_by
from appliance.api.listener import Limits as ListenerLimits
from appliance.api.listener import Listener, bind_tcp, server_tls
from appliance.core import x509
from appliance.core.aio import Backoff
from appliance.core.errors import KowabungaError
from appliance.model.agent import AgentType
from appliance.model.target import Fence
from appliance.rpc.gateway import Command
from appliance.rpc.hub import Hub, HubLimits
from appliance.rpc.method import AnyMethod, Method, Nothing, TimeoutClass
from appliance.rpc.methods import METHODS
from appliance.rpc.peer import Limits
from appliance.rpc.proof import AgentCredential
from appliance.rpc.transport import Dialer
from tests.support.proxy import Proxy, proxy_to
from tests.support.rpc import AGENT, SYSTEM_CLOCK, Directory, Recorder, greeting, no_users
from tests.support.wait import until

VOLUME = "volume/" + "1" * 24
GROW: AnyMethod = Method("t.grow", Nothing, Nothing, TimeoutClass.NORMAL, True, "agent", "Effect.")


class Text(msgspec.Struct, frozen=True):
    text: str


TELL: AnyMethod = Method("t.tell", Text, Nothing, TimeoutClass.NORMAL, False, "agent", "Talk.")
_METHODS = {**METHODS, GROW.name: GROW, TELL.name: TELL}
# The rules of silence at four times their speed: a busy machine must not look silent.
QUICK = Limits(heartbeat_s=1.2, silence_s=4.0)
NAMES = ["127.0.0.1", "localhost"]


class QuickBackoff(Backoff):
    def delay_s(self, failures: int) -> float:
        del failures
        return 0.01


@dataclass
class World:
    """What effectful calls do here: counted, and held at a gate."""

    effects: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def grow(self, _: Nothing) -> Nothing:
        self.effects += 1
        await self.gate.wait()
        return Nothing()


async def _listen(_: Text) -> Nothing:
    return Nothing()


class Kahuna:
    """A server that can be stopped and started again on the same port."""

    def __init__(self, directory: Path, *, tls: bool = True) -> None:
        self.path = directory
        self.directory = Directory()
        self.recorder = Recorder()
        self.port = 0
        self.fingerprint = b""
        self.tls = tls
        self.limits = HubLimits()
        self.agent_limits: Limits | None = None
        self.hub = self._make_hub("k1")
        if tls:
            self.authority = authority = x509.make_authority("test")
            issued = x509.issue_server_certificate(authority, NAMES, SYSTEM_CLOCK.now_ms())
            (directory / "ca.pem").write_text(authority.certificate_pem)
            (directory / "server.pem").write_text(issued.certificate_pem)
            (directory / "server.key").write_bytes(issued.key_pem.reveal())
            self.fingerprint = x509.fingerprint(issued.certificate_pem)

    @property
    def ca_file(self) -> Path | None:
        return self.path / "ca.pem" if self.tls else None

    def url(self, port: int | None = None) -> str:
        return f"{'wss' if self.tls else 'ws'}://127.0.0.1:{port or self.port}"

    def _make_hub(self, name: str) -> Hub:
        return Hub(
            self.directory,
            kahuna=name,
            clock=SYSTEM_CLOCK,
            alarm=self.recorder.alarm,
            on_event=self.recorder.event,
            limits=self.limits,
        )

    @asynccontextmanager
    async def serving(self, name: str = "k1") -> AsyncGenerator[None]:
        self.hub = self._make_hub(name)
        app = Litestar(
            [agent_socket(self.hub, lambda: self.fingerprint)],
            guards=[guard_by(no_users)],
            logging_config=None,
        )
        sock = bind_tcp("127.0.0.1", self.port)
        self.port = sock.getsockname()[1]
        pair = (self.path / "server.pem", self.path / "server.key")
        context = server_tls(*pair) if self.tls else None
        listener = Listener(app, sock, limits=ListenerLimits(graceful_stop_s=2), tls=context)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(listener.serve())
            await listener.listening.wait()
            yield
            running.cancel()


@asynccontextmanager
async def agent(
    path: Path,
    credential: AgentCredential,
    dialer: Dialer,
    *urls: str,
    world: World | None = None,
    kinds: dict[str, StreamKind] | None = None,
    limits: Limits | None = None,
    agent_id: str = AGENT,
) -> AsyncGenerator[AgentClient]:
    handlers: dict[str, Handler] = {
        **base_handlers(agent_id, AgentType.KAKTUS, version="1", boot_id="boot-1"),
        GROW.name: (world or World()).grow,
        TELL.name: _listen,
    }
    async with (
        FenceBook.open(path / "fences.db") as fences,
        Dispatcher(
            handlers, fences, methods={**METHODS, GROW.name: GROW, TELL.name: TELL}
        ) as dispatcher,
        asyncio.TaskGroup() as tasks,
    ):
        client = AgentClient(
            urls,
            greeting(credential, agent_id=agent_id),
            dispatcher,
            dialer=dialer,
            clock=SYSTEM_CLOCK,
            stream_kinds=kinds or {},
            backoff=QuickBackoff(),
            limits=limits,
        )
        running = tasks.create_task(client.run())
        yield client
        running.cancel()


@asynccontextmanager
async def connected(
    kahuna: Kahuna, *, world: World | None = None, kinds: dict[str, StreamKind] | None = None
) -> AsyncGenerator[tuple[AgentClient, Proxy]]:
    """An agent connected to the serving Kahuna through a proxy."""
    credential = kahuna.directory.add()
    async with proxy_to(kahuna.port) as proxy:
        url = kahuna.url(proxy.port)
        dialer = WebSocketDialer(kahuna.ca_file)
        async with agent(
            kahuna.path,
            credential,
            dialer,
            url,
            world=world,
            kinds=kinds,
            limits=kahuna.agent_limits,
        ) as client:
            await until(lambda: kahuna.hub.reachable(AGENT))
            yield client, proxy


def command(request_id: str, fence: int = 1) -> Command:
    return Command(request_id, VOLUME, Fence(1, fence))


async def caught(kahuna: Kahuna, request: Command, timeout_s: float = 30) -> KowabungaError | None:
    try:
        await kahuna.hub.call(AGENT, GROW, Nothing(), command=request, timeout_s=timeout_s)
    except KowabungaError as error:
        return error
    return None
