"""A simulated cloud as a process: what it makes, what it plays, what outlasts it."""

import json
from pathlib import Path

import pytest

from tests.support.furnish import GIB, Api, furnish
from tests.support.simulation import simulation
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(600)
_EXT = "/api/ext/v1"


def test_a_region_of_nodes_and_their_machines_outlast_a_restart(tmp_path: Path) -> None:
    with simulation(tmp_path, nodes=4) as server, server.client() as client:
        told = server.log.read_text()
        assert "simulating 4 Kaktus nodes (4 of them new)" in told
        api = Api(client)
        assert len(api.get("/zone")) == 3
        place = furnish(api)
        kompute = api.post(
            f"/project/{place.project}/zone/{place.zone}/kompute",
            name="web",
            vcpus=1,
            memory=GIB,
            disk=2 * GIB,
        )
    with simulation(tmp_path, nodes=5) as server, server.client() as client:
        assert "simulating 5 Kaktus nodes (1 of them new)" in server.log.read_text()
        api = Api(client)
        until_now(lambda: len(client.get(f"{_EXT}/sim/nodes").json()) == 5, "every agent is played")
        until_now(
            lambda: api.get(f"/kompute/{kompute}/state")["state"] == "Running",
            "the machine is found as it was",
        )
        operations = client.get(f"{_EXT}/operations").json()
        assert {operation["state"] for operation in operations} == {"done"}
        assert client.post(f"{_EXT}/state/verify").json() == {"findings": []}


def test_a_cut_node_is_not_asked_and_a_mended_one_is_again(tmp_path: Path) -> None:
    with simulation(tmp_path, nodes=1) as server, server.client() as client:
        api = Api(client)
        place = furnish(api)
        path = f"/api/v1/project/{place.project}/zone/{place.zone}/kompute"
        body = {"name": "web", "vcpus": 1, "memory": GIB, "disk": 2 * GIB}
        node = f"{_EXT}/sim/nodes/simulated-0001"
        assert client.post(f"{node}/cut").json()["cut"] is True
        until_now(lambda: _sessions(client.get(f"{_EXT}/agents").content) == 0, "it has left")
        refused = client.post(path, json=body)
        assert refused.status_code in (503, 507), refused.text
        assert api.get("/kompute") == []
        client.post(f"{node}/mend")
        until_now(lambda: _sessions(client.get(f"{_EXT}/agents").content) == 1, "it is back")
        assert client.post(path, json=body).status_code == 201


def _sessions(agents: bytes) -> int:
    return sum(len(agent["sessions"]) for agent in json.loads(agents))
