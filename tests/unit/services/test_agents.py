import asyncio
from collections.abc import Awaitable

import pytest
import structlog

from appliance.core import crypto
from appliance.core.errors import Conflict, Corrupt, Invalid, KowabungaError, NotFound
from appliance.core.secret import Secret
from appliance.model.agent import AgentType, CredentialKind
from appliance.resources.agent import delete_agent
from appliance.rpc.directory import AgentDirectory
from appliance.services.agents import Agents
from appliance.store.base import Statement
from tests.unit.services.house import House

UNKNOWN = "f" * 24
PUBLIC_KEY = crypto.signing_public_key(crypto.generate_signing_key())


@pytest.fixture
def agents(house: House) -> Agents:
    return house.agents


async def register(agents: Agents, name: str = "node-1") -> str:
    return (await agents.register(name, AgentType.KAKTUS)).id


async def _delete(house: House, agent_id: str) -> None:
    await house.store.batch(delete_agent(agent_id))


async def serial(agents: Agents, agent_id: str) -> int:
    return (await agents.serials())[agent_id]


def test_it_is_the_directory_that_the_hub_asks(agents: Agents) -> None:
    assert _directory(agents) is agents


async def test_a_registered_agent_has_no_credential_yet(agents: Agents) -> None:
    agent = await agents.register("node-1", AgentType.KIWI, "a router")
    assert agent == await agents.get(agent.id)
    assert [agent] == await agents.list()
    assert (agent.name, agent.type, agent.description) == ("node-1", AgentType.KIWI, "a router")
    assert agent.credential is CredentialKind.NONE
    assert not agent.key_waits
    identity = await agents.find(agent.id)
    assert identity is not None
    assert (identity.verifier, identity.public_key, identity.serial) == (None, None, 0)


async def test_a_taken_name_names_the_agent_that_has_it(agents: Agents) -> None:
    first = await register(agents)
    with pytest.raises(Conflict, match=first) as raised:
        await register(agents)
    assert raised.value.context["id"] == first


async def test_of_two_that_register_a_name_at_once_one_wins(agents: Agents) -> None:
    async with asyncio.TaskGroup() as group:
        tries = [group.create_task(_outcome(register(agents))) for _ in range(5)]
    results = [each.result() for each in tries]
    assert sum(isinstance(result, str) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 4


@pytest.mark.parametrize("name", ["", "x" * 256])
async def test_a_name_has_a_length(agents: Agents, name: str) -> None:
    with pytest.raises(Invalid) as raised:
        await register(agents, name)
    assert raised.value.context["field"] == "name"


async def test_an_issued_key_is_collected_once_and_proves_the_agent(agents: Agents) -> None:
    agent_id = await register(agents)
    await agents.issue_key(agent_id, expires_at_ms=5)
    assert (await agents.get(agent_id)).key_waits
    key = await agents.collect_key(agent_id)
    identity = await agents.find(agent_id)
    assert identity is not None
    assert identity.credential is CredentialKind.HMAC
    assert identity.verifier == crypto.derive_verifier(key.reveal_text())
    assert (identity.serial, identity.expires_at_ms) == (1, 5)
    assert not (await agents.get(agent_id)).key_waits
    with pytest.raises(Conflict, match="handed over already") as raised:
        await agents.collect_key(agent_id)
    assert "issue a new key" in str(raised.value.hint)


async def test_of_many_collectors_exactly_one_gets_the_key(agents: Agents) -> None:
    agent_id = await register(agents)
    await agents.issue_key(agent_id)
    async with asyncio.TaskGroup() as group:
        tries = [group.create_task(_outcome(agents.collect_key(agent_id))) for _ in range(8)]
    results = [each.result() for each in tries]
    assert sum(isinstance(result, Secret) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 7


async def test_after_the_hand_over_the_key_is_stored_nowhere(house: House) -> None:
    agent_id = await register(house.agents)
    await house.agents.issue_key(agent_id)
    await house.agents.collect_key(agent_id)
    rows = await house.store.query(Statement("SELECT owner, name FROM secret"))
    assert rows == [{"owner": f"agent/{agent_id}", "name": "verifier"}]


async def test_a_new_key_ends_the_old_one(agents: Agents) -> None:
    agent_id = await register(agents)
    await agents.issue_key(agent_id)
    old = await agents.collect_key(agent_id)
    await agents.issue_key(agent_id)
    new = await agents.collect_key(agent_id)
    identity = await agents.find(agent_id)
    assert identity is not None
    assert identity.serial == 2
    assert identity.verifier == crypto.derive_verifier(new.reveal_text())
    assert identity.verifier != crypto.derive_verifier(old.reveal_text())


async def test_keys_issued_at_once_leave_a_key_that_fits_its_verifier(agents: Agents) -> None:
    agent_id = await register(agents)
    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(agents.issue_key(agent_id))
    key = await agents.collect_key(agent_id)
    identity = await agents.find(agent_id)
    assert identity is not None
    assert identity.serial == 6
    assert identity.verifier == crypto.derive_verifier(key.reveal_text())


async def test_an_enrolled_node_is_known_by_its_public_key(agents: Agents) -> None:
    agent_id = await register(agents)
    await agents.enrol(agent_id, PUBLIC_KEY)
    identity = await agents.find(agent_id)
    assert identity is not None
    assert identity.credential is CredentialKind.ED25519
    assert (identity.public_key, identity.verifier, identity.serial) == (PUBLIC_KEY, None, 1)
    with pytest.raises(Conflict, match="no key"):
        await agents.collect_key(agent_id)


async def test_a_public_key_belongs_to_one_agent(agents: Agents) -> None:
    first, second = await register(agents, "first"), await register(agents, "second")
    await agents.enrol(first, PUBLIC_KEY)
    with pytest.raises(Conflict, match=first) as raised:
        await agents.enrol(second, PUBLIC_KEY)
    assert raised.value.context["id"] == first
    assert await serial(agents, second) == 0


@pytest.mark.parametrize("public_key", [b"", b"short", b"x" * 33])
async def test_what_is_no_public_key_is_refused(agents: Agents, public_key: bytes) -> None:
    agent_id = await register(agents)
    with pytest.raises(Invalid) as raised:
        await agents.enrol(agent_id, public_key)
    assert raised.value.context["field"] == "public_key"


async def test_each_kind_of_credential_takes_the_place_of_the_other(house: House) -> None:
    agents = house.agents
    agent_id = await register(agents)
    await agents.issue_key(agent_id)
    await agents.enrol(agent_id, PUBLIC_KEY)
    assert await house.store.query(Statement("SELECT name FROM secret")) == []
    await agents.issue_key(agent_id)
    identity = await agents.find(agent_id)
    assert identity is not None
    assert identity.credential is CredentialKind.HMAC
    assert identity.public_key is None
    assert identity.verifier is not None
    assert identity.serial == 3


async def test_revoking_ends_the_credential_and_its_secrets(house: House) -> None:
    agents = house.agents
    agent_id = await register(agents)
    await agents.issue_key(agent_id, expires_at_ms=5)
    await agents.revoke(agent_id)
    identity = await agents.find(agent_id)
    assert identity is not None
    assert identity.credential is CredentialKind.NONE
    assert (identity.verifier, identity.expires_at_ms, identity.serial) == (None, None, 2)
    assert await house.store.query(Statement("SELECT name FROM secret")) == []


async def test_deleting_takes_the_secrets_along(house: House) -> None:
    agents = house.agents
    agent_id, other = await register(agents), await register(agents, "other")
    for each in (agent_id, other):
        await agents.issue_key(each)
    await _delete(house, agent_id)
    assert await agents.find(agent_id) is None
    assert await agents.serials() == {other: 1}
    rows = await house.store.query(Statement("SELECT DISTINCT owner FROM secret"))
    assert rows == [{"owner": f"agent/{other}"}]


async def test_a_key_issued_while_the_agent_is_deleted_leaves_no_secret(house: House) -> None:
    agents = house.agents
    for number in range(10):
        agent_id = await register(agents, f"node-{number}")
        async with asyncio.TaskGroup() as group:
            for work in (agents.issue_key(agent_id), _delete(house, agent_id)):
                group.create_task(_outcome(work))
        assert await house.store.query(Statement("SELECT owner FROM secret")) == []


async def test_every_change_of_a_credential_raises_the_serial(agents: Agents) -> None:
    agent_id = await register(agents)
    seen = [await serial(agents, agent_id)]
    for change in (
        agents.issue_key(agent_id),
        agents.set_expiry(agent_id, 7),
        agents.enrol(agent_id, PUBLIC_KEY),
        agents.revoke(agent_id),
        agents.revoke(agent_id),
    ):
        await change
        seen.append(await serial(agents, agent_id))
    assert seen == sorted(set(seen))


async def test_an_unknown_agent_is_said_to_be_unknown(agents: Agents) -> None:
    for call in (
        agents.get(UNKNOWN),
        agents.issue_key(UNKNOWN),
        agents.collect_key(UNKNOWN),
        agents.enrol(UNKNOWN, PUBLIC_KEY),
        agents.set_expiry(UNKNOWN, None),
        agents.revoke(UNKNOWN),
    ):
        with pytest.raises(NotFound, match=UNKNOWN):
            await call
    assert await agents.find(UNKNOWN) is None
    assert await agents.find("' OR 1=1 --") is None


async def test_an_agent_may_speak_about_itself_only(agents: Agents) -> None:
    agent_id, other = await register(agents), await register(agents, "other")
    assert await agents.may_speak(agent_id, f"agent/{agent_id}")
    assert not await agents.may_speak(agent_id, f"agent/{other}")
    assert not await agents.may_speak(agent_id, "cluster")


async def test_the_verifier_of_one_agent_does_not_serve_another(house: House) -> None:
    agents = house.agents
    mine, victim = await register(agents, "mine"), await register(agents, "victim")
    await agents.issue_key(mine)
    await agents.issue_key(victim)
    await house.store.batch(
        [
            Statement(
                "UPDATE secret SET sealed = (SELECT sealed FROM secret WHERE owner = ? AND"
                " name = 'verifier') WHERE owner = ? AND name = 'verifier'",
                (f"agent/{mine}", f"agent/{victim}"),
            )
        ]
    )
    with pytest.raises(Corrupt):
        await agents.find(victim)
    await house.store.batch([Statement("DELETE FROM secret")])
    with pytest.raises(Corrupt, match="missing"):
        await agents.find(victim)


async def test_a_verifier_is_found_while_the_data_key_is_rotated(house: House) -> None:
    agents = house.agents
    agent_id = await register(agents)
    await agents.issue_key(agent_id)
    verifier = crypto.derive_verifier((await agents.collect_key(agent_id)).reveal_text())

    async def rotate() -> None:
        for _ in range(10):
            await house.rotation.activate((await house.keyring.active()).id)
            await house.rotation.reseal()
            await house.rotation.retire()

    async def find() -> None:
        for _ in range(100):
            identity = await agents.find(agent_id)
            assert identity is not None
            assert identity.verifier == verifier

    async with asyncio.TaskGroup() as group:
        group.create_task(rotate())
        group.create_task(find())


async def test_nothing_secret_is_shown_or_logged(house: House) -> None:
    agents = house.agents
    with structlog.testing.capture_logs() as logs:
        agent_id = await register(agents)
        await agents.issue_key(agent_id)
        identity = await agents.find(agent_id)
        key = await agents.collect_key(agent_id)
        error = await _outcome(agents.collect_key(agent_id))
        await _delete(house, agent_id)
    assert identity is not None
    assert identity.verifier is not None
    shown = f"{logs!r} {identity!r} {error!r} {error} {key!r} {await agents.list()!r}"
    for secret in (key.reveal_text(), repr(identity.verifier), identity.verifier.hex()):
        assert secret not in shown
    assert agent_id in shown


def _directory(agents: Agents) -> AgentDirectory:
    return agents  # the type checker compares


async def _outcome(work: Awaitable[object]) -> object:
    try:
        return await work
    except KowabungaError as error:
        return error
