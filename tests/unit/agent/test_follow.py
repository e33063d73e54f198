"""An agent finds the Kahuna of its node again, wherever that comes back."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from appliance.agent.follow import LOOK_S, follow
from appliance.agent.identity import LocalView
from tests.support.clock import ManualClock

HERE = LocalView("wss://127.0.0.1:8443/ws", "authority one")


@dataclass
class Client:
    view: LocalView
    connected: int = 0
    running: bool = False
    hurried: int = 0

    def hurry(self) -> None:
        self.hurried += 1

    async def run(self) -> None:
        self.running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.running = False


@dataclass
class Lab:
    clock: ManualClock = field(default_factory=ManualClock)
    view: LocalView = HERE
    asked: int = 0
    clients: list[Client] = field(default_factory=list)

    async def describe(self) -> LocalView:
        self.asked += 1
        return self.view

    def client_of(self, view: LocalView) -> Client:
        self.clients.append(Client(view))
        return self.clients[-1]


@asynccontextmanager
async def following() -> AsyncGenerator[Lab]:
    lab = Lab()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(follow(lab, lab.client_of, lab.clock))
        await lab.clock.advance(0)
        yield lab
        running.cancel()


async def test_a_kahuna_that_came_back_elsewhere_is_dialled_there() -> None:
    async with following() as lab:
        for moved in (
            LocalView("wss://127.0.0.1:9443/ws", HERE.authorities),
            LocalView("wss://127.0.0.1:9443/ws", "authority two"),
        ):
            lab.view = moved
            await lab.clock.advance(LOOK_S)
            assert lab.clients[-1].view == moved
        assert [client.running for client in lab.clients] == [False, False, True]


async def test_one_that_is_where_it_was_keeps_its_client() -> None:
    async with following() as lab:
        await lab.clock.advance(10 * LOOK_S)
        assert lab.asked == 11
        assert [client.view for client in lab.clients] == [HERE]
        assert lab.clients[0].running
        assert lab.clients[0].hurried == 10


async def test_a_session_that_is_up_is_left_alone() -> None:
    async with following() as lab:
        lab.clients[0].connected = 1
        lab.view = LocalView("wss://127.0.0.1:9443/ws", "authority two")
        await lab.clock.advance(10 * LOOK_S)
        assert lab.asked == 1
        assert lab.clients[0].hurried == 0
        lab.clients[0].connected = 0
        await lab.clock.advance(LOOK_S)
        assert [client.view for client in lab.clients] == [HERE, lab.view]
