"""The real agent client against the real hub, in one process."""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.agent.client import AgentClient, agent_lock
from appliance.agent.dial import WebSocketDialer
from appliance.agent.dispatch import Dispatcher
from appliance.agent.fences import FenceBook
from appliance.agent.handlers import base_handlers
from appliance.agent.logring import LogRing
from appliance.agent.streams import StreamKind, log_stream
from appliance.core.aio import Backoff
from appliance.core.boot import read_boot_id
from appliance.core.errors import (
    Conflict,
    DriverError,
    Forbidden,
    Invalid,
    KowabungaError,
    NotFound,
    Unavailable,
)
from appliance.model.agent import AgentType
from appliance.rpc.hub import Hub
from appliance.rpc.local import LocalDialer
from appliance.rpc.method import Nothing
from appliance.rpc.methods import AGENT_DESCRIBE, AGENT_PING, Event
from appliance.rpc.proof import AgentCredential
from appliance.rpc.stream import ByteStream
from appliance.rpc.transport import CloseCode, Dialer, Transport
from tests.support.clock import ManualClock, settle
from tests.support.rpc import AGENT, SYSTEM_CLOCK, Directory, Recorder, greeting
from tests.support.wait import until


class Kahuna:
    def __init__(self, name: str, directory: Directory) -> None:
        self.recorder = Recorder()
        self.hub = Hub(
            directory,
            kahuna=name,
            clock=SYSTEM_CLOCK,
            alarm=self.recorder.alarm,
            on_event=self.recorder.event,
        )


class Switchboard:
    """Dials the Kahuna of each address, or nobody."""

    def __init__(self) -> None:
        self.lines: dict[str, LocalDialer] = {}
        self.dialled: list[str] = []

    def check(self, url: str) -> str:
        return url

    @asynccontextmanager
    async def dial(self, url: str, *, stream: bool = False) -> AsyncGenerator[Transport]:
        self.dialled.append(url)
        if url not in self.lines:
            raise Unavailable(f"{url}: nobody there")
        async with self.lines[url].dial(url, stream=stream) as transport:
            yield transport


class Never(Backoff):
    def delay_s(self, failures: int) -> float:
        del failures
        return 10**6


class Quick(Backoff):
    def delay_s(self, failures: int) -> float:
        del failures
        return 0.005


@asynccontextmanager
async def agent(
    path: Path,
    credential: AgentCredential,
    dialer: Dialer,
    *urls: str,
    kinds: dict[str, StreamKind] | None = None,
    backoff: Backoff | None = None,
) -> AsyncGenerator[AgentClient]:
    handlers = base_handlers(AGENT, AgentType.KAKTUS, version="1.2", boot_id="boot-1")
    async with (
        FenceBook.open(path / "fences.db") as fences,
        Dispatcher(handlers, fences) as dispatcher,
        asyncio.TaskGroup() as tasks,
    ):
        client = AgentClient(
            urls or ("a",),
            greeting(credential),
            dispatcher,
            dialer=dialer,
            clock=SYSTEM_CLOCK,
            stream_kinds=kinds or {},
            backoff=backoff or Quick(),
        )
        running = tasks.create_task(client.run())
        yield client
        running.cancel()


async def test_an_agent_connects_and_describes_its_node(tmp_path: Path) -> None:
    directory = Directory()
    credential = directory.add()
    hub = Kahuna("k1", directory).hub
    async with agent(tmp_path, credential, LocalDialer(hub)):
        await until(lambda: hub.reachable(AGENT))
        node = await hub.call(AGENT, AGENT_DESCRIBE, Nothing())
        assert node.version == "1.2"
        assert node.memory_total_bytes > node.memory_available_bytes > 0
        assert node.cpu_count >= 1
        assert node.uptime_s > 0


async def test_an_agent_holds_a_session_with_every_kahuna_and_tells_all_of_them(
    tmp_path: Path,
) -> None:
    directory = Directory()
    credential = directory.add()
    kahunas = [Kahuna(f"k{number}", directory) for number in range(3)]
    board = Switchboard()
    board.lines = {kahuna: LocalDialer(it.hub) for kahuna, it in zip("abc", kahunas, strict=True)}
    async with agent(tmp_path, credential, board, "a", "b", "c") as client:
        await until(lambda: client.connected == 3)
        client.send_event(Event(f"agent/{AGENT}", "hello"))
        await until(lambda: all(len(kahuna.recorder.events) == 1 for kahuna in kahunas))


async def test_two_addresses_of_one_kahuna_give_one_session_without_a_fight(tmp_path: Path) -> None:
    directory = Directory()
    credential = directory.add()
    kahuna = Kahuna("k1", directory)
    board = Switchboard()
    board.lines = {"a": LocalDialer(kahuna.hub), "b": LocalDialer(kahuna.hub)}
    connected: list[str] = []
    kahuna.hub.on_connected(connected.append)
    async with agent(tmp_path, credential, board, "a", "b"):
        await until(lambda: len(board.dialled) >= 4)
        settled = len(connected)  # 2 if both came in at the same moment: then one was replaced
        await until(lambda: len(board.dialled) >= 12)
        assert len(connected) == settled <= 2


async def test_an_agent_comes_back_to_a_kahuna_that_was_away(tmp_path: Path) -> None:
    directory = Directory()
    credential = directory.add()
    board = Switchboard()
    async with agent(tmp_path, credential, board) as client:
        await until(lambda: len(board.dialled) >= 3)
        first = Kahuna("k1", directory)
        board.lines["a"] = LocalDialer(first.hub)
        await until(lambda: first.hub.reachable(AGENT))
        second = Kahuna("k1 restarted", directory)
        board.lines["a"] = LocalDialer(second.hub)
        first.hub.disconnect(AGENT, "restart", code=CloseCode.GOING_AWAY)
        await until(lambda: second.hub.reachable(AGENT) and client.connected == 1)


async def test_who_knows_that_a_kahuna_is_back_need_not_wait_for_the_pause_to_end(
    tmp_path: Path,
) -> None:
    directory = Directory()
    credential = directory.add()
    board = Switchboard()
    async with agent(tmp_path, credential, board, "a", "b", backoff=Never()) as client:
        await until(lambda: len(board.dialled) == 2)
        await settle()
        kahuna = Kahuna("k1", directory)
        board.lines["a"] = LocalDialer(kahuna.hub)
        client.hurry()
        await until(lambda: client.connected == 1 and len(board.dialled) == 4)


async def test_the_pause_between_attempts_grows_and_is_jittered(tmp_path: Path) -> None:
    clock = ManualClock()
    directory = Directory()
    board = Switchboard()
    async with (
        FenceBook.open(tmp_path / "fences.db") as fences,
        Dispatcher({}, fences) as dispatcher,
        asyncio.TaskGroup() as tasks,
    ):
        client = AgentClient(
            ["a"], greeting(directory.add()), dispatcher,
            dialer=board, clock=clock, stream_kinds={},
        )  # fmt: skip
        running = tasks.create_task(client.run())
        at: list[float] = []
        while len(at) < 9:
            await settle()
            at += [clock.monotonic()] * (len(board.dialled) - len(at))
            await clock.advance(0.05)
        running.cancel()
    pauses = [later - sooner for sooner, later in itertools.pairwise(at)]
    for number, pause in enumerate(pauses, start=1):
        whole = min(0.5 * 2 ** (number - 1), 30)
        assert whole * 0.5 - 0.1 <= pause <= whole + 0.1


async def test_a_second_agent_process_is_kept_out_of_the_state_directory(tmp_path: Path) -> None:
    with (
        agent_lock(tmp_path),
        pytest.raises(Conflict, match="held by process"),
        agent_lock(tmp_path),
    ):
        pass


def test_an_agent_without_a_kahuna_is_refused() -> None:
    with pytest.raises(Invalid):
        AgentClient(
            [], None, None, dialer=Switchboard(), clock=SYSTEM_CLOCK, stream_kinds={}  # type: ignore[arg-type] # refused first
        )  # fmt: skip


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1", "ws://192.0.2.1:80", "ws://kahuna.example", "wss://k", "k", "wss:///x"],
)
def test_without_a_ca_only_plain_loopback_is_dialled(url: str) -> None:
    with pytest.raises(Invalid):
        WebSocketDialer(None).check(url)


def test_whatever_path_is_given_the_agents_path_is_dialled() -> None:
    assert WebSocketDialer(None).check("ws://127.0.0.1:80/other?x") == "ws://127.0.0.1:80/ws"
    assert WebSocketDialer(None).check("ws://[::1]:80") == "ws://[::1]:80/ws"


def test_a_ca_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("no certificate")
    with pytest.raises(Invalid):
        WebSocketDialer(tmp_path / "ca")


# Streams


@asynccontextmanager
async def streaming(path: Path, **kinds: StreamKind) -> AsyncGenerator[Hub]:
    directory = Directory()
    credential = directory.add()
    hub = Kahuna("k1", directory).hub
    async with agent(path, credential, LocalDialer(hub), kinds=kinds):
        await until(lambda: hub.reachable(AGENT))
        yield hub


def logger_into(ring: LogRing) -> logging.Logger:
    log = logging.Logger("apart from the tree")  # noqa: LOG001 - must not outlive the test
    log.addHandler(ring)
    return log


async def test_the_log_of_an_agent_is_followed_until_the_reader_leaves(tmp_path: Path) -> None:
    ring = LogRing()
    ring.setFormatter(logging.Formatter("%(message)s"))
    log = logger_into(ring)
    log.info("before")
    async with streaming(tmp_path, log=log_stream(ring, AGENT)) as hub:
        async with hub.open_stream(AGENT, "log", f"agent/{AGENT}") as stream:
            assert await stream.read() == b"before\n"
            log.info("after")
            assert await stream.read() == b"after\n"
        await until(lambda: not ring._followers)
        assert await hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()


async def test_both_directions_carry_bytes_and_each_ends_by_itself(tmp_path: Path) -> None:
    async def reverse(stream: ByteStream, about: str) -> None:
        assert about == "instance/x"
        got = b""
        while piece := await stream.read():
            got += piece
        await stream.write(got[::-1])
        await stream.write_eof()

    async with (
        streaming(tmp_path, console=reverse) as hub,
        hub.open_stream(AGENT, "console", "instance/x") as stream,
    ):
        data = bytes(range(256)) * 1024
        await stream.write(data)
        await stream.write_eof()
        got = b""
        while piece := await stream.read():
            got += piece
        assert got == data[::-1]
        assert await stream.read() == b""


async def test_a_writer_waits_for_a_slow_reader(tmp_path: Path) -> None:
    sent = 0

    async def pour(stream: ByteStream, _: str) -> None:
        nonlocal sent
        while True:
            await stream.write(b"x" * 1000)
            sent += 1

    async with (
        streaming(tmp_path, pour=pour) as hub,
        hub.open_stream(AGENT, "pour", "x/y") as stream,
    ):
        await until(lambda: sent > 0)
        await settle(200)
        assert sent < 30
        for _ in range(100):
            await stream.read()
        await until(lambda: sent >= 100)


async def test_a_kind_that_fails_breaks_its_stream_and_nothing_else(tmp_path: Path) -> None:
    async def broken(_: ByteStream, __: str) -> None:
        raise ZeroDivisionError

    async with streaming(tmp_path, broken=broken) as hub:
        async with hub.open_stream(AGENT, "broken", "x/y") as stream:
            with pytest.raises(Unavailable):
                await stream.read()
        assert await hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()


async def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    async with streaming(tmp_path) as hub:
        assert isinstance(await refusal(hub.open_stream(AGENT, "vnc", "x/y")), NotFound)


async def refusal(opening: AbstractAsyncContextManager[ByteStream]) -> KowabungaError | None:
    try:
        async with opening:
            return None
    except KowabungaError as error:
        return error


async def test_a_log_of_something_else_is_not_served(tmp_path: Path) -> None:
    kind = log_stream(LogRing(), AGENT)
    with pytest.raises(Forbidden):
        await kind(None, "agent/" + "f" * 24)  # type: ignore[arg-type] # refused before any use
    del tmp_path


async def test_streams_end_with_their_session(tmp_path: Path) -> None:
    ring = LogRing()
    async with streaming(tmp_path, log=log_stream(ring, AGENT)) as hub:
        async with hub.open_stream(AGENT, "log", f"agent/{AGENT}") as stream:
            hub.disconnect(AGENT, "revoked")
            with pytest.raises(Unavailable):
                await stream.read()
        await until(lambda: not ring._followers)


async def test_a_stream_that_never_ends_does_not_keep_the_agent_from_coming_back(
    tmp_path: Path,
) -> None:
    async def forever(_: ByteStream, __: str) -> None:
        await asyncio.Event().wait()

    async with (
        streaming(tmp_path, forever=forever) as hub,
        hub.open_stream(AGENT, "forever", "x/y"),
    ):
        hub.disconnect(AGENT, "test")
        assert not hub.reachable(AGENT)
        await until(lambda: hub.reachable(AGENT))


async def test_a_follower_that_falls_behind_is_told_and_the_ring_stays_bounded() -> None:
    ring = LogRing(max_lines=10, max_bytes=1000)
    ring.setFormatter(logging.Formatter("%(message)s"))
    log = logger_into(ring)
    log.info("first")
    async with aclosing(ring.follow()) as pieces:
        assert await anext(pieces) == b"first\n"
        for number in range(100):
            log.info("line %d", number)
        assert len(ring._lines) == 10
        piece = await anext(pieces)
        assert piece.startswith(b"... 90 lines were lost here")
        assert piece.endswith(b"line 99\n")
        log.info("x" * 5000)
        assert ring._bytes <= 1000


def test_a_node_without_meminfo_says_so(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 5 kB\n")
    handlers = base_handlers(AGENT, AgentType.KIWI, version="1", boot_id="b", proc=tmp_path)
    with pytest.raises(DriverError):
        asyncio.run(as_coroutine(handlers[AGENT_DESCRIBE.name]))


async def as_coroutine(handler: Callable[[Any], Any]) -> object:
    called: Coroutine[Any, Any, object] = handler(Nothing())
    return await called


def test_the_boot_id_is_the_kernels() -> None:
    assert read_boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
