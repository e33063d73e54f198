"""Machines over HTTP, as the clients use them: power, lists, parts, waiting or not."""

import asyncio
import json
import re

import pytest

from tests.contract.clients.terraform import API, Terraform, create_all
from tests.support.furnish import GIB

pytestmark = pytest.mark.timeout(600)
_ACTIONS = (
    ("suspend", "Paused"),
    ("resume", "Running"),
    ("reboot", "Running"),
    ("reset", "Running"),
    ("stop", "Shutoff"),
    ("start", "Running"),
    ("stop", "Shutoff"),
)


async def test_each_action_answers_200_without_body_and_shows_in_the_state(
    terraform: Terraform,
) -> None:
    made = await create_all(terraform)
    for path in (f"/instance/{made.instance}", f"/kompute/{made.kompute}"):
        assert (await terraform.ask(200, "GET", f"{path}/state"))["state"] == "Running"
        for action, state in _ACTIONS:
            assert await terraform.ask(200, "PATCH", f"{path}/{action}") is None
            assert (await terraform.ask(200, "GET", f"{path}/state"))["state"] == state, action
        assert await terraform.ask(200, "PATCH", f"{path}/start") is None
        assert await terraform.ask(200, "PATCH", f"{path}/shutdown") is None
    instance = f"/instance/{made.instance}"
    await terraform.ask(200, "PATCH", f"{instance}/start")
    screen = await terraform.ask(200, "GET", f"{instance}/connect")
    assert re.fullmatch("wss?://[^/]+/api/ext/v1/console/[^/]+", screen.pop("url"))
    assert screen == {}
    await terraform.ask(200, "PATCH", f"{instance}/stop")
    refused = await terraform.ask(404, "GET", f"/instance/{made.instance}/connect")
    assert "no console" in refused["reason"]  # and the contract has no other status for it


async def test_lists_of_zones_and_regions_hold_only_their_own(terraform: Terraform) -> None:
    made = await create_all(terraform)
    zone = await terraform.create(f"/region/{made.region}/zone", name="eu-west-b")
    below = f"/project/{made.project}"
    instances = await terraform.ask(200, "GET", f"{below}/zone/{made.zone}/instances")
    assert (len(instances), instances.count(made.instance)) == (2, 1)
    assert await terraform.ask(200, "GET", f"{below}/zone/{made.zone}/komputes") == [made.kompute]
    volumes = await terraform.ask(200, "GET", f"{below}/region/{made.region}/volumes")
    assert set(made.volumes) < set(volumes)
    for path in (
        f"{below}/zone/{zone}/instances",
        f"{below}/zone/{zone}/komputes",
        f"{below}/region/{made.other_region}/volumes",
    ):
        assert await terraform.ask(200, "GET", path) == []


async def test_parts_of_a_kompute_are_changed_and_removed_only_with_it(
    terraform: Terraform,
) -> None:
    made = await create_all(terraform)
    for kind, own in (
        ("instance", [made.instance]),
        ("volume", made.volumes),
        ("adapter", [made.adapter]),
    ):
        (part,) = set(await terraform.ask(200, "GET", f"/{kind}")) - set(own)
        refused = await terraform.ask(409, "DELETE", f"/{kind}/{part}")
        assert f"owned by kompute {made.kompute}" in refused["reason"]
        read = await terraform.ask(200, "GET", f"/{kind}/{part}")
        answer = await terraform.client.put(
            f"{API}/{kind}/{part}", json=read | {"description": "mine"}
        )
        assert f"owned by kompute {made.kompute}" in answer.json()["reason"]
        assert await terraform.ask(200, "GET", f"/{kind}/{part}") == read


async def test_a_create_may_be_watched_sent_twice_and_left(terraform: Terraform) -> None:
    made = await create_all(terraform)
    place = f"{API}/project/{made.project}/zone/{made.zone}/kompute"
    body = {"name": "twice", "vcpus": 1, "memory": GIB, "disk": 10 * GIB}
    first, second = await asyncio.gather(
        terraform.client.post(place, json=body), terraform.client.post(place, json=body)
    )
    assert first.json() == second.json()
    assert (first.status_code, second.status_code) == (201, 201)
    terraform.client.event_hooks = {"response": []}  # 202 is not of the contract
    begun = await terraform.client.post(
        place, json=body | {"name": "later"}, headers={"prefer": "respond-async"}
    )
    assert begun.status_code == 202
    where = begun.headers["location"]
    assert re.fullmatch(r"/api/ext/v1/operations/[0-9a-f]{24}", where)
    watched = await terraform.client.get(f"{where}/watch")
    assert json.loads(watched.text.splitlines()[-1])["state"] == "done"
    assert await terraform.resolve("kompute", "later") is not None


async def test_what_is_exhausted_is_507_with_the_reason(terraform: Terraform) -> None:
    made = await create_all(terraform)
    place = f"/project/{made.project}/zone/{made.zone}/kompute"
    body = {"name": "big", "vcpus": 1, "memory": 65 * GIB, "disk": 10 * GIB}
    assert "quota" in (await terraform.ask(507, "POST", place, body))["reason"]
    refused = await terraform.ask(507, "POST", place, body | {"memory": GIB, "vcpus": 4096})
    assert "kaktus-1" in refused["reason"]
    assert "kaktus-2" in refused["reason"]
    answer = await terraform.client.get(f"{API}/project/{made.project}/usage")
    assert answer.json()["instances"] == 2
