"""Random histories of adapters, subnets, projects and quotas: one after another, and at once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from appliance.core.errors import Conflict, InsufficientResource, Invalid, NotFound
from tests.property.allocation.model import Model
from tests.property.allocation.world import PREFIX_LENGTHS, REGIONS, World, open_world

T = TypeVar("T")
_SETTINGS: Final = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
_REFUSALS: Final = (Invalid, Conflict, InsufficientResource)


@dataclass(frozen=True)
class Act:
    """What to do; `pick` chooses among what exists by then."""

    verb: str
    pick: int
    offsets: tuple[int, ...]
    number: int
    regions: tuple[int, ...]


_ACTS: Final = st.builds(
    Act,
    verb=st.sampled_from(
        ["assign", "assign", "assign", "make", "change", "drop", "keep", "found", "found", "move",
         "leave", "run", "run"]
    ),
    pick=st.integers(0, 63),
    offsets=st.lists(st.integers(0, 16), min_size=1, max_size=3, unique=True).map(tuple),
    number=st.integers(0, 5),
    regions=st.lists(st.integers(0, REGIONS - 1), unique=True).map(tuple),
)  # fmt: skip


def _outcome(call: Callable[[], T]) -> T | type[Exception]:
    try:
        return call()
    except _REFUSALS as refused:
        return type(refused)


async def _tried(work: Awaitable[T]) -> T | type[Exception]:
    try:
        return await work
    except _REFUSALS as refused:
        return type(refused)


async def _step(world: World, model: Model, name: str, act: Act) -> None:
    """Do one thing to both and compare what they say."""
    subnet = model.subnets[act.pick % len(model.subnets)]
    adapters, projects = sorted(model.adapters), sorted(model.projects)
    adapter = adapters[act.pick % len(adapters)] if adapters else None
    project = projects[act.pick % len(projects)] if projects else None
    offsets, regions = list(act.offsets), list(act.regions)
    expected: object
    found: object
    match act.verb:
        case "assign" | "make":
            offsets = [] if act.verb == "assign" else offsets
            expected = _outcome(lambda: model.make_adapter(name, subnet, offsets))
            found = await _tried(world.make_adapter(name, subnet.name, offsets))
        case "change" if adapter:
            own = model.adapters[adapter].subnet.name
            expected = _outcome(lambda: model.change_adapter(adapter, offsets))
            found = await _tried(world.change_adapter(adapter, own, offsets))
        case "drop" if adapter:
            expected = _outcome(lambda: model.drop_adapter(adapter))
            found = await _tried(world.drop_adapter(adapter))
        case "keep":
            first, last = min(offsets), max(offsets)
            purpose = ("reserved", "gw_pool")[act.number % 2]
            if last > subnet.usable.stop:
                return
            expected = _outcome(lambda: model.keep(subnet, purpose, first, last))
            found = await _tried(world.keep(subnet.name, purpose, first, last))
        case "found":
            size = PREFIX_LENGTHS[act.pick % len(PREFIX_LENGTHS)]
            expected = _outcome(lambda: model.make_project(name, size, act.number, regions))
            found = await _tried(world.make_project(name, size, act.number, regions))
        case "move" if project:
            expected = _outcome(lambda: model.change_project(project, regions))
            found = await _tried(world.change_project(project, regions))
        case "leave" if project:
            expected = _outcome(lambda: model.drop_project(project))
            found = await _tried(world.drop_project(project))
        case "run" if project:
            vcpus = act.number + 1
            mine = [each.name for each in model.projects[project].subnets.values()]
            card = next(
                (
                    each
                    for each in adapters
                    if model.adapters[each].subnet.name in mine
                    and model.adapters[each].attached is None
                ),
                None,
            )
            expected = _outcome(lambda: model.take_vcpus(project, vcpus))
            found = await _tried(world.take_vcpus(project, vcpus, card))
            if card is not None and expected is None:
                model.attach(card, project)
        case _:
            return
    event(f"{act.verb}: {found.__name__ if isinstance(found, type) else 'done'}")
    assert found == expected, act


@_SETTINGS
@given(st.lists(_ACTS, min_size=25, max_size=60))
async def test_one_after_another_everything_is_given_as_the_plain_model_says(
    acts: list[Act],
) -> None:
    async with open_world() as world:
        model = Model(world.models)
        for number, act in enumerate(acts):
            await _step(world, model, f"o{number:02}", act)
        assert await world.broken() == {}


async def _alone(world: World, name: str, act: Act) -> None:
    """Do one thing among others; it may be refused, or find that its object is gone."""
    names = sorted(world.subnets)
    subnet = names[act.pick % len(names)]
    known = sorted(world.ids)
    known = [each for each in known if each.startswith("p" if act.verb in _OF_PROJECTS else "a")]
    other = known[act.pick % len(known)] if known else None
    try:
        match act.verb:
            case "assign" | "make":
                await world.make_adapter(
                    f"a{name}", subnet, () if act.verb == "assign" else act.offsets
                )
            case "change" if other:
                await world.change_adapter(other, subnet, act.offsets)
            case "drop" if other:
                await world.drop_adapter(other)
            case "keep":
                purpose = ("reserved", "gw_pool")[act.number % 2]
                await world.keep(subnet, purpose, min(act.offsets), max(act.offsets))
            case "found":
                size = PREFIX_LENGTHS[act.pick % len(PREFIX_LENGTHS)]
                await world.make_project(f"p{name}", size, act.number, act.regions)
            case "move" if other:
                await world.change_project(other, act.regions)
            case "leave" if other:
                await world.drop_project(other)
            case "run" if other:
                await world.take_vcpus(other, act.number + 1)
            case _:
                pass
    except (*_REFUSALS, NotFound) as refused:
        event(f"{act.verb}: {type(refused).__name__}")


_OF_PROJECTS: Final = {"move", "leave", "run"}


@_SETTINGS
@given(st.lists(st.lists(_ACTS, min_size=20, max_size=50), min_size=2, max_size=3))
async def test_whatever_many_clients_do_at_once_no_invariant_breaks(
    rounds: list[list[Act]],
) -> None:
    async with open_world() as world:
        for number, acts in enumerate(rounds):
            await asyncio.gather(
                *(_alone(world, f"{number}-{client}", act) for client, act in enumerate(acts))
            )
            assert await world.broken() == {}
