"""Tokens of consoles: for what runs, good once, for a minute, and known by their hash alone."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.core.errors import DriverError, NotFound, Unavailable
from appliance.core.ids import new_id
from appliance.model.compute import ConsoleKind
from appliance.model.principal import MASTER
from appliance.resources.instance import INSTANCES, Instance
from appliance.resources.instance_work import PowerAction
from appliance.resources.kompute import KOMPUTES
from appliance.services.catalog import AnyView
from appliance.services.consoles import TOKEN_S, Admission, Consoles, Grant
from appliance.store.base import Statement
from tests.support.clock import ManualClock
from tests.support.cloud import ASKED, GIB, Cloud, open_cloud
from tests.support.faults import What, Where, breaks

YEAR_S = 366 * 86_400


class Setting:
    """A cloud with a running instance, and its consoles by a clock of our own."""

    def __init__(self, cloud: Cloud, instance: str, clock: ManualClock) -> None:
        self.cloud = cloud
        self.instance = instance
        self.clock = clock

    def kahuna(self) -> Consoles:
        """Return the service, as any of several Kahunas has it."""
        machines = self.cloud.compute.machines
        return Consoles(self.cloud.store, machines, self.cloud.nodes, self.clock)

    async def grant(self, kind: ConsoleKind = ConsoleKind.SERIAL) -> Grant:
        return await self.kahuna().grant(INSTANCES, self.instance, kind, MASTER)

    async def act(self, action: PowerAction) -> None:
        machines = self.cloud.compute.machines
        await (await machines.act(ASKED, INSTANCES, self.instance, action)).outcome()

    async def count(self) -> int:
        (row,) = await self.cloud.store.query(Statement("SELECT count(*) AS n FROM console_token"))
        return int(row["n"] or 0)


@pytest_asyncio.fixture
async def setting(tmp_path: Path) -> AsyncGenerator[Setting]:
    async with open_cloud(tmp_path) as cloud:
        begun = await cloud.compute.instances.create(
            ASKED,
            cloud.project,
            cloud.zone,
            Instance(name="web", memory=GIB, vcpus=1, volumes=[await cloud.add_volume("os")]),
        )
        yield Setting(cloud, str((await begun.outcome()).id), ManualClock())


@pytest.mark.parametrize("kind", list(ConsoleKind))
async def test_a_token_opens_what_it_was_granted_for_once(
    setting: Setting, kind: ConsoleKind
) -> None:
    token = (await setting.grant(kind)).token.reveal_text()
    assert await setting.kahuna().redeem(token) == Admission(setting.instance, kind, "master")
    assert await setting.kahuna().redeem(token) is None
    assert await setting.count() == 0


async def test_of_many_who_try_at_once_exactly_one_wins(setting: Setting) -> None:
    for _ in range(20):
        token = (await setting.grant()).token.reveal_text()
        tries = [setting.kahuna().redeem(token) for _ in range(8)]
        admitted = [admission for admission in await asyncio.gather(*tries) if admission]
        assert len(admitted) == 1


async def test_a_token_is_good_for_a_minute(setting: Setting) -> None:
    last, late = await setting.grant(), await setting.grant()
    assert last.expires_at_ms == setting.clock.now_ms() + TOKEN_S * 1000
    await setting.clock.advance(TOKEN_S - 0.001)
    assert await setting.kahuna().redeem(last.token.reveal_text()) is not None
    await setting.clock.advance(0.001)
    assert await setting.kahuna().redeem(late.token.reveal_text()) is None


async def test_what_has_expired_is_removed_when_the_next_is_granted(setting: Setting) -> None:
    for _ in range(3):
        await setting.grant()
    assert await setting.count() == 3
    await setting.clock.advance(TOKEN_S)
    await setting.grant()
    assert await setting.count() == 1


@breaks(
    What.CLOCK,
    "the clock is set while a one-time token of a console is good",
    expected="the token is good for two minutes at most, and asking for another is all it takes",
    where=Where.SIMULATED,
)
@pytest.mark.parametrize("jump_s", [YEAR_S, -3600, -YEAR_S])
async def test_a_token_outlives_no_clock_that_is_set(setting: Setting, jump_s: int) -> None:
    old = await setting.grant()
    setting.clock.set_wall_clock(setting.clock.now_ms() + jump_s * 1000)
    assert await setting.kahuna().redeem(old.token.reveal_text()) is None
    new = await setting.grant()
    assert await setting.count() == 1  # of the old one nothing is left for a better day
    assert await setting.kahuna().redeem(new.token.reveal_text()) is not None


async def test_a_token_of_a_kahuna_whose_clock_is_a_little_ahead_is_honoured(
    setting: Setting,
) -> None:
    token = (await setting.grant()).token.reveal_text()
    setting.clock.set_wall_clock(setting.clock.now_ms() - TOKEN_S * 1000)
    assert await setting.kahuna().redeem(token) is not None


@pytest.mark.parametrize("token", ["", "x", "kwb_" + "a" * 43, "é" * 50, "%00", "a" * 10_000])
async def test_anything_else_opens_nothing(setting: Setting, token: str) -> None:
    await setting.grant()
    assert await setting.kahuna().redeem(token) is None
    assert await setting.count() == 1


async def test_the_token_itself_is_stored_nowhere(setting: Setting, tmp_path: Path) -> None:
    grant = await setting.grant()
    secret = grant.token.reveal()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if secret in path.read_bytes()]
    assert secret.decode() not in repr(grant)


async def test_what_does_not_run_has_no_console(setting: Setting) -> None:
    await setting.act(PowerAction.SUSPEND)
    await setting.grant()  # it is held, and still there
    await setting.act(PowerAction.STOP)
    with pytest.raises(NotFound, match="does not run"):
        await setting.grant()


async def test_what_its_host_does_not_know_has_no_console(setting: Setting) -> None:
    for agent in setting.cloud.agents:
        await setting.cloud.nodes[agent].node.compute.ensure_domain_absent(setting.instance)
    with pytest.raises(NotFound, match="does not run"):
        await setting.grant()


@pytest.mark.parametrize("view", [INSTANCES, KOMPUTES])
async def test_what_does_not_exist_has_no_console(setting: Setting, view: AnyView) -> None:
    for object_id in (new_id(), "x", ""):
        with pytest.raises(NotFound, match="does not exist"):
            await setting.kahuna().grant(view, object_id, ConsoleKind.VNC, MASTER)


async def test_an_agent_that_is_away_is_told(setting: Setting) -> None:
    for agent in setting.cloud.agents:
        setting.cloud.nodes[agent].connected = False
    with pytest.raises(Unavailable, match="is connected"):
        await setting.grant()
    with pytest.raises(Unavailable, match="is connected"):
        await setting.kahuna().agent_of(setting.instance)


async def test_a_host_that_fails_is_told(setting: Setting) -> None:
    for agent in setting.cloud.agents:
        setting.cloud.nodes[agent].node.faults.fail(method="compute.get_domain")
    with pytest.raises(DriverError):
        await setting.grant()
    assert await setting.count() == 0


async def test_tokens_go_with_their_instance(setting: Setting) -> None:
    token = (await setting.grant()).token.reveal_text()
    deleted = await setting.cloud.compute.instances.delete(ASKED, setting.instance)
    await deleted.outcome()
    assert await setting.count() == 0
    assert await setting.kahuna().redeem(token) is None
