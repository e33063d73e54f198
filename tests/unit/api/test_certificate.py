import asyncio
from pathlib import Path

import pytest

from appliance.api.certificate import ClusterCertificate, OwnerCertificate
from appliance.api.services import Services
from appliance.core import x509
from appliance.core.errors import Invalid
from appliance.model.principal import MASTER
from tests.support.clock import ManualClock
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
