"""What the routes of /api/ext/v1 do, on real services."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator

import httpx
import msgspec
import pytest
from litestar.routes import HTTPRoute

from appliance.api.app import EXT_PATH, create_app
from appliance.api.services import Services
from appliance.api.streams import UntilStopped
from appliance.api.waiting import finish
from appliance.core import crypto
from appliance.core.errors import DeadlineExceeded
from appliance.model.agent import CredentialKind
from appliance.operations.operation import Operation
from appliance.services.alarms import Alarm

_PUBLIC = crypto.to_base64(crypto.signing_public_key(crypto.generate_signing_key()))
_OTHER = crypto.to_base64(crypto.signing_public_key(crypto.generate_signing_key()))


async def create(client: httpx.AsyncClient, **body: str) -> httpx.Response:
    return await client.post(f"{EXT_PATH}/agents", json=body)


async def test_an_agent_is_enrolled_with_its_own_key(master: httpx.AsyncClient) -> None:
    made = await create(master, name="k1", type="Kaktus", public_key=_PUBLIC)
    assert made.status_code == 201
    agent = made.json()
    assert (agent["name"], agent["type"], agent["credential"]) == ("k1", "Kaktus", "ed25519")
    assert agent["sessions"] == []
    assert (await master.get(f"{EXT_PATH}/agents/{agent['id']}")).json() == agent
    assert (await master.get(f"{EXT_PATH}/agents")).json() == [agent]


async def test_enrolling_the_same_agent_again_is_harmless(master: httpx.AsyncClient) -> None:
    first = (await create(master, name="k1", type="Kaktus", public_key=_PUBLIC)).json()
    again = (await create(master, name="k1", type="Kaktus", public_key=_PUBLIC)).json()
    assert again["id"] == first["id"]


async def test_an_enrolment_that_died_after_the_name_was_taken_can_be_finished(
    master: httpx.AsyncClient,
) -> None:
    half = (await create(master, name="k1", type="Kaktus")).json()
    assert half["credential"] == "none"
    whole = (await create(master, name="k1", type="Kaktus", public_key=_PUBLIC)).json()
    assert (whole["id"], whole["credential"]) == (half["id"], "ed25519")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "k1", "type": "Kiwi", "public_key": _PUBLIC},
        {"name": "k1", "type": "Kaktus", "public_key": _OTHER},
        {"name": "k1", "type": "Kaktus"},
        {"name": "k2", "type": "Kaktus", "public_key": _PUBLIC},
    ],
)
async def test_another_agent_cannot_take_a_name_or_a_key(
    master: httpx.AsyncClient, body: dict[str, str]
) -> None:
    await create(master, name="k1", type="Kaktus", public_key=_PUBLIC)
    assert (await create(master, **body)).status_code == 409


async def test_a_revoked_agent_does_not_come_back_by_enrolling_again(
    master: httpx.AsyncClient,
) -> None:
    agent = (await create(master, name="k1", type="Kaktus", public_key=_PUBLIC)).json()
    assert (await master.post(f"{EXT_PATH}/agents/{agent['id']}/revoke")).status_code == 204
    again = await create(master, name="k1", type="Kaktus", public_key=_PUBLIC)
    assert again.status_code == 409


async def test_the_key_of_an_agent_is_handed_over_once(
    master: httpx.AsyncClient, services: Services
) -> None:
    agent = (await create(master, name="k1", type="Kiwi")).json()
    path = f"{EXT_PATH}/agents/{agent['id']}"
    assert (await master.post(f"{path}/credential")).status_code == 409  # none was issued
    waiting = (await master.post(f"{path}/key")).json()
    assert (waiting["credential"], waiting["key_waits"]) == ("hmac", True)
    async with asyncio.TaskGroup() as group:
        tries = [group.create_task(master.post(f"{path}/credential")) for _ in range(5)]
    statuses = sorted(task.result().status_code for task in tries)
    assert statuses == [200, 409, 409, 409, 409]
    (winner,) = [task.result().json() for task in tries if task.result().status_code == 200]
    assert "CERTIFICATE" in winner["authorities"]
    identity = await services.agents.find(agent["id"])
    assert identity is not None
    assert identity.credential is CredentialKind.HMAC
    assert identity.verifier == crypto.derive_verifier(winner["key"])


async def test_an_unknown_agent_is_not_found(master: httpx.AsyncClient) -> None:
    for method, verb in (
        ("GET", ""),
        ("POST", "/key"),
        ("POST", "/credential"),
        ("POST", "/revoke"),
        ("GET", "/log"),
    ):
        answer = await master.request(method, f"{EXT_PATH}/agents/{'f' * 24}{verb}")
        assert answer.status_code == 404, verb


async def test_the_log_of_an_agent_that_is_not_connected_is_unavailable(
    master: httpx.AsyncClient,
) -> None:
    agent = (await create(master, name="k1", type="Kiwi")).json()
    answer = await master.get(f"{EXT_PATH}/agents/{agent['id']}/log")
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


async def test_settings_are_listed_set_and_unset_and_remember_who(
    master: httpx.AsyncClient,
) -> None:
    path = f"{EXT_PATH}/settings/smtp.port"
    assert (await master.get(path)).json()["is_set"] is False
    changed = (await master.put(path, json={"value": 2525})).json()
    assert (changed["value"], changed["updated_by"]) == (2525, "master")
    assert (await master.put(path, json={"value": "x"})).status_code == 422
    assert (await master.put(path, json={})).status_code == 422
    listed = (await master.get(f"{EXT_PATH}/settings")).json()
    assert [view["value"] for view in listed if view["name"] == "smtp.port"] == [2525]
    assert (await master.delete(path)).json()["is_set"] is False
    assert (await master.get(f"{EXT_PATH}/settings/nope")).status_code == 404


async def test_a_secret_setting_goes_in_and_never_comes_out(master: httpx.AsyncClient) -> None:
    path = f"{EXT_PATH}/settings/smtp.password"
    for value in ("correct horse", 17):
        answers = [
            await master.put(path, json={"value": value}),
            await master.get(path),
            await master.get(f"{EXT_PATH}/settings"),
        ]
        assert not any(str(value) in answer.text for answer in answers if value != 17)
    assert (await master.get(path)).json()["value"] == "set"


async def test_alarms_are_listed_and_cleared(master: httpx.AsyncClient, services: Services) -> None:
    await services.alarms.raise_alarm("agent_cloned", "agent/a1", "two of them")
    (alarm,) = (await master.get(f"{EXT_PATH}/alarms")).json()
    assert msgspec.convert(alarm, Alarm).detail == "two of them"
    query = {"kind": "agent_cloned", "target": "agent/a1"}
    assert (await master.delete(f"{EXT_PATH}/alarms", params=query)).status_code == 204
    assert (await master.delete(f"{EXT_PATH}/alarms", params=query)).status_code == 404
    assert (await master.delete(f"{EXT_PATH}/alarms")).status_code == 400


async def test_a_rotated_master_key_ends_the_old_one_at_once(master: httpx.AsyncClient) -> None:
    new = (await master.post(f"{EXT_PATH}/master-key/rotate")).json()["key"]
    assert (await master.get(f"{EXT_PATH}/agents")).status_code == 401
    master.headers["x-api-key"] = new
    assert (await master.get(f"{EXT_PATH}/master-key")).json() == {"state": "enabled"}
    assert (await master.post(f"{EXT_PATH}/master-key/disable")).status_code == 204
    assert (await master.get(f"{EXT_PATH}/agents")).status_code == 401


@pytest.mark.usefixtures("engine")
async def test_a_request_answers_when_its_operation_is_done(master: httpx.AsyncClient) -> None:
    answer = await master.post(f"{EXT_PATH}/secrets/rotate-data-key")
    assert (answer.status_code, answer.json()["state"]) == (200, "done")
    operation = (await master.get(f"{EXT_PATH}/operations/{answer.json()['operation']}")).json()
    assert operation["steps"] == ["activate", "reseal", "retire"]
    assert operation["principal"] == "master"


@pytest.mark.usefixtures("engine")
async def test_who_prefers_not_to_wait_gets_the_operation_to_look_at(
    master: httpx.AsyncClient,
) -> None:
    answer = await master.post(
        f"{EXT_PATH}/secrets/rotate-data-key", headers={"prefer": "wait=5, respond-async"}
    )
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    operation = (await master.get(answer.headers["location"])).json()
    assert operation["id"] == answer.json()["operation"]
    await master.get(f"{answer.headers['location']}/watch")
    (listed,) = (await master.get(f"{EXT_PATH}/operations")).json()
    assert listed["state"] == "done"
    assert (await master.get(f"{EXT_PATH}/operations?unfinished=true")).json() == []
    assert (await master.post(f"{answer.headers['location']}/abandon")).status_code == 409


@pytest.mark.usefixtures("engine")
async def test_an_operation_is_watched_to_its_end(master: httpx.AsyncClient) -> None:
    answer = await master.post(
        f"{EXT_PATH}/secrets/rotate-data-key", headers={"prefer": "respond-async"}
    )
    watched = await master.get(f"{answer.headers['location']}/watch")
    states = [json.loads(line)["state"] for line in watched.text.splitlines()]
    assert states[-1] == "done"
    assert watched.headers["content-type"].startswith("application/x-ndjson")
    assert (await master.get(f"{EXT_PATH}/operations/{'f' * 24}/watch")).status_code == 404


class _BusyEngine:
    """An engine whose operations never end."""

    async def wait(self, operation_id: str, timeout_s: float) -> Operation:
        del operation_id, timeout_s
        return await asyncio.Event().wait()  # type: ignore[return-value] # it never returns


async def test_a_stopping_server_answers_those_who_wait(services: Services) -> None:
    busy = dataclasses.replace(services, engine=_BusyEngine())  # type: ignore[arg-type] # it only waits
    busy.stopping.set()
    with pytest.raises(DeadlineExceeded, match=r"operation abc .* goes on"):
        await finish(busy, "abc", 60)


async def test_an_endless_answer_ends_when_the_server_stops() -> None:
    closed = asyncio.Event()

    async def ticks() -> AsyncGenerator[bytes]:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            closed.set()

    stopping = asyncio.Event()
    stream = UntilStopped(ticks(), stopping)
    assert await anext(stream) == b"one"
    stopping.set()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert closed.is_set()


@pytest.mark.usefixtures("engine")
async def test_a_recovery_export_is_sealed_and_wants_a_long_passphrase(
    master: httpx.AsyncClient,
) -> None:
    path = f"{EXT_PATH}/recovery/export"
    assert (await master.post(path, json={"passphrase": "short"})).status_code == 422
    answer = await master.post(path, json={"passphrase": "correct horse battery staple"})
    assert answer.status_code == 200
    assert json.loads(answer.content)["purpose"].startswith("kowabunga recovery export")


async def test_the_database_is_verified_from_within(master: httpx.AsyncClient) -> None:
    assert (await master.post(f"{EXT_PATH}/state/verify")).json() == {"findings": []}


async def test_the_document_names_every_route_once_and_hides_what_is_ours(
    master: httpx.AsyncClient, services: Services
) -> None:
    document = (await master.get(f"{EXT_PATH}/openapi.json")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    served = [
        route
        for route in create_app(services).routes
        if route.path.startswith(EXT_PATH)
        and isinstance(route, HTTPRoute)  # the format has no sockets
        and not route.path.endswith("openapi.json")
    ]
    assert len(ids) == len(set(ids))
    assert len(document["paths"]) == len(served)
    assert "services" not in json.dumps(document)
    assert document["components"]["schemas"]["NewAgent"]["additionalProperties"] is False
