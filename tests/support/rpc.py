"""Both ends of the agent protocol for tests: a directory in memory, agents, and a raw wire."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import msgspec
import pytest

from appliance.core.clock import Clock, SystemClock
from appliance.core.crypto import generate_signing_key, random_key, signing_public_key
from appliance.core.errors import Forbidden
from appliance.model.access import Allow
from appliance.model.agent import AgentIdentity, AgentType, CredentialKind
from appliance.resources.user import UserRole
from appliance.rpc.gateway import Command
from appliance.rpc.hello import Greeting, Refused, greet
from appliance.rpc.hub import Hub
from appliance.rpc.memory import MemoryTransport
from appliance.rpc.methods import Event
from appliance.rpc.peer import Peer, Service
from appliance.rpc.proof import AgentCredential, Ed25519Credential, HmacCredential
from appliance.rpc.transport import Transport, TransportClosed

Json: TypeAlias = Any  # whatever a test puts on the wire, or finds there

SYSTEM_CLOCK = SystemClock()
AGENT = "a" * 24
OTHER = "b" * 24


class Directory:
    """Agents in memory; each speaks about itself alone."""

    def __init__(self) -> None:
        self.agents: dict[str, AgentIdentity] = {}
        self.failure: Exception | None = None

    def add(
        self,
        agent_id: str = AGENT,
        *,
        kind: CredentialKind = CredentialKind.HMAC,
        agent_type: AgentType = AgentType.KAKTUS,
        expires_at_ms: int | None = None,
        serial: int = 1,
    ) -> AgentCredential:
        """Register an agent and return its own end of the credential."""
        key = random_key() if kind is CredentialKind.HMAC else generate_signing_key()
        is_hmac = kind is CredentialKind.HMAC
        self.agents[agent_id] = AgentIdentity(
            id=agent_id,
            type=agent_type,
            credential=kind,
            verifier=key if is_hmac else None,
            public_key=None if is_hmac else signing_public_key(key),
            serial=serial,
            expires_at_ms=expires_at_ms,
        )
        return HmacCredential(key) if is_hmac else Ed25519Credential(key)

    async def find(self, agent_id: str) -> AgentIdentity | None:
        if self.failure:
            raise self.failure
        return self.agents.get(agent_id)

    async def serials(self) -> Mapping[str, int]:
        if self.failure:
            raise self.failure
        return {agent.id: agent.serial for agent in self.agents.values()}

    async def may_speak(self, agent_id: str, about: str) -> bool:
        return about == f"agent/{agent_id}"


class Recorder:
    """Remembers alarms, and events once the gate is open, as it is at first."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.alarms: list[tuple[str, str]] = []
        self.events: list[tuple[str, Event]] = []

    async def alarm(self, kind: str, about: str, detail: str) -> None:
        assert detail
        self.alarms.append((kind, about))

    async def event(self, agent_id: str, event: Event) -> None:
        await self.gate.wait()
        self.events.append((agent_id, event))


class Handlers:
    """A Service whose methods are attributes of a mapping; remembers notifications."""

    def __init__(self, handlers: Mapping[str, Any] | None = None) -> None:
        self.handlers = dict(handlers or {})
        self.notifications: list[str] = []
        self.calls: list[str] = []

    async def handle(
        self, method_name: str, params_raw: msgspec.Raw, command: Command | None
    ) -> msgspec.Struct:
        self.calls.append(method_name)
        result: msgspec.Struct = await self.handlers[method_name](params_raw, command)
        return result

    def on_notification(self, method_name: str, params_raw: msgspec.Raw) -> None:
        del params_raw
        self.notifications.append(method_name)


class Wire:
    """A raw end of a socket: speaks JSON by hand and checks what comes back."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def send(self, frame: object) -> None:
        data = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
        await self.transport.send(data)

    async def call(
        self, call_id: object, method: str, deadline_ms: int = 60_000, **more: Json
    ) -> None:
        params = {"deadline_ms": deadline_ms, "command": None, "arguments": {}, **more}
        await self.send({"jsonrpc": "2.0", "id": call_id, "method": method, "params": params})

    async def next(self) -> dict[str, Any]:
        """Return the next frame that is not a heartbeat."""
        async with asyncio.timeout(60):
            while True:
                frame: dict[str, Any] = json.loads(await self.transport.receive())
                if frame.get("method") != "session.ping":
                    return frame

    async def expect_result(self, call_id: int) -> Json:
        frame = await self.next()
        assert frame.get("id") == call_id, frame
        assert "error" not in frame, frame
        return frame["result"]

    async def expect_error(self, call_id: int | None, code: int, reason: str | None = None) -> Json:
        frame = await self.next()
        assert frame["id"] == call_id, frame
        assert frame["error"]["code"] == code, frame
        if reason is not None:
            assert frame["error"]["data"]["context"]["reason"] == reason, frame
        return frame["error"]["data"]

    async def expect_closed(self, code: int) -> None:
        with pytest.raises(TransportClosed) as closed:
            await self._drain()
        assert closed.value.code == code, closed.value

    async def _drain(self) -> None:
        async with asyncio.timeout(60):
            while True:
                await self.transport.receive()


class HandMadeAgent:
    """The agent's end of one session: hello, then a real Peer."""

    def __init__(
        self, transport: Transport, greeting: Greeting, service: Service, clock: Clock
    ) -> None:
        self.transport = transport
        self.greeting = greeting
        self.clock = clock
        self.service = service
        self.peer: Peer | None = None
        self.refused: Refused | None = None
        self.ended: TransportClosed | None = None

    async def run(self) -> None:
        try:
            await greet(self.transport, self.greeting)
            self.peer = Peer(self.transport, self.service, name="kahuna", clock=self.clock)
            self.ended = await self.peer.run()
        except Refused as refused:
            self.refused = refused
        except TransportClosed as closed:
            self.ended = closed

    def has_ended_with(self, code: int) -> bool:
        return self.ended is not None and self.ended.code == code

    @property
    def connected(self) -> Peer:
        assert self.peer is not None
        return self.peer


def greeting(
    credential: AgentCredential, *, agent_id: str = AGENT, boot_id: str = "boot-1", **more: Json
) -> Greeting:
    fields: dict[str, Any] = {"type": AgentType.KAKTUS, "version": "1", **more}
    return Greeting(agent_id=agent_id, credential=credential, boot_id=boot_id, **fields)


@asynccontextmanager
async def socket_to(
    hub: Hub, *, certificate_sha256: bytes = b"", capacity: int = 16
) -> AsyncGenerator[MemoryTransport]:
    """Open a socket to the hub in memory; both ends are gone after the block."""
    ours, theirs = MemoryTransport.pair(certificate_sha256=certificate_sha256, capacity=capacity)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hub.serve(theirs))
        try:
            yield ours
        finally:
            await ours.close(1000, "test over")


async def no_users(user_id: str, allow: Allow, path: Mapping[str, str]) -> UserRole:
    """Let no user in: who comes is an agent."""
    raise Forbidden(f"{user_id} {allow} {path}")
