"""Users who make and remove machines, as Terraform does, and believe only what they were told.

What is not answered is asked again, just as it was, until it is: that is all that a user of
Terraform can do. So at any moment between two of his wishes a user knows what must be there.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

import httpx

from tests.chaos.crowd import GIB, MACHINE, V1, Crowd

SLOTS: Final = 4  # machines of one user, at most
_PAUSE_S: Final = 0.2
# The trouble of the moment: a node fails, no host or agent is reachable, something is being undone,
# a quota that it still counts in.
_LATER: Final = frozenset({500, 503, 504, 507})
_CHANGED: Final = 0.3  # how often a machine grows, shrinks, starts or stops, instead of going
_IMPATIENT: Final = 0.05  # how often somebody presses Ctrl-C, and begins again


@dataclass(frozen=True, slots=True)
class Machine:
    """One that a user was told of."""

    id: str
    vcpus: int = 1
    runs: bool = True


@dataclass(slots=True)
class Ledger:
    """What users were told, and what they should not have been."""

    there: dict[str, Machine] = field(default_factory=dict[str, Machine])  # by name
    creates: int = 0
    deletes: int = 0
    changes: int = 0
    answers: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])

    @property
    def done(self) -> int:
        return self.creates + self.deletes


class User:
    def __init__(self, name: str, luck: random.Random, crowd: Crowd, ledger: Ledger) -> None:
        self._name = name
        self._luck = luck
        self._crowd = crowd
        self._ledger = ledger
        self._names = [f"{name}-{slot}" for slot in range(SLOTS)]

    async def act(self, enough: asyncio.Event) -> None:
        """Make and remove machines until it is enough."""
        async with self._crowd.client() as client:
            while not enough.is_set():
                name = self._luck.choice(self._names)
                machine = self._ledger.there.get(name)
                if machine is None:
                    await self._make(client, name)
                elif self._luck.random() < _CHANGED:
                    change = self._luck.choice((self._grow_or_shrink, self._switch))
                    await change(client, name, machine)
                else:
                    await self._remove(client, name, machine)

    async def _make(self, client: httpx.AsyncClient, name: str) -> None:
        zone = self._luck.choice(self._crowd.zones)
        path = f"{V1}/project/{self._crowd.project}/zone/{zone}/kompute"
        body = {"name": name, **MACHINE, "data_disk": self._luck.choice((0, GIB))}
        unsure = False  # whether an earlier try may have made it
        while True:
            answer = await self._send(client, "POST", path, body)
            made: str | None = None
            if answer is None:
                unsure = True
            elif answer.status_code == 201:
                made = answer.json()["id"]
            elif answer.status_code == 409 and unsure:
                made = await self._find(client, name)
            elif answer.status_code in _LATER:
                unsure = unsure or answer.status_code == 504
            else:
                self._ledger.wrong.append(f"create of {name}: {answer.text}")
                return
            if made is not None:
                self._ledger.there[name] = Machine(made)
                self._ledger.creates += 1
                return
            await asyncio.sleep(self._luck.uniform(0, _PAUSE_S))

    async def _grow_or_shrink(self, client: httpx.AsyncClient, name: str, machine: Machine) -> None:
        wanted = replace(machine, vcpus=3 - machine.vcpus)
        body = {"name": name, **MACHINE, "vcpus": wanted.vcpus}
        await self._insist(client, "PUT", f"{V1}/kompute/{machine.id}", body)
        self._ledger.there[name] = wanted

    async def _switch(self, client: httpx.AsyncClient, name: str, machine: Machine) -> None:
        verb = "stop" if machine.runs else "start"
        await self._insist(client, "PATCH", f"{V1}/kompute/{machine.id}/{verb}")
        self._ledger.there[name] = replace(machine, runs=not machine.runs)

    async def _insist(
        self, client: httpx.AsyncClient, method: str, path: str, body: object = None
    ) -> None:
        while True:
            answer = await self._send(client, method, path, body)
            if answer is not None and answer.status_code not in _LATER:
                break
            await asyncio.sleep(self._luck.uniform(0, _PAUSE_S))
        self._ledger.changes += 1
        if not answer.is_success:
            self._ledger.wrong.append(f"{method} {path}: {answer.text}")

    async def _remove(self, client: httpx.AsyncClient, name: str, machine: Machine) -> None:
        unsure = False
        while True:
            answer = await self._send(client, "DELETE", f"{V1}/kompute/{machine.id}")
            if answer is None:
                unsure = True
            elif answer.is_success or (answer.status_code == 404 and unsure):
                break
            elif answer.status_code in _LATER:
                unsure = True  # it stays wished for, and is tried again by itself
            else:
                self._ledger.wrong.append(f"delete of {name}: {answer.text}")
                break
            await asyncio.sleep(self._luck.uniform(0, _PAUSE_S))
        del self._ledger.there[name]
        self._ledger.deletes += 1

    async def _find(self, client: httpx.AsyncClient, name: str) -> str | None:
        """Import what an earlier try made, if it is shown."""
        listed = await self._send(client, "GET", f"{V1}/kompute", patient=True)
        for each in listed.json() if listed is not None and listed.is_success else ():
            found = await self._send(client, "GET", f"{V1}/kompute/{each}", patient=True)
            if found is not None and found.is_success and found.json()["name"] == name:
                return str(each)
        return None

    async def _send(
        self,
        client: httpx.AsyncClient,
        method: str,
        path: str,
        body: object = None,
        *,
        patient: bool = False,
    ) -> httpx.Response | None:
        """Return the answer; None: it never came."""
        leaves = not patient and self._luck.random() < _IMPATIENT
        try:
            async with asyncio.timeout(self._luck.uniform(0, 0.3) if leaves else None):
                answer = await client.request(method, path, json=body)
        except (httpx.HTTPError, TimeoutError) as lost:
            self._ledger.answers[f"{method} {type(lost).__name__}"] += 1
            return None
        self._ledger.answers[f"{method} {answer.status_code}"] += 1
        return answer
