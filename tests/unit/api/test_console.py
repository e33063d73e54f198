"""What joins a user's socket to a stream: held up by either side, and ended by time."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from appliance.api.agents import AsgiTransport
from appliance.api.asgi import Message
from appliance.api.console import ConsoleLimits, Joint, console_url
from appliance.api.problems import Malformed
from appliance.api.requests import ApiRequest
from appliance.api.services import Services
from appliance.core.secret import Secret
from appliance.model.principal import MASTER, Principal, local_principal
from appliance.rpc.memory import MemoryTransport
from appliance.rpc.stream import ByteStream
from appliance.rpc.transport import TransportClosed
from tests.support.clock import ManualClock, settle

_LIMITS: Final = ConsoleLimits(idle_s=100, longest_s=1000)
_TEXT: Final[Message] = {"type": "websocket.receive", "text": "x"}
_GONE: Final[Message] = {"type": "websocket.disconnect", "code": 1001, "reason": "left"}


class User:
    """A user's socket as ASGI shows it; takes what is sent when `reads` is set."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        self.taken: list[bytes] = []
        self.transport = AsgiTransport(
            self.incoming.get, self._send, address="test", certificate_sha256=b"", text=False
        )

    def type(self, data: bytes) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "bytes": data})

    async def _send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "websocket.send":
            self.taken.append(message["bytes"])


class Joined:
    """A joint at work; `far` is the agent's end of the stream."""

    def __init__(self) -> None:
        near, self.far_transport = MemoryTransport.pair(capacity=2)
        self.user, self.clock, self.stopping = User(), ManualClock(), asyncio.Event()
        self.far = ByteStream(self.far_transport)
        self.joint = Joint(self.user.transport, ByteStream(near), self.clock, _LIMITS)


@asynccontextmanager
async def joined() -> AsyncGenerator[tuple[Joined, asyncio.Task[TransportClosed]]]:
    things = Joined()
    running = asyncio.create_task(things.joint.run(things.stopping))
    await settle()
    yield things, running
    running.cancel()
    await asyncio.wait({running})


async def test_bytes_go_both_ways() -> None:
    async with joined() as (things, _):
        things.user.type(b"to the guest")
        assert await things.far.read() == b"to the guest"
        await things.far.write(b"from the guest")
        await settle()
        assert things.user.taken == [b"from the guest"]


async def test_a_user_who_does_not_read_holds_the_agent_up() -> None:
    async with joined() as (things, _):
        things.user.reads.clear()
        pouring = asyncio.create_task(things.far.write(b"x" * (64 << 20)))
        await settle(200)
        assert not pouring.done()
        things.user.reads.set()
        await pouring
        await settle()
        assert sum(map(len, things.user.taken)) == 64 << 20


async def test_an_agent_that_does_not_read_holds_the_user_up() -> None:
    async with joined() as (things, _):
        for _ in range(100):
            things.user.type(b"x" * 65536)
        await settle(1000)
        left = things.user.incoming.qsize()
        assert left > 90, "the server reads ahead of the agent"
        for _ in range(100):
            await things.far.read()
        await settle()
        assert things.user.incoming.qsize() == 0


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda things: things.stopping.set(), 1001),
        (lambda things: things.user.incoming.put_nowait(_GONE), 1001),
        (lambda things: things.user.incoming.put_nowait(_TEXT), 1003),
    ],
    ids=["the Kahuna stops", "the user leaves", "text"],
)
async def test_what_ends_it(end: Callable[[Joined], Any], code: int) -> None:
    async with joined() as (things, running):
        end(things)
        assert (await running).code == code


async def test_the_end_of_the_console_is_an_end_in_order_and_that_of_the_agent_is_not() -> None:
    async with joined() as (things, running):
        await things.far.write(b"last")
        await things.far.write_eof()
        assert (await running).code == 1000
        assert things.user.taken == [b"last"]
    async with joined() as (things, running):
        await things.far_transport.close(1006, "it broke")
        ended = await running
        assert (ended.code, ended.reason) == (1011, "the stream broke off: it broke")


async def test_an_idle_one_is_ended_and_each_byte_of_either_side_counts() -> None:
    async with joined() as (things, running):
        for _ in range(3):
            await things.clock.advance(_LIMITS.idle_s - 1)
            things.user.type(b"x")
            await settle()
            await things.clock.advance(_LIMITS.idle_s - 1)
            await things.far.write(b"x")
            await settle()
        await things.clock.advance(_LIMITS.idle_s - 1)
        assert not running.done()
        await things.clock.advance(1)
        assert "no byte came" in (await running).reason


async def test_a_busy_one_ends_some_day_too() -> None:
    async with joined() as (things, running):
        while things.clock.monotonic() < _LIMITS.longest_s - 1:
            await things.far.write(b"x")
            await settle()
            await things.clock.advance(1)
        assert not running.done()
        await things.clock.advance(1)
        assert "was open" in (await running).reason


# --- where the token is good


def request_to(scheme: str, host: str | None, principal: Principal = MASTER) -> ApiRequest:
    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    scope = {"type": "http", "scheme": scheme, "headers": headers, "user": principal}
    return ApiRequest(scope)  # type: ignore[arg-type] # as much of it as is needed


@pytest.mark.parametrize(
    ("scheme", "host", "base"),
    [
        ("https", "kahuna.example:8443", "wss://kahuna.example:8443"),
        ("https", "192.0.2.1", "wss://192.0.2.1"),
        ("https", "[2001:db8::1]:443", "wss://[2001:db8::1]:443"),
        ("http", "localhost:8080", "ws://localhost:8080"),
    ],
)
async def test_the_url_leads_back_to_where_the_request_came(
    services: Services, scheme: str, host: str, base: str
) -> None:
    url = await console_url(services, request_to(scheme, host), Secret("kwb_x"))
    assert url == f"{base}/api/ext/v1/console/kwb_x"


@pytest.mark.parametrize(
    "host",
    [None, "", "a/b", "a@b", "a b", "a?x", "a#x", "a:b", "a:123456", "[::1", "\xe4", "a\n", "a\\b"],
)
async def test_a_host_that_is_none_makes_no_url(services: Services, host: str | None) -> None:
    with pytest.raises(Malformed, match="Host"):
        await console_url(services, request_to("https", host), Secret("kwb_x"))


async def test_a_public_url_comes_before_everything_else(services: Services) -> None:
    await services.settings.set("public_url", "https://cloud.example", MASTER)
    for request in (request_to("http", "evil host"), request_to("http", "x", local_principal(0))):
        url = await console_url(services, request, Secret("kwb_x"))
        assert url == "wss://cloud.example/api/ext/v1/console/kwb_x"


async def test_who_is_on_this_machine_stays_on_it(services: Services) -> None:
    request = request_to("http", "localhost", local_principal(0))
    url = await console_url(services, request, Secret("kwb_x"))
    assert url == f"{services.reach.agent_url}/api/ext/v1/console/kwb_x"
