import asyncio

import msgspec
import pytest
import structlog

from appliance.core.errors import Corrupt, Invalid, NotFound
from appliance.core.secret import Secret
from appliance.model import setting as table
from appliance.model.principal import MASTER, Principal
from appliance.model.setting import SETTINGS, SecretSetting, Setting
from appliance.store.base import Statement
from tests.support.clock import ManualClock
from tests.unit.services.house import House

PASSWORD = "hunter2-but-longer"
SSH_KEY = table.BOOTSTRAP_PUBLIC_KEY.example


async def test_what_is_not_set_has_its_default(house: House) -> None:
    assert await house.settings.get(table.SMTP_PORT) == 587
    assert await house.settings.get(table.PUBLIC_URL) is None
    assert await house.settings.get(table.KAHUNA_NAMES) == ()
    assert await house.settings.get_secret(table.SMTP_PASSWORD) is None


async def test_a_value_is_set_seen_and_unset(house: House, clock: ManualClock) -> None:
    by = Principal.parse("local/uid:0")
    shown = await house.settings.set("smtp.port", 25, by)
    assert await house.settings.get(table.SMTP_PORT) == 25
    assert shown == await house.settings.view("smtp.port")
    assert (shown.value, shown.is_set, shown.default) == (25, True, 587)
    assert (shown.updated_at_ms, shown.updated_by) == (clock.now_ms(), "local/uid:0")
    unset = await house.settings.unset("smtp.port")
    assert await house.settings.unset("smtp.port") == unset
    assert (unset.value, unset.is_set, unset.updated_by) == (587, False, None)
    assert await house.settings.get(table.SMTP_PORT) == 587


async def test_all_settings_are_listed_in_the_order_of_the_table(house: House) -> None:
    await house.settings.set("smtp.host", "smtp.example.org", MASTER)
    listed = await house.settings.list()
    assert [view.name for view in listed] == list(SETTINGS)
    assert [view.name for view in listed if view.is_set] == ["smtp.host"]
    assert msgspec.json.encode(listed)  # it can be answered as it is


async def test_a_secret_is_only_ever_set_or_not_set(house: House) -> None:
    with structlog.testing.capture_logs() as logs:
        assert (await house.settings.view("smtp.password")).value == "not set"
        shown = await house.settings.set("smtp.password", PASSWORD, MASTER)
        listed = await house.settings.list()
    assert (shown.value, shown.secret, shown.default) == ("set", True, "not set")
    assert PASSWORD not in f"{shown!r}{listed!r}{logs!r}"
    assert PASSWORD not in str(await house.store.query(Statement("SELECT * FROM setting")))
    assert await house.settings.get_secret(table.SMTP_PASSWORD) == Secret(PASSWORD)
    assert (await house.settings.unset("smtp.password")).value == "not set"
    assert await house.settings.get_secret(table.SMTP_PASSWORD) is None
    assert await house.store.query(Statement("SELECT name FROM secret")) == []


async def test_the_database_does_not_reveal_a_secret_setting(house: House) -> None:
    await house.settings.set("smtp.password", PASSWORD, MASTER)
    stored = b"".join(path.read_bytes() for path in house.directory.glob("state.db*"))
    assert b"smtp.password" in stored
    assert PASSWORD.encode() not in stored


async def test_an_error_says_field_rule_value_and_an_example(house: House) -> None:
    with pytest.raises(Invalid) as raised:
        await house.settings.set("smtp.port", "70000", MASTER)
    assert raised.value.context == {"field": "smtp.port"}
    assert raised.value.detail == "smtp.port must be a port from 1 to 65535, not '70000'"
    assert raised.value.hint == "for example: '587'"
    assert not (await house.settings.view("smtp.port")).is_set


async def test_an_error_about_a_secret_does_not_repeat_it(house: House) -> None:
    with pytest.raises(Invalid, match=r"smtp\.password") as raised:
        await house.settings.set("smtp.password", f"{PASSWORD}\nsecond line", MASTER)
    assert PASSWORD not in f"{raised.value!r}{raised.value}{raised.value.context}"
    assert raised.value.__suppress_context__


async def test_an_unknown_name_is_refused(house: House) -> None:
    for call in (
        house.settings.set("smtp.prot", 1, MASTER),
        house.settings.unset("smtp.prot"),
        house.settings.view("smtp.prot"),
    ):
        with pytest.raises(NotFound, match=r"smtp\.prot") as raised:
            await call
        assert "settings list" in str(raised.value.hint)


async def test_a_stored_value_that_breaks_the_rule_is_not_used(house: House) -> None:
    await house.settings.set("smtp.port", 25, MASTER)
    await house.store.batch([Statement("UPDATE setting SET value = '0'")])
    with pytest.raises(Corrupt, match=r"smtp\.port"):
        await house.settings.get(table.SMTP_PORT)


async def test_settings_written_at_once_end_as_one_of_them(house: House) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(house.settings.set("smtp.password", f"pass-{number}", MASTER))
    found = await house.settings.get_secret(table.SMTP_PASSWORD)
    assert found in [Secret(f"pass-{number}") for number in range(10)]


@pytest.mark.parametrize("declared", list(SETTINGS.values()), ids=list(SETTINGS))
async def test_every_declaration_is_whole(
    house: House, declared: Setting[object] | SecretSetting
) -> None:
    """The example is valid, as text and as stored; the default is what the type says."""
    assert declared.about.endswith(".")
    if isinstance(declared, SecretSetting):
        return
    shown = await house.settings.set(declared.name, declared.example, MASTER)
    assert await house.settings.get(declared) == declared.parse(declared.example)
    # What is listed can be set again.
    again = await house.settings.set(declared.name, shown.value, MASTER)
    assert again.value == shown.value
    if declared.default is not None:
        assert declared.parse(declared.default) == declared.default


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("public_url", "https://kowabunga.example.org/", "https://kowabunga.example.org"),
        ("public_url", "https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("public_url", "http://localhost:8080", "http://localhost:8080"),
        ("public_url", " https://example.org:/?#", "https://example.org"),
        ("kahuna.names", " a.example , 192.0.2.1,a.example", ["a.example", "192.0.2.1"]),
        ("kahuna.names", ["A.example"], ["a.example"]),
        ("kahuna.names", "", []),
        ("smtp.port", "25", 25),
        ("smtp.from", "kowabunga@example.org", "kowabunga@example.org"),
        ("bootstrap.user", "_svc-1", "_svc-1"),
        (
            "templates.allowed_sources",
            "10.1.0.0/24,2001:db8::/32",
            ["10.1.0.0/24", "2001:db8::/32"],
        ),
        (
            "cloud_init.linux",
            "#cloud-config\npackages: [vim]\n",
            "#cloud-config\npackages: [vim]\n",
        ),
        ("cloud_init.packages", "", []),
        ("cloud_init.packages", "g++,libstdc++6", ["g++", "libstdc++6"]),
        ("limits.request_bytes", 65536, 65536),
    ],
)
async def test_good_values(house: House, name: str, given: object, expected: object) -> None:
    assert (await house.settings.set(name, given, MASTER)).value == expected


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("public_url", "http://kowabunga.example.org"),  # API keys would travel in clear
        ("public_url", "https://user:word@example.org"),
        ("public_url", "https://[fe80::1%25eth0]"),
        ("kahuna.names", "fe80::1%eth0"),  # no certificate can name a zone
        ("public_url", "https://example.org/path"),
        ("public_url", "https://example.org?x=1"),
        ("public_url", "https://example.org:99999"),
        ("public_url", "https://[::1"),
        ("public_url", "https://"),
        ("public_url", "ftp://example.org"),
        ("public_url", "kowabunga.example.org"),
        ("public_url", None),
        ("public_url", ["https://example.org"]),
        ("kahuna.names", "a.example,,b.example"),
        ("kahuna.names", "bad_name"),
        ("kahuna.names", "-bad.example"),
        ("kahuna.names", "1.2.3"),
        ("kahuna.names", 5),
        ("kahuna.names", [5]),
        ("kahuna.names", {"a": 1}),
        ("smtp.host", "smtp.example.org:25"),
        ("smtp.port", 0),
        ("smtp.port", 65536),
        ("smtp.port", True),
        ("smtp.port", 25.0),
        ("smtp.port", "२५"),
        ("smtp.port", "9" * 5000),
        ("smtp.username", "a\r\nRCPT TO: evil"),
        ("smtp.username", ""),
        ("smtp.from", "Kowabunga"),
        ("smtp.from", "a@b@example.org"),
        ("smtp.from", "a@example.org\nBcc: x@example.org"),
        ("smtp.password", ""),
        ("smtp.password", 5),
        ("bootstrap.user", "Root"),
        ("bootstrap.user", "a" * 33),
        ("bootstrap.user", "a;reboot"),
        ("bootstrap.public_key", "ssh-ed25519"),
        ("bootstrap.public_key", "ssh-ed25519 AAAA admin"),
        ("bootstrap.public_key", SSH_KEY.replace("ssh-ed25519", "ssh-rsa")),
        ("bootstrap.public_key", f"{SSH_KEY}\n{SSH_KEY}"),
        ("bootstrap.public_key", "-----BEGIN OPENSSH PRIVATE KEY-----"),
        ("cloud_init.linux", "x" * (64 * 1024 + 1)),
        ("cloud_init.linux", "- not a mapping"),
        ("cloud_init.windows", "Write-Output 'which shell?'"),
        ("cloud_init.packages", "htop vim"),
        ("cloud_init.packages", "-oDebug=1"),
        ("templates.allowed_sources", "10.0.0.0/40"),
        ("retention.operation_days", 0),
    ],
)
async def test_bad_values(house: House, name: str, given: object) -> None:
    with pytest.raises(Invalid) as raised:
        await house.settings.set(name, given, MASTER)
    assert raised.value.context == {"field": name}
    assert len(str(raised.value)) < 600
