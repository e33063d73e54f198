"""What the clients need of agents beyond what every kind has: their keys."""

import pytest

from appliance.core import crypto
from tests.unit.api.v1.kinds import AGENT, Api, Json

EXT = "/api/ext/v1/agents"


async def _token(api: Api, agent: Json, query: str = "?expire=false", status: int = 200) -> Json:
    token: Json = await api.ask(status, "PATCH", f"{AGENT.path}/{agent['id']}/token{query}")
    return token


async def test_a_new_key_is_told_of_and_not_told(api: Api) -> None:
    agent = await api.create(AGENT)
    token = await _token(api, agent)
    assert token == {
        "id": agent["id"],
        "name": f"{agent['name']}-api-key",
        "description": "",
        "expire": False,
    }
    collected = await api.ask(200, "POST", f"{EXT}/{agent['id']}/credential")
    assert collected["key"].startswith("kwb_")
    await api.ask(409, "POST", f"{EXT}/{agent['id']}/credential")


async def test_the_patch_rotates_the_key_again_and_again(api: Api) -> None:
    agent = await api.create(AGENT)
    keys = set[str]()
    for query in ("", "?expire=false", "?expire=true&expiration_date=2999-12-31"):
        await _token(api, agent, query)
        collected = await api.ask(200, "POST", f"{EXT}/{agent['id']}/credential")
        keys.add(collected["key"])
    assert len(keys) == 3


async def test_a_key_can_end_on_a_day(api: Api) -> None:
    agent = await api.create(AGENT)
    token = await _token(api, agent, "?expire=true&expiration_date=2999-12-31")
    assert (token["expire"], token["expiration_date"]) == (True, "2999-12-31")
    seen = await api.ask(200, "GET", f"{EXT}/{agent['id']}")
    assert seen["expires_at_ms"] == 32_503_680_000_000  # the midnight that ends that day, UTC


@pytest.mark.parametrize(
    "query",
    [
        "?expire=true",
        "?expire=true&expiration_date=",
        "?expire=true&expiration_date=soon",
        "?expire=true&expiration_date=2020-01-01",
        "?expire=maybe",
    ],
)
async def test_a_bad_expiry_is_422_and_issues_nothing(api: Api, query: str) -> None:
    agent = await api.create(AGENT)
    await _token(api, agent, query, 422)
    assert (await api.ask(200, "GET", f"{EXT}/{agent['id']}"))["credential"] == "none"


async def test_the_type_of_an_agent_cannot_change(api: Api) -> None:
    agent = await api.create(AGENT)
    refused = await api.ask(422, "PUT", f"{AGENT.path}/{agent['id']}", agent | {"type": "Kaktus"})
    assert "cannot become Kaktus" in refused["reason"]


async def test_an_enrolled_node_keeps_its_own_key(api: Api) -> None:
    public_key = crypto.to_base64(crypto.signing_public_key(crypto.generate_signing_key()))
    enrolled = await api.ask(
        201, "POST", EXT, {"name": "node", "type": "Kaktus", "public_key": public_key}
    )
    refused = await _token(api, enrolled, status=422)
    assert "revoke" in refused["reason"]


async def test_agents_inside_guests_are_not_shown(api: Api) -> None:
    inside = await api.ask(201, "POST", EXT, {"name": "guest", "type": "Kontroller"})
    assert inside["id"] not in await api.ask(200, "GET", AGENT.path)
    await api.ask(404, "GET", f"{AGENT.path}/{inside['id']}")


async def test_an_agent_that_a_node_has_stays(api: Api) -> None:
    [kiwi_agent, *_] = api.world.kiwi_agents
    region = api.world.region
    body = {"name": "kiwi", "agents": [kiwi_agent]}
    await api.ask(201, "POST", f"/api/v1/region/{region}/kiwi", body)
    refused = await api.ask(409, "DELETE", f"{AGENT.path}/{kiwi_agent}")
    assert "Kiwis (1)" in refused["reason"]


async def test_nothing_of_a_deleted_agent_is_left(api: Api) -> None:
    agent = await api.create(AGENT)
    await _token(api, agent)
    await api.ask(200, "DELETE", f"{AGENT.path}/{agent['id']}")
    await api.ask(404, "DELETE", f"{AGENT.path}/{agent['id']}")
    await api.ask(404, "POST", f"{EXT}/{agent['id']}/credential")
