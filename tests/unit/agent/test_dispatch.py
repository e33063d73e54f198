import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from appliance.agent.dispatch import Dispatcher, Handler
from appliance.agent.fences import FenceBook
from appliance.core.errors import Conflict, Invalid, KowabungaError, NotFound, Stale, Unavailable
from appliance.model.target import Fence, target
from appliance.rpc.gateway import Command
from appliance.rpc.method import AnyMethod, Method, TimeoutClass
from tests.support.clock import settle
from tests.support.wait import until

VOLUME = target("volume", "0" * 24)


class Size(msgspec.Struct, frozen=True):
    size: int


GROW: AnyMethod = Method("grow", Size, Size, TimeoutClass.NORMAL, True, "agent", "Change it.")
LOOK: AnyMethod = Method("look", Size, Size, TimeoutClass.FAST, False, "agent", "Only look.")
FETCH: AnyMethod = Method(
    "fetch", Size, Size, TimeoutClass.NORMAL, True, "agent", "Takes long.", gives_way=True
)
METHODS = {method.name: method for method in (GROW, LOOK, FETCH)}


def command(request_id: str, fence: int, about: str = VOLUME) -> Command:
    return Command(request_id, about, Fence(1, fence))


class World:
    """A handler that counts, waits at a gate, and fails on demand."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def handle(self, params: Size) -> Size:
        self.begun.append(params.size)
        await self.gate.wait()
        self.ended.append(params.size)
        if self.error:
            raise self.error
        return params


@asynccontextmanager
async def dispatching(path: Path, handler: Handler) -> AsyncGenerator[Dispatcher]:
    async with (
        FenceBook.open(path / "fences.db") as fences,
        Dispatcher({"grow": handler, "look": handler}, fences, methods=METHODS) as dispatcher,
    ):
        yield dispatcher


def raw(size: int) -> bytes:
    return msgspec.json.encode(Size(size))


async def test_an_effect_runs_behind_its_fence(tmp_path: Path) -> None:
    world = World()
    async with dispatching(tmp_path, world.handle) as dispatcher:
        assert await dispatcher.handle("grow", raw(1), command("a", 5)) == Size(1)
        with pytest.raises(Stale):
            await dispatcher.handle("grow", raw(2), command("b", 4))
        assert world.begun == [1]


async def test_each_command_is_logged_with_its_target_and_how_it_ended(tmp_path: Path) -> None:
    world = World()
    with capture_logs() as logs:
        async with dispatching(tmp_path, world.handle) as dispatcher:
            await dispatcher.handle("grow", raw(1), command("a", 5))
            with pytest.raises(Stale):
                await dispatcher.handle("grow", raw(2), command("b", 4))
            await dispatcher.handle("look", raw(3), None)
    assert [(line["event"], line["method"], line["target"]) for line in logs] == [
        ("command_done", "grow", VOLUME),
        ("command_failed", "grow", VOLUME),
    ]


async def test_a_newer_command_waits_until_the_older_effect_has_ended(tmp_path: Path) -> None:
    world = World()
    world.gate.clear()
    async with dispatching(tmp_path, world.handle) as dispatcher, asyncio.TaskGroup() as callers:
        older = callers.create_task(dispatcher.handle("grow", raw(1), command("a", 1)))
        await until(lambda: world.begun == [1])
        newer = callers.create_task(dispatcher.handle("grow", raw(2), command("b", 2)))
        stale = callers.create_task(expect_stale(dispatcher, command("c", 1)))
        await every_fence_had_its_turn(dispatcher)
        assert world.begun == [1]
        world.gate.set()
        assert await older == Size(1)
        assert await newer == Size(2)
        await stale
    assert world.begun == world.ended == [1, 2]


async def every_fence_had_its_turn(dispatcher: Dispatcher) -> None:
    """The fences have one thread: whoever could be admitted was, and then began its effect."""
    for _ in range(3):
        await settle()
        await dispatcher._fences.highest(VOLUME)
    await settle()


async def expect_stale(dispatcher: Dispatcher, late: Command) -> None:
    with pytest.raises(Stale):
        await dispatcher.handle("grow", raw(3), late)


async def test_a_cancelled_caller_does_not_cut_the_effect_short(tmp_path: Path) -> None:
    world = World()
    world.gate.clear()
    async with dispatching(tmp_path, world.handle) as dispatcher, asyncio.TaskGroup() as callers:
        caller = callers.create_task(dispatcher.handle("grow", raw(1), command("a", 1)))
        await until(lambda: world.begun == [1])
        caller.cancel()
        await until(caller.done)
        newer = callers.create_task(dispatcher.handle("grow", raw(2), command("b", 2)))
        await every_fence_had_its_turn(dispatcher)
        assert world.begun == [1]
        world.gate.set()
        await newer
    assert world.ended == [1, 2]


async def test_a_repeat_joins_the_command_in_flight(tmp_path: Path) -> None:
    world = World()
    world.gate.clear()
    async with dispatching(tmp_path, world.handle) as dispatcher, asyncio.TaskGroup() as callers:
        first = callers.create_task(dispatcher.handle("grow", raw(1), command("a", 1)))
        await until(lambda: world.begun == [1])
        repeat = callers.create_task(dispatcher.handle("grow", raw(1), command("a", 1)))
        await asyncio.sleep(0)
        world.gate.set()
        assert await first == await repeat == Size(1)
    assert world.begun == [1]


async def test_a_repeat_shares_the_error_of_the_command_in_flight(tmp_path: Path) -> None:
    world = World()
    world.gate.clear()
    world.error = Conflict("exists")
    async with dispatching(tmp_path, world.handle) as dispatcher, asyncio.TaskGroup() as callers:
        calls = [
            callers.create_task(expect_conflict(dispatcher, command("a", 1))) for _ in range(2)
        ]
        await until(lambda: world.begun == [3])
        await settle()
        world.gate.set()
        for call in calls:
            await call
    assert world.begun == [3]


async def expect_conflict(dispatcher: Dispatcher, request: Command) -> None:
    with pytest.raises(Conflict):
        await dispatcher.handle("grow", raw(3), request)


async def test_a_later_repeat_gets_the_stored_answer(tmp_path: Path) -> None:
    world = World()
    async with dispatching(tmp_path, world.handle) as dispatcher:
        await dispatcher.handle("grow", raw(1), command("a", 1))
        assert await dispatcher.handle("grow", raw(1), command("a", 1)) == Size(1)
        assert world.begun == [1]


async def test_a_repeat_after_a_newer_fence_is_stale_even_though_its_answer_is_stored(
    tmp_path: Path,
) -> None:
    world = World()
    async with dispatching(tmp_path, world.handle) as dispatcher:
        await dispatcher.handle("grow", raw(1), command("a", 1))
        await dispatcher.handle("grow", raw(2), command("b", 2))
        await expect_stale(dispatcher, command("a", 1))


async def test_an_error_is_not_stored_so_a_repeat_tries_again(tmp_path: Path) -> None:
    world = World()
    world.error = Unavailable("the pool is busy")
    async with dispatching(tmp_path, world.handle) as dispatcher:
        with pytest.raises(Unavailable):
            await dispatcher.handle("grow", raw(1), command("a", 1))
        world.error = None
        assert await dispatcher.handle("grow", raw(1), command("a", 1)) == Size(1)


async def test_a_failed_effect_harms_no_other_target(tmp_path: Path) -> None:
    world = World()
    other = target("volume", "1" * 24)
    world.gate.clear()
    async with dispatching(tmp_path, world.handle) as dispatcher, asyncio.TaskGroup() as callers:
        running = callers.create_task(dispatcher.handle("grow", raw(1), command("a", 1, other)))
        await until(lambda: world.begun == [1])
        with pytest.raises(Invalid):
            await dispatcher.handle("grow", b'{"size": "big"}', command("b", 1))
        world.gate.set()
        assert await running == Size(1)
        world.error = Conflict("exists")
        with pytest.raises(Conflict):
            await dispatcher.handle("grow", raw(3), command("c", 1))
        world.error = None
        assert await dispatcher.handle("grow", raw(4), command("d", 1, other)) == Size(4)


@pytest.mark.parametrize(
    ("name", "params", "carried", "error"),
    [
        ("shrink", b"{}", None, NotFound),
        ("look", b"[]", None, Invalid),
        ("look", b'{"size": 1', None, Invalid),
        ("look", b"[" * 100_000, None, Invalid),
        ("grow", b'{"size": 1}', None, Invalid),
    ],
)
async def test_what_cannot_be_served_is_refused_before_any_effect(
    tmp_path: Path, name: str, params: bytes, carried: Command | None, error: type[KowabungaError]
) -> None:
    world = World()
    async with dispatching(tmp_path, world.handle) as dispatcher:
        with pytest.raises(error):
            await dispatcher.handle(name, params, carried)
    assert world.begun == []


class TestGivingWay:
    """An import, say, of a template that is deleted meanwhile."""

    async def test_ends_for_a_newer_command_about_its_target(self, tmp_path: Path) -> None:
        world, fetching = World(), World()
        fetching.gate.clear()
        handlers = {"grow": world.handle, "fetch": fetching.handle}
        async with (
            FenceBook.open(tmp_path / "fences.db") as fences,
            Dispatcher(handlers, fences, methods=METHODS) as dispatcher,
            asyncio.TaskGroup() as group,
        ):
            fetch = group.create_task(outcome(dispatcher, "fetch", command("a", 5)))
            await until(lambda: fetching.begun, "the fetch to begin")
            other = target("volume", "1" * 24)
            await dispatcher.handle("grow", raw(1), command("b", 6, other))
            older = group.create_task(outcome(dispatcher, "grow", command("c", 4)))
            await settle()
            assert not fetch.done()
            await dispatcher.handle("grow", raw(3), command("d", 5))
            assert (await fetch, await older) == ("cancelled", "stale")
            assert (world.begun, fetching.ended) == ([1, 3], [])

    async def test_lets_the_newer_one_wait_until_it_has_cleaned_up(self, tmp_path: Path) -> None:
        order: list[str] = []
        begun, cleaned = asyncio.Event(), asyncio.Event()

        async def fetch(params: Size) -> Size:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await cleaned.wait()
                order.append("cleaned")
            return params

        async def grow(params: Size) -> Size:
            order.append("grown")
            return params

        async with (
            FenceBook.open(tmp_path / "fences.db") as fences,
            Dispatcher({"grow": grow, "fetch": fetch}, fences, methods=METHODS) as dispatcher,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(outcome(dispatcher, "fetch", command("a", 5)))
            await begun.wait()
            newer = [
                group.create_task(outcome(dispatcher, "grow", command(request, 6)))
                for request in ("b", "c")
            ]
            await settle()
            assert order == []
            cleaned.set()
            assert [await each for each in newer] == ["ok", "ok"]
        assert order == ["cleaned", "grown", "grown"]

    async def test_ends_with_the_process_as_others_do(self, tmp_path: Path) -> None:
        fetching = World()
        fetching.gate.clear()
        async with FenceBook.open(tmp_path / "fences.db") as fences:
            async with Dispatcher(
                {"fetch": fetching.handle}, fences, methods=METHODS
            ) as dispatcher:
                waiting = asyncio.get_running_loop().create_task(
                    dispatcher.handle("fetch", raw(1), command("a", 5))
                )
                await until(lambda: fetching.begun, "the fetch to begin")
            with pytest.raises(asyncio.CancelledError):
                await waiting


async def outcome(dispatcher: Dispatcher, method: str, wanted: Command) -> str:
    try:
        await dispatcher.handle(method, raw(0), wanted)
    except KowabungaError as error:
        return error.code
    return "ok"
