import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509 as certificates

from appliance.core import x509
from appliance.core.errors import Corrupt, Invalid

NAMES = ["kahuna.example.org", "192.0.2.7", "2001:db8::7", "localhost"]
YEAR_2027 = datetime(2027, 3, 1, tzinfo=UTC)
AUTHORITY = x509.make_authority("Test cluster")


def test_a_tls_client_that_trusts_the_authority_accepts_every_name(tmp_path: Path) -> None:
    made = x509.issue_server_certificate(AUTHORITY, NAMES, _ms(YEAR_2027))
    for name in NAMES:
        assert _handshake(tmp_path, made, AUTHORITY, name)


def test_a_tls_client_refuses_another_name_and_another_authority(tmp_path: Path) -> None:
    made = x509.issue_server_certificate(AUTHORITY, NAMES, _ms(YEAR_2027))
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        _handshake(tmp_path, made, AUTHORITY, "other.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        _handshake(tmp_path, made, x509.make_authority("Test cluster"), NAMES[0])


def test_the_zone_of_an_address_is_not_asked_of_a_certificate() -> None:
    made = x509.issue_server_certificate(AUTHORITY, ["fe80::1%eth0"], _ms(YEAR_2027))
    names, now_ms = ["fe80::1%eth0"], _ms(YEAR_2027)
    authority_pem = AUTHORITY.certificate_pem
    assert x509.needs_renewal(made.certificate_pem, authority_pem, names, now_ms) is None


def test_a_server_certificate_cannot_issue_others(tmp_path: Path) -> None:
    server = x509.issue_server_certificate(AUTHORITY, NAMES, _ms(YEAR_2027))
    forged = x509.issue_server_certificate(server, NAMES, _ms(YEAR_2027))
    chained = x509.CertifiedKey(forged.certificate_pem + server.certificate_pem, forged.key_pem)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(tmp_path, chained, AUTHORITY, NAMES[0])


def test_a_node_whose_clock_shows_1970_accepts_both_certificates() -> None:
    server = x509.issue_server_certificate(AUTHORITY, NAMES, _ms(YEAR_2027))
    for pem in (AUTHORITY.certificate_pem, server.certificate_pem):
        assert _load(pem).not_valid_before_utc == datetime(1970, 1, 1, tzinfo=UTC)


def test_the_authority_outlives_every_clock() -> None:
    assert _load(AUTHORITY.certificate_pem).not_valid_after_utc.year == 9999


def test_a_certificate_issued_under_a_clock_in_1970_is_still_good_today() -> None:
    made = x509.issue_server_certificate(AUTHORITY, NAMES, 0)
    assert _load(made.certificate_pem).not_valid_after_utc > datetime(2027, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("age", "reason"),
    [
        (timedelta(0), None),
        (x509.SERVER_LIFE * 2 / 3 - timedelta(days=1), None),
        (x509.SERVER_LIFE * 2 / 3 + timedelta(days=1), "its age"),
        (x509.SERVER_LIFE * 2, "its age"),
        (timedelta(days=-30), "its age"),  # made while the clock ran a month ahead
    ],
)
def test_renewal_is_due_when_a_third_of_the_life_is_left(
    age: timedelta, reason: str | None
) -> None:
    pem = x509.issue_server_certificate(AUTHORITY, NAMES, _ms(YEAR_2027)).certificate_pem
    now_ms = _ms(YEAR_2027 + age)
    assert x509.needs_renewal(pem, AUTHORITY.certificate_pem, NAMES, now_ms) == reason


def test_renewal_is_due_when_names_or_authority_changed() -> None:
    now_ms = _ms(YEAR_2027)
    pem = x509.issue_server_certificate(AUTHORITY, NAMES, now_ms).certificate_pem
    ca = AUTHORITY.certificate_pem
    assert x509.needs_renewal(pem, ca, list(reversed(NAMES)), now_ms) is None
    assert x509.needs_renewal(pem, ca, NAMES[:2], now_ms) == "other names"
    # The very same name, another key.
    other = x509.make_authority("Test cluster").certificate_pem
    assert x509.needs_renewal(pem, other, NAMES, now_ms) == "another authority"


def test_the_fingerprint_is_that_of_the_certificate_on_the_wire() -> None:
    made = x509.issue_server_certificate(AUTHORITY, NAMES, _ms(YEAR_2027))
    der = ssl.PEM_cert_to_DER_cert(made.certificate_pem)

    assert x509.fingerprint(made.certificate_pem) == hashlib.sha256(der).digest()


@pytest.mark.parametrize("names", [[], ["bücher.example"]])
def test_an_unusable_name_is_refused(names: list[str]) -> None:
    with pytest.raises(Invalid) as raised:
        x509.issue_server_certificate(AUTHORITY, names, 0)
    assert raised.value.context["field"] == "names"


def test_an_authority_whose_key_is_not_its_own_issues_nothing() -> None:
    other = x509.make_authority("Test cluster")
    mixed = x509.CertifiedKey(AUTHORITY.certificate_pem, other.key_pem)
    with pytest.raises(Corrupt, match="does not belong"):
        x509.issue_server_certificate(mixed, NAMES, 0)


def _handshake(
    directory: Path, server: x509.CertifiedKey, trusted: x509.CertifiedKey, name: str
) -> bool:
    """Run a TLS handshake in memory; raises what the client finds wrong."""
    file = directory / "server.pem"
    file.write_bytes(server.key_pem.reveal() + server.certificate_pem.encode())
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(file)
    client_side = ssl.create_default_context(cadata=trusted.certificate_pem)
    client_side.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT  # Python 3.13's default
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    serving = server_side.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, serving):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client.version() is not None


def _load(pem: str) -> certificates.Certificate:
    return certificates.load_pem_x509_certificate(pem.encode())


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
