"""Every method with arguments and results at the edges of what it declares, and beyond them."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from appliance.agent.dispatch import Dispatcher
from appliance.agent.fences import FenceBook
from appliance.agent.simulated import simulated_handlers
from appliance.core.errors import Busy, Corrupt, DriverError, KowabungaError
from appliance.drivers.fake.node import NodeTraits, SimulatedNode
from appliance.drivers.fake.world import World
from appliance.model.agent import AgentType
from appliance.model.storage import LocalPool
from appliance.model.target import Fence
from appliance.resources.kompute import KOMPUTES
from appliance.resources.observed import Trouble
from appliance.rpc.gateway import Command
from appliance.rpc.messages import (
    ErrorCode,
    Malformed,
    decode_frame,
    decode_result,
    rebuild_error,
)
from appliance.rpc.method import AnyMethod, Method
from appliance.rpc.methods import METHODS, Event
from appliance.rpc.storage import STORAGE_LIST_IMAGES
from appliance.services.durable import Durable
from appliance.services.reconcile import Reconciler
from appliance.services.verify import list_images, verify_world
from tests.support.cloud import ASKED, Cloud, open_cloud
from tests.support.faults import What, Where, breaks
from tests.support.fuzz import budget, examples, for_long
from tests.support.fuzz_structs import almost, fitting
from tests.support.rpc import SYSTEM_CLOCK

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

SERVED: Final = [method for method in METHODS.values() if not method.name.startswith("session.")]
TARGETS: Final = st.sampled_from(["instance/" + "a" * 24, "volume/" + "b" * 24])
COMMANDS: Final = st.builds(
    lambda target, epoch, fence: Command("r", target, Fence(epoch, fence)),
    TARGETS,
    st.sampled_from([0, 1, 2**63 - 1]),
    st.sampled_from([0, 1, 2, 2**63 - 1]),
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[AnyMethod, bytes]:
    """A method and its arguments: half of them fit."""
    method = draw(st.sampled_from(SERVED))
    arguments = draw(fitting(method.params))
    if draw(st.booleans()):
        arguments = almost(arguments, random.Random(draw(st.integers(0, 2**32))))
    return method, json.dumps(arguments).encode()


@asynccontextmanager
async def simulated(directory: Path) -> AsyncGenerator[Dispatcher]:
    """An agent that is a Kaktus and a Kiwi, before a simulated node."""
    events: list[Event] = []
    async with AsyncExitStack() as stack:
        world = stack.enter_context(World())
        node = SimulatedNode("a" * 24, world, clock=SYSTEM_CLOCK, traits=NodeTraits(latency_s=0))
        handlers = {
            name: handler
            for kind in (AgentType.KAKTUS, AgentType.KIWI)
            for name, handler in simulated_handlers(
                node, kind, version="1", boot_id="b", send_event=events.append
            ).items()
        }
        fences = await stack.enter_async_context(FenceBook.open(directory / "fences.db"))
        yield await stack.enter_async_context(Dispatcher(handlers, fences))


@breaks(
    What.INPUT,
    "a call of any method with arguments at the edges of what it declares, or beyond",
    expected="the agent does it, or says what is wrong with it",
    where=Where.SIMULATED,
)
@budget(120)
@given(st.lists(st.tuples(calls(), COMMANDS), min_size=1, max_size=8))
def test_an_agent_does_what_it_is_told_or_says_why_not(
    tmp_path_factory: pytest.TempPathFactory, told: list[tuple[tuple[AnyMethod, bytes], Command]]
) -> None:
    async def scenario() -> None:
        async with simulated(tmp_path_factory.mktemp("agent")) as dispatcher:
            for (method, arguments), command in told:
                try:
                    result = await dispatcher.handle(
                        method.name, arguments, command if method.effectful else None
                    )
                except KowabungaError:
                    continue
                assert isinstance(result, method.result)
                decode_result(msgspec.Raw(msgspec.json.encode(result)), method.result)

    asyncio.run(scenario())


class MadNodes:
    """A gateway to agents that answer what the declaration allows, and no more sense than that."""

    def __init__(self, seed: int, answers: dict[str, list[Any]]) -> None:
        self._chance = random.Random(seed)
        self._answers = answers
        self.calls = 0

    def reachable(self, agent_id: str) -> bool:
        del agent_id
        return True

    async def call(
        self,
        agent_id: str,
        method: Method[P, R],
        params: P,
        *,
        timeout_s: float | None = None,
        command: Command | None = None,
    ) -> R:
        del agent_id, params, timeout_s, command
        self.calls += 1
        assert self.calls < 10_000, f"{method.name} is asked without an end"
        answer = self._chance.choice(self._answers[method.name])
        return msgspec.json.decode(json.dumps(answer), type=method.result)


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path, hosts=1) as cloud:
        await cloud.add_kompute("web")
        yield cloud


LOOKED_AT: Final = [
    method for method in SERVED if ".list_" in method.name or ".get_" in method.name
]
ANSWERS: Final = st.fixed_dictionaries(
    {method.name: st.lists(fitting(method.result), min_size=1, max_size=2) for method in LOOKED_AT}
)


@breaks(
    What.INPUT,
    "an agent that reports nonsense: huge numbers, odd texts, pages without an end",
    expected="what is stored of it fits, the rest is logged; no other node suffers",
    where=Where.SIMULATED,
)
@for_long
async def test_nonsense_of_an_agent_costs_kahuna_a_line_in_its_log(cloud: Cloud) -> None:
    for seed, answers in enumerate(examples(ANSWERS, 40)):
        nodes = MadNodes(seed, answers)
        durable = Durable(cloud.store, cloud.engine, nodes, cloud.clock)
        reconciler = Reconciler(
            cloud.store, cloud.engine, nodes, durable, cloud.compute.seeds,
            alarm=cloud.alarms.raise_alarm, clock=cloud.clock,
        )  # fmt: skip
        await reconciler.look(cloud.agents[0])
        await verify_world(cloud.store, nodes, cloud.compute.seeds)
    for operation in await cloud.engine.list(unfinished=True):
        await cloud.engine.wait(operation.id, 60)
    await cloud.compute.reconciler.look(cloud.agents[0])
    assert (await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)).is_clean


@pytest.mark.parametrize("ids", [["a" * 24], ["b" * 24, "a" * 24]])
async def test_pages_without_an_end_are_not_read_for_ever(ids: list[str]) -> None:
    image = {"purpose": "volume", "size_bytes": 1, "allocated_bytes": 1}
    page = {"images": [{**image, "image_id": each} for each in ids], "more": True}
    nodes = MadNodes(0, {STORAGE_LIST_IMAGES.name: [page]})
    with pytest.raises(Corrupt, match="without an end"):
        await list_images(nodes, "c" * 24, LocalPool(directory="/pool"))


@breaks(
    What.INPUT,
    "a command whose fence no database can keep",
    expected="refused when it is read; commands that come with it are done",
    where=Where.SIMULATED,
)
@pytest.mark.parametrize("fence", [2**63, 10**400, -1])
def test_a_fence_that_cannot_be_kept_is_refused_when_it_is_read(fence: int) -> None:
    command = {"request_id": "r", "target": "instance/x", "fence": {"epoch": 1, "fence": fence}}
    call = {"jsonrpc": "2.0", "id": 7, "method": "m", "params": {"command": command}}
    with pytest.raises(Malformed) as refused:
        decode_frame(json.dumps(call).encode())
    assert (refused.value.code, refused.value.call_id) == (ErrorCode.INVALID_PARAMS, 7)


def test_an_error_of_the_other_side_is_no_longer_than_what_is_kept_of_it() -> None:
    endless = {"x" * 9000: "y" * 9000, "number": 10**400, **{str(n): n for n in range(1000)}}
    problem = {"code": "busy", "detail": "z" * 900_000, "hint": "h" * 9000, "context": endless}
    frame = {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "m", "data": problem}}
    answer = decode_frame(json.dumps(frame).encode())
    assert answer.error is not msgspec.UNSET
    error = rebuild_error(answer.error)
    assert isinstance(error, Busy)
    assert len(msgspec.json.encode(error.to_problem())) < 10_000
    assert error.context["number"] == 0


class Moody:
    """Agents that are mad at times: they answer nonsense, or fail with odd texts."""

    def __init__(self, cloud: Cloud, answers: list[dict[str, list[Any]]]) -> None:
        self._sane = cloud.nodes.call
        cloud.nodes.call = self.call  # type: ignore[method-assign] # of the tests' own nodes
        self._answers = answers
        self._chance = random.Random(0)
        self.is_mad = True

    async def call(
        self,
        agent_id: str,
        method: Method[P, R],
        params: P,
        *,
        timeout_s: float | None = None,
        command: Command | None = None,
    ) -> R:
        if not self.is_mad or self._chance.random() < 0.5:
            return await self._sane(agent_id, method, params, timeout_s=timeout_s, command=command)
        if self._chance.random() < 0.3:
            raise DriverError("\x00\x1b[2J\u202e" * 500, hint="\x00", field="\x00", id=2**63 - 1)
        answer = self._chance.choice(self._chance.choice(self._answers)[method.name])
        return msgspec.json.decode(json.dumps(answer), type=method.result)


@breaks(
    What.INPUT,
    "agents that answer the steps of operations with nonsense, or fail with control characters",
    expected="each operation ends; once they are sane, all rows have their things again",
    where=Where.SIMULATED,
)
@for_long
async def test_operations_end_whatever_agents_answer(tmp_path: Path) -> None:
    answers = examples(
        st.fixed_dictionaries(
            {
                method.name: st.lists(fitting(method.result), min_size=1, max_size=2)
                for method in SERVED
            }
        ),
        20,
    )
    async with open_cloud(tmp_path, hosts=1) as cloud:
        moody = Moody(cloud, answers)
        for number in range(12):
            with suppress(KowabungaError):
                await cloud.add_kompute(f"web-{number}")
        for kompute_id in await cloud.catalog.list_ids(KOMPUTES):
            with suppress(KowabungaError):
                begun = await cloud.compute.komputes.delete(ASKED, kompute_id)
                await begun.outcome()
        moody.is_mad = False
        wrong = [""]
        for _ in range(20):
            for operation in await cloud.engine.list(unfinished=True):
                await cloud.engine.wait(operation.id, 60)
            await cloud.compute.reconciler.look(cloud.agents[0])
            verdict = await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)
            # What they hid is nobody's now: it is told of, and never removed.
            hidden = (Trouble.UNKNOWN, Trouble.FLAW)
            wrong = [str(each) for each in verdict.differences if each.trouble not in hidden]
            if not wrong and not await cloud.engine.list(unfinished=True):
                break
        assert wrong == []
        assert verdict.unseen == ()
