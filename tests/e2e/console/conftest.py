"""One simulated cloud with a machine that runs, for all tests of consoles."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.support.furnish import GIB, Api, furnish
from tests.support.simulation import Simulated, simulation
from tests.support.wait import until_now

EXT: Final = "/api/ext/v1"


@dataclass(frozen=True, slots=True)
class Machine:
    """A Kompute that runs, and its Kahuna."""

    server: Simulated
    client: httpx.Client
    kompute: str
    instance: str

    def ask(self, kind: str, *, client: httpx.Client | None = None) -> httpx.Response:
        """Ask for a console of the Kompute."""
        path = f"{EXT}/komputes/{self.kompute}/console"
        return (client or self.client).post(path, params={"kind": kind})

    def url(self, kind: str = "serial") -> str:
        answer = self.ask(kind)
        assert answer.status_code == 201, answer.text
        url: str = answer.json()["url"]
        return url

    def power(self, action: str) -> None:
        answer = self.client.patch(f"/api/v1/kompute/{self.kompute}/{action}")
        assert answer.status_code == 200, answer.text

    def node(self, action: str) -> None:
        """Let something happen to the only node."""
        answer = self.client.post(f"{EXT}/sim/nodes/simulated-0001/{action}")
        assert answer.is_success, answer.text

    def until_connected(self, expected: bool) -> None:
        def holds() -> bool:
            agents: list[Any] = self.client.get(f"{EXT}/agents").json()
            return any(agent["sessions"] for agent in agents) is expected

        until_now(holds, f"agents connected: {expected}", timeout_s=60)


def dial(url: str, *protocols: str) -> ClientConnection:
    return connect(
        url,
        subprotocols=[Subprotocol(name) for name in protocols] or None,
        compression=None,
        proxy=None,
        open_timeout=60,
    )


def make_machine(server: Simulated, client: httpx.Client) -> Machine:
    api = Api(client)
    place = furnish(api)
    kompute = api.post(
        f"/project/{place.project}/zone/{place.zone}/kompute",
        name="web",
        vcpus=1,
        memory=GIB,
        disk=2 * GIB,
    )
    (instance,) = api.get("/instance")
    return Machine(server, client, kompute, instance)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Generator[Machine]:
    directory = tmp_path_factory.mktemp("console")
    with simulation(directory, nodes=1) as server, server.client() as client:
        yield make_machine(server, client)
