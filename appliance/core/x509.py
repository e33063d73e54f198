"""The cluster's own certificates: an authority and the server certificates below it.

Pure: PEM in, PEM out. Nodes often start with a wrong clock, so nothing here expires or begins by
accident of the clock: see `make_authority` and `issue_server_certificate`.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.core.errors import Corrupt, Invalid
from appliance.core.secret import Secret

# A board without a battery-backed clock boots in 1970 and must be able to join all the same.
_NOT_BEFORE: Final = datetime(1970, 1, 1, tzinfo=UTC)
# RFC 5280, 4.1.2.5: "no well-defined expiration date". An authority ends by being replaced.
_NEVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
# No clock that shows less can be right: certificates made under it must not be dead on arrival.
_WRITTEN: Final = datetime(2026, 11, 1, tzinfo=UTC)
SERVER_LIFE: Final = timedelta(days=397)
_RENEW_BELOW: Final = SERVER_LIFE / 3


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    certificate_pem: str
    key_pem: Secret


def make_authority(name: str) -> CertifiedKey:
    """Make a self-signed authority (ECDSA P-256) that is valid from 1970 and never expires."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NEVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return CertifiedKey(_pem(certificate), _key_pem(key))


def issue_server_certificate(
    authority: CertifiedKey, names: Sequence[str], now_ms: int
) -> CertifiedKey:
    """Make a key and a certificate for these DNS names and addresses, good for `SERVER_LIFE`.

    Raises:
        Invalid: no name, or one that is neither a DNS name nor an address.
        Corrupt: the authority's key does not fit its certificate.
    """
    alternatives = _alternative_names(names)
    issuer = _load(authority.certificate_pem)
    issuer_key = _load_key(authority.key_pem)
    if _public_bytes(issuer_key.public_key()) != _public_bytes(_ec_public_key(issuer)):
        raise Corrupt("the authority's certificate does not belong to its key")
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kowabunga")]))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_moment(now_ms) + SERVER_LIFE)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return CertifiedKey(_pem(certificate), _key_pem(key))


def needs_renewal(
    certificate_pem: str, authority_pem: str, names: Sequence[str], now_ms: int
) -> str | None:
    """Say why a server certificate should be made anew, or return None.

    More than a whole life left means that it was issued by a clock that ran ahead.
    """
    certificate = _load(certificate_pem)
    try:
        certificate.verify_directly_issued_by(_load(authority_pem))
    except (InvalidSignature, ValueError, TypeError):
        return "another authority"
    present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if set(present) != set(_alternative_names(names)):
        return "other names"
    left = certificate.not_valid_after_utc - _moment(now_ms)
    return None if _RENEW_BELOW <= left <= SERVER_LIFE else "its age"


def fingerprint(certificate_pem: str) -> bytes:
    """Return the SHA-256 of the first certificate's DER: what the hello is bound to."""
    return _load(certificate_pem).fingerprint(hashes.SHA256())


def _moment(now_ms: int) -> datetime:
    return max(datetime.fromtimestamp(now_ms // 1000, UTC), _WRITTEN)


def _alternative_names(names: Sequence[str]) -> list[x509.GeneralName]:
    if not names:
        raise Invalid("a server certificate needs a name", field="names")
    return [_alternative_name(name) for name in dict.fromkeys(names)]


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        # Without the zone of "fe80::1%eth0": a certificate has no room for it.
        return x509.IPAddress(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as unusable:
        raise Invalid(
            f"{name!r} is neither a DNS name nor an address",
            hint="write an international name in its xn-- form",
            field="names",
        ) from unusable


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _load(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise Corrupt("a stored certificate is not readable") from None


def _load_key(pem: Secret) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem.reveal(), password=None)
    except (ValueError, TypeError):
        raise Corrupt("a stored private key is not readable") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Corrupt("a stored private key is not of the kind we make")
    return key


def _ec_public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Corrupt("a stored certificate is not of the kind we make")
    return key


def _public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def _key_pem(key: ec.EllipticCurvePrivateKey) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
