"""Log-ins: who gets in, what ends it, and that trying is dear."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

import jwt
import pytest
import pytest_asyncio

from appliance.core.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from appliance.core.ids import new_id
from appliance.core.secret import Secret
from appliance.model.principal import Principal, PrincipalKind
from appliance.resources.user import USERS, User, UserRole
from appliance.services.attempts import Attempts
from appliance.services.invariants import verify_rows
from appliance.services.passwords import Passwords, check_password, estimate_bits
from appliance.services.sessions import Sessions
from appliance.services.settings import Settings
from appliance.services.users import Users
from tests.support.clock import ManualClock
from tests.support.small_cloud import Cloud, made

PASSWORD = "correct-Horse7battery_staple"
EMAIL = "John.Doe@example.org"
DAY_S = 86_400


class Door:
    """A user with a password, and the way in."""

    def __init__(self, cloud: Cloud, clock: ManualClock, passwords: Passwords) -> None:
        settings = Settings(cloud.store, cloud.secrets, clock)
        self.cloud = cloud
        self.clock = clock
        self.sessions = Sessions(cloud.store, cloud.secrets, settings, passwords, clock)
        self.users = Users(cloud.store, cloud.catalog, cloud.secrets, passwords, clock)
        self.user_id = ""

    async def furnish(self) -> None:
        john = User(name="John Doe", email=EMAIL, role=UserRole.PROJECT_ADMIN)
        self.user_id = made((await self.cloud.catalog.create(USERS, john)).id)
        await self.users.set_password(self.user_id, PASSWORD)

    async def log_in(self, email: str = EMAIL, password: str = PASSWORD, by: str = "::1") -> str:
        return await self.sessions.log_in(email, Secret(password), by)

    @property
    def principal(self) -> Principal:
        return Principal(PrincipalKind.USER, self.user_id)


@pytest_asyncio.fixture
async def door(cloud: Cloud, clock: ManualClock) -> AsyncGenerator[Door]:
    passwords = Passwords()
    door = Door(cloud, clock, passwords)
    await door.furnish()
    yield door
    passwords.close()


def pass_wall(door: Door, seconds: int) -> None:
    door.clock.set_wall_clock(door.clock.now_ms() + seconds * 1000)


def claims_of(token: str) -> dict[str, Any]:
    """Read a token as a browser does, without the key."""
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return claims


async def test_a_log_in_gives_a_token_that_tells_what_its_clients_read(door: Door) -> None:
    token = await door.log_in()
    claims = claims_of(token)
    assert (claims["uid"], claims["role"], claims["email"]) == (
        door.user_id,
        "projectAdmin",
        EMAIL,
    )
    assert claims["exp"] == door.clock.now_ms() // 1000 + 12 * 3600
    assert await door.sessions.authenticate(token) == door.principal


async def test_the_case_of_a_mail_address_does_not_matter(door: Door) -> None:
    assert await door.sessions.authenticate(await door.log_in(EMAIL.upper())) == door.principal


@pytest.mark.parametrize(
    ("email", "password"),
    [(EMAIL, PASSWORD[:-1]), ("nobody@example.org", PASSWORD), (EMAIL, ""), ("robot@x.org", "")],
    ids=["wrong", "unknown", "empty", "none"],
)
async def test_every_failure_is_told_alike(door: Door, email: str, password: str) -> None:
    robot = User(name="robot", email="robot@x.org", role=UserRole.USER)
    await door.cloud.catalog.create(USERS, robot)
    with pytest.raises(Unauthenticated, match=r"^the mail address or the password is wrong$"):
        await door.log_in(email, password)


async def test_a_session_ends_with_its_time(door: Door) -> None:
    token = await door.log_in()
    pass_wall(door, 12 * 3600 - 1)
    assert await door.sessions.authenticate(token) == door.principal
    pass_wall(door, 1)
    assert await door.sessions.authenticate(token) is None


async def test_a_session_begun_under_a_clock_ahead_is_not_in_force_for_years(door: Door) -> None:
    pass_wall(door, 400 * DAY_S)
    token = await door.log_in()
    pass_wall(door, -400 * DAY_S)
    assert await door.sessions.authenticate(token) is None
    assert await door.sessions.authenticate(await door.log_in()) == door.principal
    assert len(await door.cloud.ask("SELECT id FROM user_session")) == 1


async def test_sessions_that_are_past_or_too_many_are_cleared_away(door: Door) -> None:
    first = await door.log_in()
    for _ in range(64):
        await door.log_in()
    assert await door.sessions.authenticate(first) is None
    pass_wall(door, DAY_S)
    await door.log_in()
    assert len(await door.cloud.ask("SELECT id FROM user_session")) == 1


def forged(token: str, key: bytes, algorithm: str) -> str:
    return jwt.encode(claims_of(token), key, algorithm)


async def test_a_token_that_we_did_not_sign_is_nobodys(door: Door) -> None:
    token = await door.log_in()
    header, payload, signature = token.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    for bad in (
        forged(token, b"k" * 32, "HS256"),
        f"{none}.{payload}.",
        f"{header}.{payload}.{signature[::-1]}",
        f"{header}.{payload}",
        "x" * 5000,
        "",
        "..",
        "ключ",
    ):
        assert await door.sessions.authenticate(bad) is None


async def test_another_algorithm_with_our_key_is_refused(door: Door) -> None:
    token = await door.log_in()
    key = await door.cloud.secrets.find("cluster", "session_key")
    assert key is not None
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        other = forged(token, key.reveal(), "HS512")
    assert await door.sessions.authenticate(other) is None


async def test_the_session_of_a_token_is_that_of_its_user(door: Door) -> None:
    """A session's row is never good for another user, whatever was signed."""
    token = await door.log_in()
    await door.cloud.tell("UPDATE user_session SET user_id = ?", await another(door))
    assert await door.sessions.authenticate(token) is None


async def another(door: Door) -> str:
    jane = User(name="Jane", email="jane@example.org", role=UserRole.USER)
    return made((await door.cloud.catalog.create(USERS, jane)).id)


async def test_all_kahunas_sign_with_one_key(door: Door, cloud: Cloud) -> None:
    passwords = Passwords()
    neighbour = Door(cloud, door.clock, passwords)
    token = await door.log_in()
    assert await neighbour.sessions.authenticate(token) == door.principal
    passwords.close()


async def test_guessing_at_an_account_is_braked_whoever_guesses(door: Door) -> None:
    for attempt in range(10):
        with pytest.raises(Unauthenticated):
            await door.log_in(password="guess", by=f"192.0.2.{attempt}")
    with pytest.raises(Forbidden, match="too many"):
        await door.log_in(by="198.51.100.1")
    await door.clock.advance(60)
    await door.log_in(by="198.51.100.1")


async def test_guessing_from_an_address_is_braked_whatever_the_account() -> None:
    clock = ManualClock()
    attempts = Attempts(clock, burst=3, refill_s=10)
    for _ in range(3):
        attempts.admit("a")
    with pytest.raises(Forbidden, match="try again in 10 s"):
        attempts.admit("a")
    attempts.admit("b")
    await clock.advance(25)
    attempts.admit("a")
    attempts.admit("a")
    with pytest.raises(Forbidden):
        attempts.admit("a")


async def test_who_is_right_is_not_braked(door: Door) -> None:
    for _ in range(30):
        await door.log_in()


async def test_a_storm_of_log_ins_is_refused_rather_than_kept() -> None:
    passwords = Passwords()
    outcomes: list[object] = []

    async def ask() -> None:
        try:
            outcomes.append(await passwords.is_right(Secret("x"), None))
        except Unavailable as refused:
            outcomes.append(refused)

    async with asyncio.TaskGroup() as group:
        for _ in range(80):
            group.create_task(ask())
    assert outcomes.count(False) == 64
    assert sum(isinstance(each, Unavailable) for each in outcomes) == 16
    passwords.close()


async def test_an_unknown_account_costs_as_much_as_a_wrong_password() -> None:
    """The comparison is made either way; what it costs is the hash, not a lookup."""
    passwords = Passwords()
    assert not await passwords.is_right(Secret(PASSWORD), None)
    stored = await passwords.hash(Secret(PASSWORD))
    assert await passwords.is_right(Secret(PASSWORD), stored)
    assert not await passwords.is_right(Secret(PASSWORD + " "), stored)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    passwords.close()


@pytest.mark.parametrize(
    "password",
    ["", "password", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abcdefghijklmnopqrstuvwxyz0123456789",
     "abababababababababababababab", "Tr0ub4dor&", "x" * 256, "correct horse\nbattery staple 7"],
)  # fmt: skip
def test_a_password_that_is_easy_to_guess_is_refused_and_not_shown(password: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_password(password)
    assert not password or password not in str(refused.value)


@pytest.mark.parametrize("password", [PASSWORD, "vKx2mQ9rTb4wLz7p", "пароль-из-слов-91"])
def test_a_password_of_seventy_bits_is_taken(password: str) -> None:
    assert estimate_bits(password) >= 70
    check_password(password)


async def test_the_password_of_somebody_who_is_gone_cannot_be_set(door: Door) -> None:
    with pytest.raises(NotFound):
        await door.users.set_password(new_id(), PASSWORD)


async def test_a_key_is_handed_over_once_and_only_its_hash_is_kept(
    door: Door, cloud: Cloud
) -> None:
    await door.users.issue_key(door.user_id)
    assert await verify_rows(cloud.store) == []
    key = (await door.users.collect_key(door.user_id)).reveal_text()
    with pytest.raises(Conflict):
        await door.users.collect_key(door.user_id)
    await door.users.issue_key(door.user_id)
    await cloud.catalog.delete(USERS, door.user_id)
    assert await verify_rows(cloud.store) == []
    rows = await cloud.rows()
    assert key not in str(rows)
    assert PASSWORD not in str(rows)
