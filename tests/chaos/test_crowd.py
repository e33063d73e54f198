"""Many users, a hundred nodes, and whatever runs is killed at random: nothing is lost or left."""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.crowd import Crowd, Killable, Nodes, open_crowd
from tests.chaos.gauges import Sample, growth, more, sample, told
from tests.chaos.soundness import (
    bugs_told,
    false_alarms,
    fences_ahead,
    fill,
    remove_all,
    things_left,
    wrong_machines,
    wrong_rows,
)
from tests.chaos.users import Ledger, User
from tests.support.faults import LONG, What, Where, breaks
from tests.support.wait import until

_NODES: Final = 100
_PROCESSES: Final = 4
_USERS: Final = 12
_REST_S: Final = 400.0  # longer than reconciliation takes to look again by itself
_CALM_S: Final = 120.0
_PATIENCE_S: Final = 600.0
_LOOK_S: Final = 0.5
_SOUND: Final = (
    "what was acknowledged is so, nothing else exists, no operation is stuck, no alarm is false;"
    " memory, descriptors, tasks and threads stay flat"
)
_LOSES_POWER: Final = 0.2
_FREEZES: Final = 0.2


@dataclass(frozen=True, slots=True)
class Size:
    """How long it goes on: until all of the first three are reached."""

    seconds: float
    done: int  # creates and deletes together
    kills: int  # of each process
    pause_s: float  # between two of them, at most
    freeze_s: float  # at most: beyond 15 s a session is given up


_SHORT: Final = Size(seconds=4, done=50, kills=1, pause_s=1, freeze_s=1)
_LONG: Final = Size(seconds=300, done=1000, kills=10, pause_s=4, freeze_s=25)


async def _havoc(luck: random.Random, size: Size, victims: list[Killable], crowd: Crowd) -> None:
    """Kill one after another, sometimes while it begins; each is started again.

    Some freeze first, go on as if nothing had been, and die a moment later.
    """
    end = time.monotonic() + size.seconds
    turns = size.kills * victims
    luck.shuffle(turns)
    while turns or time.monotonic() < end:
        await asyncio.sleep(luck.uniform(0.1, size.pause_s))
        victim = turns.pop() if turns else luck.choice(victims)
        if luck.random() < _FREEZES:
            await victim.freeze(luck.uniform(0.1, size.freeze_s))
            await asyncio.sleep(luck.uniform(0, size.pause_s))
        victim.kill()
        if isinstance(victim, Nodes):
            victim.lose_power = luck.random() < _LOSES_POWER
        await asyncio.sleep(luck.uniform(0, 1))
        victim.start()
        if victim is crowd.kahuna and luck.random() < 0.8:
            await crowd.answers()


async def _watch(crowd: Crowd, kahuna: list[Sample], nodes: list[Sample]) -> None:
    """Sample Kahuna, and the processes of nodes that are not killed."""
    while True:
        await asyncio.sleep(_LOOK_S)
        for samples, process, file in (
            (kahuna, crowd.kahuna, crowd.told),
            (nodes, crowd.nodes[0], None),
        ):
            taken = sample(process.pid, file)
            if taken is not None:
                samples.append(taken)


@asynccontextmanager
async def _used(crowd: Crowd, luck: random.Random, ledger: Ledger) -> AsyncGenerator[None]:
    """Let users do what they like for the life of the block; each ends with an answer."""
    enough = asyncio.Event()
    users = [
        User(f"u{number:02}", random.Random(luck.random()), crowd, ledger)
        for number in range(_USERS)
    ]
    async with asyncio.TaskGroup() as group:
        for user in users:
            group.create_task(user.act(enough))
        try:
            yield
        finally:
            enough.set()


async def _trouble(
    crowd: Crowd, luck: random.Random, size: Size, victims: list[Killable], ledger: Ledger
) -> None:
    """Let users and trouble go on side by side, and then look whether all is well."""
    async with _used(crowd, luck, ledger):
        wanted = ledger.done + size.done
        await _havoc(luck, size, victims, crowd)
        await crowd.answers()
        await until(lambda: ledger.done >= wanted, "enough", timeout_s=_PATIENCE_S)
    print(
        f"{ledger.creates} creates, {ledger.deletes} deletes, {ledger.changes} changes;",
        f"kills: {[victim.kills for victim in victims]},",
        f"freezes: {[victim.freezes for victim in victims]}; answers: {dict(ledger.answers)}",
    )
    assert ledger.wrong == []
    assert await crowd.come_to_rest(_REST_S) == []
    end = time.monotonic() + _CALM_S
    while (wrong := await wrong_machines(crowd, ledger.there)) != {}:
        assert time.monotonic() < end, wrong  # a state may be what was seen before a call failed
        await asyncio.sleep(_LOOK_S)


async def _check_that_it_stays_flat(
    crowd: Crowd, luck: random.Random, size: Size, ledger: Ledger
) -> None:
    """Let a Kahuna and some nodes live while others die, and hold what they take against it."""
    kahuna, nodes = list[Sample](), list[Sample]()
    await crowd.until_all_are_connected(_NODES)
    before = sample(crowd.kahuna.pid, crowd.told)
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(crowd, kahuna, nodes))
        await _trouble(crowd, luck, size, [*crowd.nodes[1:]], ledger)
        watch.cancel()
    await crowd.until_all_are_connected(_NODES)
    end = time.monotonic() + _CALM_S
    while (over := more(before, sample(crowd.kahuna.pid, crowd.told))) != {}:
        assert time.monotonic() < end, over
        await asyncio.sleep(_LOOK_S)
    print(f"Kahuna: {told(kahuna)}\nnodes: {told(nodes)}")
    if size is _LONG:
        assert (growth(kahuna), growth(nodes)) == ({}, {})


async def _check_that_nothing_is_left(crowd: Crowd) -> None:
    await remove_all(crowd)
    assert await crowd.come_to_rest(_REST_S) == []
    assert await fill(crowd) == [507]
    assert await false_alarms(crowd) == []
    await remove_all(crowd)
    assert await crowd.come_to_rest(_REST_S) == []
    crowd.kahuna.stop()
    for nodes in crowd.nodes:
        nodes.stop()
    assert await wrong_rows(crowd.state, empty=True) == {}
    assert things_left(crowd.world) == []
    assert fences_ahead(crowd) == []
    assert bugs_told(crowd) == []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(
            _SHORT,
            id="short",
            marks=breaks(
                What.CROWD,
                "a crowd on 100 nodes: users make, change and remove machines, while Kahuna and"
                " agents freeze and are killed -9, calls fail and nodes lose power, at random",
                expected=_SOUND,
                where=Where.SIMULATED,
            ),
        ),
        pytest.param(
            _LONG,
            id="long",
            marks=breaks(
                What.CROWD,
                "a crowd on 100 nodes; for 5 minutes, and more than 1,000 creates and deletes",
                expected=_SOUND,
                where=Where.SIMULATED,
                long=True,
            ),
        ),
    ],
)
async def test_whatever_is_killed_what_was_acknowledged_is_so(tmp_path: Path, size: Size) -> None:
    seed = secrets.randbits(32) if LONG else 8
    print(f"seed {seed}")
    luck = random.Random(seed)
    async with open_crowd(tmp_path, nodes=_NODES, processes=_PROCESSES) as crowd:
        ledger = Ledger()
        await _trouble(crowd, luck, size, [crowd.kahuna, *crowd.nodes], ledger)
        await _check_that_it_stays_flat(crowd, luck, size, ledger)
        await _check_that_nothing_is_left(crowd)
