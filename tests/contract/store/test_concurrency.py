import asyncio

import pytest

from appliance.core.errors import Conflict, Stale
from appliance.store.base import Statement, Store, guard
from tests.contract.store.rows import add_team, team_names

_SIZE = Statement("SELECT size FROM team WHERE id = 'a'")


async def test_of_many_that_want_one_name_exactly_one_wins(store: Store) -> None:
    async def attempt(number: int) -> object:
        try:
            await store.batch([
                Statement("INSERT INTO team (id, name) VALUES (?, 'wanted')", (f"{number}",)),
                Statement("INSERT INTO badge (team_id, colour) VALUES (?, ?)",
                          (f"{number}", f"{number}")),
            ])  # fmt: skip
        except Conflict as lost:
            return lost.context["columns"]
        return "won"

    async with asyncio.TaskGroup() as group:
        attempts = [group.create_task(attempt(number)) for number in range(200)]
    outcomes = sorted(str(task.result()) for task in attempts)
    assert outcomes == ["team.name"] * 199 + ["won"]
    rows = await store.query(Statement("SELECT team.id, colour FROM team, badge"))
    assert len(rows) == 1
    assert rows[0]["id"] == rows[0]["colour"]


async def test_compare_and_set_loses_no_increment(store: Store) -> None:
    await store.batch([add_team("a")])

    async def increment() -> int:
        stale = 0
        while True:
            (row,) = await store.query(_SIZE)
            check, clear = guard(
                Statement("SELECT size = ? FROM team WHERE id = 'a'", (row["size"],))
            )
            change = Statement("UPDATE team SET size = size + 1 WHERE id = 'a'")
            try:
                await store.batch([check, change, clear])
            except Stale:
                stale += 1
            else:
                return stale

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(increment()) for _ in range(20)]
    assert sum(task.result() for task in tasks) > 0, "nobody ever lost: the guard was not tried"
    assert await store.query(_SIZE) == [{"size": 20}]


async def test_each_outcome_reaches_its_own_caller(store: Store) -> None:
    await store.batch([add_team("taken")])

    async def attempt(number: int) -> list[int] | str:
        batch = [
            add_team(f"{number:03}"),
            Statement("UPDATE team SET size = 1 WHERE id = ?", ("no",)),
        ]
        if number % 3 == 1:
            batch.append(add_team("taken"))
        if number % 3 == 2:
            batch.extend(guard(Statement("SELECT 0")))
        try:
            return await store.batch(batch)
        except (Conflict, Stale) as refused:
            return refused.code

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt(number)) for number in range(150)]
    for number, task in enumerate(tasks):
        assert task.result() == ([1, 0], "conflict", "stale")[number % 3]
    assert await team_names(store) == [f"{number:03}" for number in range(0, 150, 3)] + ["taken"]


async def test_a_fault_deep_in_one_batch_does_not_touch_its_neighbours(store: Store) -> None:
    """A broken deferred reference shows at COMMIT only, where it takes the others with it."""
    await store.batch([
        Statement(
            "CREATE TABLE task (id TEXT PRIMARY KEY, team_id TEXT NOT NULL"
            " REFERENCES team (id) DEFERRABLE INITIALLY DEFERRED) STRICT"
        )
    ])  # fmt: skip
    broken = Statement("INSERT INTO task (id, team_id) VALUES ('t', 'nobody')")
    async with asyncio.TaskGroup() as group:
        before = [group.create_task(store.batch([add_team(f"a{n}")])) for n in range(20)]
        bad = group.create_task(_refused(store, broken))
        after = [group.create_task(store.batch([add_team(f"b{n}")])) for n in range(20)]
    assert bad.result() == "foreign_key"
    assert all(task.result() == [1] for task in before + after)
    assert len(await team_names(store)) == 40


async def _refused(store: Store, statement: Statement) -> object:
    with pytest.raises(Conflict) as refused:
        await store.batch([statement])
    return refused.value.context["constraint"]


async def test_a_caller_that_leaves_does_not_tear_its_batch(store: Store) -> None:
    """It is written whole or not at all, and what comes after it is not disturbed."""
    tasks = [
        asyncio.create_task(store.batch([add_team(f"{n}-1"), add_team(f"{n}-2")]))
        for n in range(100)
    ]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.batch([add_team("last")])
    names = set(await team_names(store))
    for number in range(100):
        halves = {f"{number}-1", f"{number}-2"}
        assert halves <= names or (number % 2 == 0 and not halves & names)
    assert "last" in names


async def test_a_reader_never_sees_half_a_batch(store: Store) -> None:
    await store.batch([add_team("a", size=500), add_team("b", size=500)])
    done = asyncio.Event()

    async def move() -> None:
        for _ in range(100):
            await store.batch([
                Statement("UPDATE team SET size = size - 1 WHERE id = 'a'"),
                Statement("UPDATE team SET size = size + 1 WHERE id = 'b'"),
            ])  # fmt: skip
        done.set()

    async def watch() -> int:
        looks = 0
        while not done.is_set():
            rows = await store.query(Statement("SELECT sum(size) AS total FROM team"))
            assert rows == [{"total": 1000}]
            looks += 1
        return looks

    async with asyncio.TaskGroup() as group:
        group.create_task(move())
        watchers = [group.create_task(watch()) for _ in range(4)]
    assert all(task.result() > 0 for task in watchers)
    assert await store.query(_SIZE) == [{"size": 400}]
