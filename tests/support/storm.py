"""A storm of connections to a Kahuna, honest and not, in a process and a network of its own.

Run: python -m tests.support.storm SETTINGS, with settings as JSON; prints what became of them.
"""

import asyncio
import resource
import ssl
import sys
from collections import Counter
from contextlib import suppress

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from appliance.agent.dial import WebSocketTransport
from appliance.agent.identity import CredentialFile
from appliance.core.crypto import derive_verifier
from appliance.core.service import run_service
from appliance.model.agent import AgentType
from appliance.rpc.hello import Greeting, Refused, greet
from appliance.rpc.messages import encode_call
from appliance.rpc.methods import SESSION_EVENT, Event
from appliance.rpc.proof import HmacCredential
from appliance.rpc.transport import TransportClosed

SILENT_TCP = "connects, no TLS"
SILENT_TLS = "TLS, no request"
SILENT_SOCKET = "a socket, no hello"
UNKNOWN = "an unknown agent"
HONEST = "an agent that connects again and again"
KINDS = (SILENT_TCP, SILENT_TLS, SILENT_SOCKET, UNKNOWN, HONEST)
_UPGRADE = (
    b"GET /ws HTTP/1.1\r\nhost: kahuna.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Storm(msgspec.Struct, frozen=True, kw_only=True):
    """`per_s`: connections begun in a second; `events`: a flood of so many instead of a storm."""

    host: str
    port: int
    credential: str
    connections: int = 0
    per_s: float = 1e9
    at_once: int = 64
    sources: tuple[str, ...] = ()
    events: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """What became of the connections: how many of each kind were begun, and how they ended."""

    seconds: float
    ends: dict[str, int]


class _Stormer:
    def __init__(self, storm: Storm) -> None:
        self._storm = storm
        self._ends: Counter[str] = Counter()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        file = msgspec.json.decode(storm.credential, type=CredentialFile)
        self._me = self._greeting(file.agent_id, file.key)
        self._stranger = self._greeting("f" * 24, file.key)
        self._dangling: list[asyncio.StreamWriter] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        room = asyncio.Semaphore(self._storm.at_once)
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._storm.connections):
                await asyncio.sleep(began + number / self._storm.per_s - loop.time())
                await room.acquire()
                task = tasks.create_task(self._one(number))
                task.add_done_callback(lambda _: room.release())
            if self._storm.events:
                tasks.create_task(self._flood())
        print(msgspec.json.encode(Outcome(loop.time() - began, self._ends)).decode(), flush=True)
        for writer in self._dangling:
            writer.transport.abort()

    async def _one(self, number: int) -> None:
        kind = KINDS[number % len(KINDS)]
        sources = self._storm.sources
        source = (sources[number % len(sources)], 0) if sources else None
        try:
            async with asyncio.timeout(60):
                how = await self._begin(kind, source)
        except (OSError, ssl.SSLError, WebSocketException, TransportClosed, EOFError) as error:
            how = type(error).__name__
        except Refused as refused:
            how = refused.code.name.lower()
        except TimeoutError:
            how = "timed out"
        self._ends[f"{kind}: {how}"] += 1

    async def _begin(self, kind: str, source: tuple[str, int] | None) -> str:
        host, port = self._storm.host, self._storm.port
        if kind in {SILENT_TCP, SILENT_TLS, SILENT_SOCKET}:
            tls = None if kind == SILENT_TCP else self._tls
            reader, writer = await asyncio.open_connection(host, port, ssl=tls, local_addr=source)
            self._dangling.append(writer)
            if kind != SILENT_SOCKET:
                return "left open"
            writer.write(_UPGRADE)
            return (await reader.readline()).decode().strip()
        async with connect(
            f"wss://{host}:{port}/ws", ssl=self._tls, local_addr=source, compression=None,
            proxy=None, ping_interval=None, close_timeout=1, open_timeout=60,
        ) as connection:  # fmt: skip
            me = self._me if kind == HONEST else self._stranger
            await greet(WebSocketTransport(connection, text=True), me)
            if kind == HONEST:
                connection.transport.abort()
            return "let in"

    async def _flood(self) -> None:
        host, port = self._storm.host, self._storm.port
        event = Event(f"agent/{self._me.agent_id}", "domain.state")
        frame = encode_call(None, SESSION_EVENT.name, event)
        with suppress(WebSocketException):
            async with connect(
                f"wss://{host}:{port}/ws", ssl=self._tls, compression=None, proxy=None,
                ping_interval=None, close_timeout=1, open_timeout=60,
            ) as connection:  # fmt: skip
                await greet(WebSocketTransport(connection, text=True), self._me)
                self._ends["let in"] += 1
                for _ in range(self._storm.events):
                    await connection.send(frame, text=True)
                    self._ends["events"] += 1

    def _greeting(self, agent_id: str, key: str) -> Greeting:
        credential = HmacCredential(derive_verifier(key))
        return Greeting(agent_id, AgentType.KAKTUS, credential, "storm", "storm")


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    run_service(_Stormer(msgspec.json.decode(sys.argv[1], type=Storm)).run())
