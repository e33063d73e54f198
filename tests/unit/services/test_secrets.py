import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.core import crypto
from appliance.core.errors import Conflict, Corrupt, NotFound, Stale
from appliance.core.secret import Secret
from appliance.model.agent import AgentType
from appliance.services.secrets import CLUSTER, Sealer, Secrets, forget, forget_all
from appliance.store.base import Statement
from tests.unit.services.house import House, build_house

OWNER = "agent/" + "a" * 24
OTHER = "agent/" + "b" * 24
_ALWAYS = Statement("SELECT 1")
_NEVER = Statement("SELECT 0")


async def test_a_secret_is_found_again_replaced_and_forgotten(house: House) -> None:
    assert await house.secrets.find(OWNER, "key") is None
    await house.secrets.put(OWNER, "key", Secret("first"))
    await house.secrets.put(OWNER, "key", Secret("second"))
    await house.secrets.put(OTHER, "key", Secret("other"))
    assert await house.secrets.find(OWNER, "key") == Secret("second")
    await house.store.batch([forget(OTHER, "key"), forget_all(OWNER)])
    assert await house.secrets.find(OWNER, "key") is None
    assert await house.secrets.find(OTHER, "key") is None


class _ReplacedMeanwhile:
    """Puts another secret in the place of one that is about to be taken."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.close = house.store.close
        self.query = house.store.query

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        if await self._house.secrets.find(OWNER, "key") == Secret("old"):
            await self._house.secrets.put(OWNER, "key", Secret("new"))
        return await self._house.store.batch(statements)


async def test_a_secret_that_was_replaced_while_it_was_taken_is_not_lost(house: House) -> None:
    await house.secrets.put(OWNER, "key", Secret("old"))
    secrets = Secrets(_ReplacedMeanwhile(house), house.keyring)
    assert await secrets.take(OWNER, "key") == Secret("new")
    assert await secrets.take(OWNER, "key") is None


async def test_the_database_alone_reveals_no_secret(house: House) -> None:
    """Everything this package stores sealed, searched in the bytes of the file and its log."""
    plaintext = "plaintext-of-a-secret-4711"
    await house.secrets.put(OWNER, "key", Secret(plaintext))
    await house.authority.ensure()
    [authority] = await house.store.query(Statement("SELECT id FROM certificate_authority"))
    ca_key = await house.secrets.find(f"certificate_authority/{authority['id']}", "key")
    agent = await house.agents.register("node", AgentType.KAKTUS)
    await house.agents.issue_key(agent.id)
    agent_key = await house.secrets.find(f"agent/{agent.id}", "key")
    verifier = await house.secrets.find(f"agent/{agent.id}", "verifier")
    active = await house.keyring.active()
    assert ca_key is not None
    assert agent_key is not None
    assert verifier is not None
    hidden = [
        plaintext.encode(),
        agent_key.reveal(),
        ca_key.reveal().splitlines()[1],
        *_forms(verifier.reveal()),
        *_forms(active.key.reveal()),
        *_forms(house.node.signing_key.reveal()),
        *_forms(house.node.sealing_key.reveal()),
    ]
    files = [path for path in house.directory.iterdir() if path.name.startswith("state.db")]
    stored = b"".join(path.read_bytes() for path in files)
    assert active.id.encode() in stored  # the search sees what is there
    assert any(path.name.endswith("-wal") for path in files)
    for secret in hidden:
        assert secret not in stored


async def test_a_changed_row_is_refused(house: House) -> None:
    await house.secrets.put(OWNER, "key", Secret("value"))
    [row] = await house.store.query(Statement("SELECT sealed FROM secret"))
    sealed = bytearray(crypto.from_base64(str(row["sealed"])))
    sealed[-1] ^= 1
    for planted in (crypto.to_base64(bytes(sealed)), "", "not base64!"):
        await house.store.batch([Statement("UPDATE secret SET sealed = ?", (planted,))])
        with pytest.raises(Corrupt, match="changed or moved"):
            await house.secrets.find(OWNER, "key")


@pytest.mark.parametrize(("owner", "name"), [(OTHER, "key"), (OWNER, "name"), (CLUSTER, "key")])
async def test_a_row_moved_over_another_is_refused(house: House, owner: str, name: str) -> None:
    await house.secrets.put(OWNER, "key", Secret("mine"))
    await house.secrets.put(owner, name, Secret("theirs"))
    await house.store.batch(
        [
            Statement(
                "UPDATE secret SET sealed ="
                " (SELECT sealed FROM secret WHERE owner = ? AND name = ?)"
                " WHERE owner = ? AND name = ?",
                (OWNER, "key", owner, name),
            )
        ]
    )
    with pytest.raises(Corrupt, match="changed or moved"):
        await house.secrets.find(owner, name)
    assert await house.secrets.find(OWNER, "key") == Secret("mine")


async def test_of_many_takers_exactly_one_gets_a_secret(house: House) -> None:
    await house.secrets.put(OWNER, "key", Secret("value"))
    async with asyncio.TaskGroup() as group:
        takers = [group.create_task(house.secrets.take(OWNER, "key")) for _ in range(8)]
    taken = [taker.result() for taker in takers if taker.result() is not None]
    assert taken == [Secret("value")]
    assert await house.secrets.find(OWNER, "key") is None


async def test_of_many_makers_all_get_the_secret_of_one(house: House) -> None:
    fresh = [Secret(f"secret {number}") for number in range(20)]
    made = await asyncio.gather(
        *(house.secrets.ensure(OWNER, "key", each, while_=_ALWAYS) for each in fresh)
    )
    kept = await house.secrets.find(OWNER, "key")
    assert kept in fresh
    assert all(each == kept for each in made)


async def test_no_secret_is_made_for_an_owner_that_is_gone(house: House) -> None:
    with pytest.raises(Stale):
        await house.secrets.ensure(OWNER, "key", Secret("x"), while_=_NEVER)
    assert await house.secrets.find(OWNER, "key") is None


async def test_a_batch_that_breaks_a_rule_stores_no_secret(house: House) -> None:
    broken = Statement("INSERT INTO setting (name, value) VALUES ('x', 'not json')")
    with pytest.raises(Conflict):
        await house.secrets.batch(lambda sealer: [sealer.put(OWNER, "key", Secret("v")), broken])
    assert await house.secrets.find(OWNER, "key") is None


async def test_a_foreign_key_of_the_callers_own_is_reported_not_retried(house: House) -> None:
    builds = 0

    def build(_: Sealer) -> list[Statement]:
        nonlocal builds
        builds += 1
        return [
            Statement(
                "INSERT INTO data_key_wrap (data_key_id, node_id, wrapped) VALUES ('x', 'y', 'z')"
            )
        ]

    with pytest.raises(Conflict) as raised:
        await house.secrets.batch(build)
    assert raised.value.context["constraint"] == "foreign_key"
    assert builds == 1


async def test_a_secret_whose_key_is_out_of_reach_is_an_error_not_an_absence(
    house: House, tmp_path: Path
) -> None:
    await house.secrets.put(OWNER, "key", Secret("value"))
    stranger = build_house(house.store, tmp_path / "stranger", house.clock)
    with pytest.raises(NotFound, match="cannot get data key"):
        await stranger.secrets.find(OWNER, "key")


def _forms(secret: bytes) -> list[bytes]:
    return [secret, secret.hex().encode(), crypto.to_base64(secret).encode()]
