"""A crowd of clients that do what they like, and the history of what they were answered."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Final

from appliance.api.v1.route import Route
from appliance.api.v1.routes import ROUTES, V1_PATH
from appliance.model.fault import FaultError
from tests.contract.api import contract
from tests.property.clients.bodies import Json, Known, Writer, agents_of
from tests.property.clients.served import EXT, Served
from tests.support.furnish import LISTS

ROUTES_BY_ID: Final = {route.operation_id: route for route in ROUTES}
_FURTHER_STATUSES: Final = frozenset({"503", "504"})
_PARAMETERS: Final = {path.removeprefix("/"): name for name, path in LISTS.items()}
# What most clients come for; of all others each has the weight 1.
_WEIGHTS: Final = {
    "Login": 0,  # what it makes is no object; unit tests know it
    "Logout": 0,
    "SetUserPassword": 0,  # 30 ms of a processor, on purpose
    "CreateProjectZoneKompute": 30,
    "DeleteKompute": 12,
    "UpdateKompute": 12,
    "CreateProjectZoneInstance": 20,
    "DeleteInstance": 5,
    "UpdateInstance": 6,
    "CreateProjectRegionVolume": 14,
    "DeleteVolume": 4,
    "UpdateVolume": 4,
    "CreateAdapter": 10,
    "UpdateAdapter": 3,
    "CreateProject": 4,
    "CreateTemplate": 3,
    "CreateSubnet": 5,
    "CreateAgent": 4,
    "CreateKaktus": 3,
    "CreateKiwi": 3,
}
_FLAGS: Final = {"public": 0.1, "assignIP": 0.8}  # how often they are set
_METHODS: Final = (
    None, "compute.ensure_domain", "compute.ensure_power", "compute.ensure_domain_absent",
    "storage.ensure_image", "storage.ensure_image_absent", "network.ensure_bridge",
)  # fmt: skip


@dataclass(slots=True)
class History:
    """What was asked and answered, in the order of the answers."""

    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    succeeded: set[str] = field(default_factory=set)

    def tell(self, line: str) -> None:
        self.lines.append(line)


class Client:
    """One of the crowd."""

    def __init__(
        self, name: str, luck: random.Random, served: Served, known: Known, history: History
    ) -> None:
        self._name = name
        self._luck = luck
        self._served = served
        self._known = known
        self._history = history
        self._writer = Writer(luck, known)
        self._weights = [_WEIGHTS.get(route.operation_id, 1) for route in ROUTES]

    async def act(self, times: int) -> None:
        for _ in range(times):
            (route,) = self._luck.choices(ROUTES, self._weights)
            await self._try(route)

    async def _try(self, route: Route) -> None:
        """Do one request; twice at once, or not to its end, as luck has it."""
        path = self._path(route)
        if path is None:
            return
        body: Json | None = None
        if route.body is not None and route.method == "PUT":
            stored = await self._served.master.get(path)
            if stored.status_code != 200:
                return
            body = self._writer.change(route.body.__name__, stored.json())
        elif route.body is not None:
            body = self._writer.make(route.body.__name__)
        if route.operation_id == "CreateProjectZoneInstance" and body and self._is_lucky(0.7):
            body |= await self._make_parts(path)
        query = {
            each.name: "true" for each in route.query if self._is_lucky(_FLAGS.get(each.name, 0))
        }
        copies = 2 if self._is_lucky(0.06) else 1
        patience_s = self._luck.uniform(0, 0.1) if self._is_lucky(0.08) else None
        await asyncio.gather(
            *(self._send(route, path, query, body, patience_s) for _ in range(copies))
        )

    async def _make_parts(self, path: str) -> Json:
        """Make the parts of an instance; some of them, when others were faster."""
        project, region = path.split("/")[4], self._known.kept["regionId"][0]
        subnet = self._known.kept["subnetId"][-1]  # a public one
        volume = await self._send(
            ROUTES_BY_ID["CreateProjectRegionVolume"],
            f"{V1_PATH}/project/{project}/region/{region}/volume",
            {},
            self._writer.make("Volume") | {"type": "os"},
        )
        adapter = await self._send(
            ROUTES_BY_ID["CreateAdapter"],
            f"{V1_PATH}/subnet/{subnet}/adapter",
            {"assignIP": "true"},
            self._writer.make("Adapter") | {"addresses": [], "mac": ""},
        )
        return {
            "volumes": [each["id"] for each in (volume,) if each],
            "adapters": [each["id"] for each in (adapter,) if each],
        }

    def _is_lucky(self, chance: float) -> bool:
        return self._luck.random() < chance

    def _path(self, route: Route) -> str | None:
        """Return the path to something that exists, for the most part; None: there is nothing."""
        known, path = self._known, route.path
        for name in LISTS:
            if f"{{{name}}}" not in path:
                continue
            ids = known.ids.get(name, [])
            if route.method == "POST" and self._is_lucky(0.8):
                ids = known.kept.get(name, ids)  # so that others are met there
            elif self._is_lucky(0.1):
                ids = known.gone.get(name, ids)
            if not ids:
                return None
            path = path.replace(f"{{{name}}}", self._luck.choice(ids))
        kept = {each for ids in known.kept.values() for each in ids}
        if route.method == "DELETE" and path.rpartition("/")[2] in kept:
            return None
        return V1_PATH + path

    async def _send(
        self,
        route: Route,
        path: str,
        query: dict[str, str],
        body: Json | None,
        patience_s: float | None = None,
    ) -> Any:  # noqa: ANN401 - JSON
        """Return what was answered, if it was answered well."""
        history, line = self._history, f"{self._name} {route.method} {path} {query} {body}"
        history.asked.add(route.operation_id)
        history.tell(f"     {line}")
        try:
            async with asyncio.timeout(patience_s):
                answer = await self._served.master.request(
                    route.method, path, params=query, json=body
                )
        except TimeoutError:
            history.tell(f"left {line}")
            return None
        told = f"{answer.status_code}  {line} -> {answer.text}"
        history.tell(told)
        operation = contract.load()["operations"][f"{route.method} {route.path}"]
        if str(answer.status_code) not in {*operation["responses"], *_FURTHER_STATUSES}:
            history.wrong.append(told)
        if not answer.is_success:
            return None
        history.succeeded.add(route.operation_id)
        found = answer.json() if answer.content else None
        self._learn(route, path, found)
        return found

    def _learn(self, route: Route, path: str, found: Any) -> None:  # noqa: ANN401 - JSON
        known = self._known
        if route.method == "DELETE":
            known.remove(path.rpartition("/")[2])
        elif route.method == "POST":
            known.add(_PARAMETERS[route.path.rpartition("/")[2]], found["id"])
            if route.operation_id == "CreateAgent":
                known.add(agents_of(found["type"]), found["id"])


async def trouble_nodes(luck: random.Random, served: Served, history: History) -> None:
    """Trouble one node after another, each for a moment, until cancelled."""
    while True:
        nodes = await served.ask("GET", f"{EXT}/sim/nodes")
        node = f"{EXT}/sim/nodes/{luck.choice(nodes)['agent_id']}"
        kind, body = luck.choice(
            (
                ("fail", _failure(luck)),
                ("fail", _failure(luck)),
                ("slow", {"factor": luck.uniform(5, 40)}),
                ("cut", None),
            )
        )
        history.tell(f"     {kind} {node} {body}")
        # It may have been deleted meanwhile.
        await served.master.post(f"{node}/{kind}", json=body)
        await asyncio.sleep(luck.uniform(0.05, 0.4))
        await served.master.post(f"{node}/mend")
        history.tell(f"     mend {node}")


def _failure(luck: random.Random) -> Json:
    return {
        "method": luck.choice(_METHODS),
        "times": luck.randint(1, 3),
        "after_effect": luck.random() < 0.5,
        "error": luck.choice(list(FaultError)),
    }
