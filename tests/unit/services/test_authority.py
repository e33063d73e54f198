import asyncio
import ssl
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.core import x509
from appliance.core.errors import Corrupt, Forbidden, NotFound
from appliance.store.base import Statement
from tests.support.clock import ManualClock
from tests.unit.services.house import House, build_house

NAMES = ["kahuna.example.org", "127.0.0.1"]


async def test_the_first_start_makes_one_authority_and_others_keep_it(house: House) -> None:
    await house.authority.ensure()
    trusted = await house.authority.trusted()
    await house.authority.ensure()
    assert await house.authority.trusted() == trusted
    assert trusted.count("BEGIN CERTIFICATE") == 1


async def test_two_kahunas_that_make_it_at_once_agree(house: House, tmp_path: Path) -> None:
    second = build_house(house.store, tmp_path / "second", house.clock)
    await house.keyring.admit(second.node.public(), "two")
    await second.keyring.open("two")
    async with asyncio.TaskGroup() as group:
        for one in (house, second, house, second):
            group.create_task(one.authority.ensure())
    assert await house.authority.trusted() == await second.authority.trusted()
    counts = await house.store.query(
        Statement(
            "SELECT (SELECT count(*) FROM certificate_authority) AS authorities,"
            " (SELECT count(*) FROM secret) AS keys"
        )
    )
    assert counts == [{"authorities": 1, "keys": 1}]
    first = await house.authority.ensure_server_certificate(tmp_path / "tls1", NAMES)
    other = await second.authority.ensure_server_certificate(tmp_path / "tls2", NAMES)
    assert first.fingerprint != other.fingerprint
    assert first.authorities.read_bytes() == other.authorities.read_bytes()


async def test_the_certificate_is_issued_once_with_a_private_key_file(
    house: House, tmp_path: Path
) -> None:
    await house.authority.ensure()
    first = await house.authority.ensure_server_certificate(tmp_path / "tls", NAMES)
    again = await house.authority.ensure_server_certificate(tmp_path / "tls", NAMES)
    assert (first.renewed, again.renewed) == (True, False)
    assert first.fingerprint == again.fingerprint
    assert stat.S_IMODE(first.file.stat().st_mode) == 0o600
    assert "PRIVATE" not in first.authorities.read_text()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(first.file)


async def test_it_is_renewed_when_names_change_or_a_third_of_its_life_is_left(
    house: House, tmp_path: Path, clock: ManualClock
) -> None:
    await house.authority.ensure()
    tls = tmp_path / "tls"
    seen = {(await house.authority.ensure_server_certificate(tls, NAMES)).fingerprint}
    named = await house.authority.ensure_server_certificate(tls, [*NAMES, "other.example.org"])
    assert named.renewed
    assert named.fingerprint not in seen
    two_thirds = clock.now_ms() + int(x509.SERVER_LIFE / timedelta(milliseconds=1) * 0.66)
    clock.set_wall_clock(two_thirds)
    names = [*NAMES, "other.example.org"]
    assert not (await house.authority.ensure_server_certificate(tls, names)).renewed
    clock.set_wall_clock(two_thirds + 5 * 24 * 3600 * 1000)
    assert (await house.authority.ensure_server_certificate(tls, names)).renewed


@pytest.mark.parametrize("content", [b"", b"\xff", b"-----BEGIN PRIVATE KEY-----\n"])
async def test_a_damaged_file_is_replaced(house: House, tmp_path: Path, content: bytes) -> None:
    await house.authority.ensure()
    issued = await house.authority.ensure_server_certificate(tmp_path / "tls", NAMES)
    issued.file.write_bytes(content)
    assert (await house.authority.ensure_server_certificate(tmp_path / "tls", NAMES)).renewed


async def test_a_certificate_beside_the_key_of_another_is_replaced(
    house: House, tmp_path: Path
) -> None:
    await house.authority.ensure()
    one = await house.authority.ensure_server_certificate(tmp_path / "tls1", NAMES)
    two = await house.authority.ensure_server_certificate(tmp_path / "tls2", NAMES)
    end = "-----END PRIVATE KEY-----\n"
    key = one.file.read_text().partition(end)[0] + end
    one.file.write_text(key + two.file.read_text().partition(end)[2])
    assert (await house.authority.ensure_server_certificate(tmp_path / "tls1", NAMES)).renewed


async def test_a_key_that_others_can_read_is_refused(house: House, tmp_path: Path) -> None:
    await house.authority.ensure()
    issued = await house.authority.ensure_server_certificate(tmp_path / "tls", NAMES)
    issued.file.chmod(0o644)
    with pytest.raises(Forbidden, match="chmod 600"):
        await house.authority.ensure_server_certificate(tmp_path / "tls", NAMES)


async def test_two_authorities_can_be_trusted_while_one_issues(
    house: House, tmp_path: Path
) -> None:
    await house.authority.ensure()
    old = await house.authority.trusted()
    before = await house.authority.ensure_server_certificate(tmp_path / "tls", NAMES)
    await house.store.batch([Statement("UPDATE certificate_authority SET active = 0")])
    await house.authority.ensure()
    trusted = await house.authority.trusted()
    assert trusted.endswith(old)
    assert trusted.count("BEGIN CERTIFICATE") == 2
    after = await house.authority.ensure_server_certificate(tmp_path / "tls", NAMES)
    assert after.renewed
    assert after.fingerprint != before.fingerprint
    assert after.authorities.read_text() == trusted


async def test_a_missing_authority_or_key_is_said(house: House, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no certificate authority"):
        await house.authority.ensure_server_certificate(tmp_path / "tls", NAMES)
    await house.authority.ensure()
    await house.store.batch([Statement("DELETE FROM secret")])
    with pytest.raises(Corrupt, match="key of certificate authority"):
        await house.authority.ensure_server_certificate(tmp_path / "tls", NAMES)
