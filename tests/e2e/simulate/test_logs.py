"""What a whole run of a cloud leaves in its log: the way of a request, and no secret."""

import json
from pathlib import Path

import pytest

from tests.support.furnish import GIB, Api, furnish
from tests.support.simulation import simulation

pytestmark = pytest.mark.timeout(600)
_PASSWORD = "hunter2-correct-horse"


def test_a_request_can_be_followed_from_its_id_to_the_agent_and_no_secret_shows(
    tmp_path: Path,
) -> None:
    with simulation(tmp_path, nodes=1) as server, server.client() as client:
        place = furnish(Api(client))
        project = client.get(f"/api/v1/project/{place.project}").json()
        changed = client.put(
            f"/api/v1/project/{place.project}", json=project | {"root_password": _PASSWORD}
        )
        assert changed.json()["root_password"] == _PASSWORD
        made = client.post(
            f"/api/v1/project/{place.project}/zone/{place.zone}/kompute",
            json={"name": "web", "vcpus": 1, "memory": GIB, "disk": 2 * GIB},
        )
        assert made.status_code == 201, made.text
        key = server.key_file.read_text().strip()
    log = server.log.read_text()
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    request_id = made.headers["x-request-id"]
    of_request = [event for event in events if event.get("request_id") == request_id]
    assert {"request", "operation_finished"} <= {event["event"] for event in of_request}
    (operation_id,) = {event["operation_id"] for event in of_request if "operation_id" in event}
    by_the_agent = [event for event in events if event["event"] == "command_done"]
    assert "compute.ensure_domain" in {
        event["method"] for event in by_the_agent if event["operation_id"] == operation_id
    }
    state = b"".join(path.read_bytes() for path in (tmp_path / "state").glob("state.db*"))
    for secret in (_PASSWORD, key):
        assert secret not in log
        assert secret.encode() not in state
