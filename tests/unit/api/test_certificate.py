import asyncio
import errno
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.x509 import load_pem_x509_certificate
from structlog.testing import capture_logs

from appliance.api.certificate import ClusterCertificate, OwnerCertificate, read_certificates
from appliance.api.services import Services
from appliance.core import x509
from appliance.core.errors import Invalid
from appliance.model.principal import MASTER
from appliance.services.authority import Authority
from tests.support.clock import ManualClock
from tests.support.faults import What, Where, breaks
from tests.support.wait import until
from tests.unit.api.test_listener import authority_and_pair


def fingerprint(pair: Path) -> bytes:
    return x509.fingerprint(pair.read_text().partition("-----END PRIVATE KEY-----\n")[2])


async def test_the_owners_files_are_taken_when_they_change_and_kept_when_they_are_bad(
    tmp_path: Path,
) -> None:
    _, first = authority_and_pair(tmp_path, "first")
    _, second = authority_and_pair(tmp_path, "second")
    served = tmp_path / "served.pem"
    served.write_bytes(first.read_bytes())
    certificate = OwnerCertificate(served, served)
    assert certificate.fingerprint == fingerprint(first)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(certificate.keep())
        await asyncio.sleep(0)
        served.write_bytes(second.read_bytes())
        await until(lambda: certificate.fingerprint == fingerprint(second), "the new one")
        served.write_text("half a file")
        served.write_bytes(first.read_bytes())
        await until(lambda: certificate.fingerprint == fingerprint(first), "the first again")
        keeping.cancel()


def test_unusable_files_are_refused_at_the_start(tmp_path: Path) -> None:
    _, first = authority_and_pair(tmp_path, "first")
    _, second = authority_and_pair(tmp_path, "second")
    for certificate, key in ((tmp_path / "none", first), (first, tmp_path / "none")):
        with pytest.raises(Invalid):
            OwnerCertificate(certificate, key)
    key_only = tmp_path / "key.pem"
    key_only.write_text(second.read_text().partition("-----BEGIN CERTIFICATE")[0])
    with pytest.raises(Invalid):
        OwnerCertificate(first, key_only)


async def test_a_name_that_was_set_comes_into_the_certificate(
    services: Services, tmp_path: Path
) -> None:
    clock = ManualClock()
    certificate = ClusterCertificate(
        services.authority, services.settings, clock, directory=tmp_path / "tls", names=("n1",)
    )
    await certificate.open()
    before = certificate.fingerprint
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(certificate.keep())
        await clock.advance(3600)
        assert certificate.fingerprint == before
        await services.settings.set("kahuna.names", "kowabunga.example.org", MASTER)
        while certificate.fingerprint == before:
            await clock.advance(30)
            await asyncio.sleep(0.01)  # the store answers from a thread
        keeping.cancel()


@breaks(
    What.CLOCK,
    "the clock of a Kahuna is set a year ahead or back",
    expected="within a minute it has a certificate that is good by the clock it has now",
    where=Where.SIMULATED,
)
@pytest.mark.parametrize("jump", [timedelta(days=366), timedelta(days=-366)])
async def test_a_certificate_follows_a_clock_that_is_set(
    services: Services, tmp_path: Path, jump: timedelta
) -> None:
    clock = ManualClock(2_000_000_000_000)
    authority = Authority(services.store, services.authority._secrets, clock)
    certificate = ClusterCertificate(
        authority, services.settings, clock, directory=tmp_path / "tls", names=("n1",)
    )
    await certificate.open()
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(certificate.keep())
        for each in (jump, -jump):
            before = certificate.fingerprint
            clock.set_wall_clock(clock.now_ms() + round(each.total_seconds() * 1000))
            await until_renewed(certificate, clock, before)
            now = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
            left = not_after(tmp_path / "tls" / "server.pem") - now
            assert timedelta(days=360) < left <= x509.SERVER_LIFE
        keeping.cancel()


async def until_renewed(certificate: ClusterCertificate, clock: ManualClock, before: bytes) -> None:
    for _ in range(1000):
        if certificate.fingerprint != before:
            return
        await clock.advance(1)
        await asyncio.sleep(0.01)  # the store answers from a thread
    raise AssertionError("it was not renewed within the time until it is looked at anyway")


def not_after(pair: Path) -> datetime:
    pem = pair.read_text().partition("-----END PRIVATE KEY-----\n")[2]
    return load_pem_x509_certificate(pem.encode()).not_valid_after_utc


async def test_a_key_in_another_directory_than_its_certificate_is_taken_when_it_comes_last(
    tmp_path: Path,
) -> None:
    _, first = authority_and_pair(tmp_path, "first")
    _, second = authority_and_pair(tmp_path, "second")
    certificate_file, key_file = tmp_path / "certs" / "c.pem", tmp_path / "private" / "k.pem"
    for file in (certificate_file, key_file):
        file.parent.mkdir()
        file.write_bytes(first.read_bytes())
    certificate = OwnerCertificate(certificate_file, key_file)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(certificate.keep())
        with capture_logs() as logs:
            await asyncio.sleep(0)
            certificate_file.write_bytes(second.read_bytes())
            await until(lambda: bool(logs), "the half of a pair refused")
        assert certificate.fingerprint == fingerprint(first)
        key_file.write_bytes(second.read_bytes())
        await until(lambda: certificate.fingerprint == fingerprint(second), "the whole pair")
        keeping.cancel()


def test_of_a_file_with_certificate_key_and_comments_only_the_certificates_are_told(
    tmp_path: Path,
) -> None:
    _, first = authority_and_pair(tmp_path, "first")
    combined = tmp_path / "combined.pem"
    combined.write_bytes("# Büro\n".encode() + first.read_bytes() + b"\xff\n" + first.read_bytes())
    told = read_certificates(combined)
    assert told.count("BEGIN CERTIFICATE") == 2
    assert "KEY" not in told
    assert OwnerCertificate(combined, combined).fingerprint == fingerprint(first)


async def test_a_certificate_is_not_told_before_it_is_served(
    services: Services, tmp_path: Path
) -> None:
    clock = ManualClock()
    certificate = ClusterCertificate(
        services.authority, services.settings, clock, directory=tmp_path / "tls", names=("n1",)
    )
    await certificate.open()
    before = certificate.fingerprint
    await services.settings.set("kahuna.names", "kowabunga.example.org", MASTER)
    served = certificate.context
    certificate.context = Unloadable(ssl.PROTOCOL_TLS_SERVER)
    async with asyncio.TaskGroup() as group:
        failing = group.create_task(keep_until_refused(certificate))
        while not failing.done():
            await clock.advance(30)
            await asyncio.sleep(0.01)  # the store answers from a thread
    assert certificate.fingerprint == before
    certificate.context = served
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(certificate.keep())
        while certificate.fingerprint == before:
            await clock.advance(30)
            await asyncio.sleep(0.01)
        keeping.cancel()


class Unloadable(ssl.SSLContext):
    """Takes no certificate, as when the process has no file left to open."""

    def load_cert_chain(self, *_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")


async def keep_until_refused(certificate: ClusterCertificate) -> None:
    with pytest.raises(Invalid):
        await certificate.keep()
