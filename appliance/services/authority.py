"""The cluster's certificate authority, and this Kahuna's server certificate below it.

Several authorities may be trusted at once, one of them issues: that is how one is replaced.
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from appliance.core import x509
from appliance.core.clock import Clock
from appliance.core.errors import Conflict, Corrupt, NotFound
from appliance.core.files import (
    ensure_private_directory,
    keep_written,
    read_private,
    write_atomic,
)
from appliance.core.ids import new_id
from appliance.model.target import target
from appliance.services.cluster import get_cluster
from appliance.services.secrets import Secrets
from appliance.store.base import Consistency, Statement, Store

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_KEY: Final = "key"
_PEM_END: Final = "-----END PRIVATE KEY-----\n"


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """Where the server's TLS files are.

    Attributes:
        file: 0600: the private key, then the certificate. One file, so that a crash never
            leaves a key beside the certificate of another; load it as both.
        authorities: PEM of all trusted authorities, for clients.
        fingerprint: SHA-256 of the certificate's DER, which the agents' hello is bound to.
        renewed: the file was written by this very call.
    """

    file: Path
    authorities: Path
    fingerprint: bytes
    renewed: bool


class Authority:
    def __init__(self, store: Store, secrets: Secrets, clock: Clock) -> None:
        self._store = store
        self._secrets = secrets
        self._clock = clock

    async def ensure(self) -> None:
        """See that one active authority exists; of two Kahunas that make one, one wins."""
        if await self._active() is not None:
            return
        cluster = await get_cluster(self._store)
        made = x509.make_authority(f"Kowabunga cluster {cluster.id}")
        authority_id = new_id()
        try:
            await self._secrets.batch(
                lambda sealer: [
                    Statement(
                        "INSERT INTO certificate_authority"
                        " (id, certificate, active, created_at_ms) VALUES (?, ?, 1, ?)",
                        (authority_id, made.certificate_pem, self._clock.now_ms()),
                    ),
                    sealer.put(_owner(authority_id), _KEY, made.key_pem),
                ]
            )
        except Conflict:
            if await self._active() is None:
                raise
        else:
            _log.info("authority_made", authority=authority_id)

    async def trusted(self) -> str:
        """Return the PEM of every trusted authority, the issuing one first."""
        rows = await self._store.query(
            Statement("SELECT certificate FROM certificate_authority ORDER BY active DESC, id")
        )
        return "".join(str(row["certificate"]) for row in rows)

    async def ensure_server_certificate(
        self, directory: Path, names: Sequence[str]
    ) -> ServerCertificate:
        """Issue or renew the certificate in `directory`; call it daily.

        Renews when a third of its life is left, when the names or the authority changed, and
        when the file is damaged. The key is born here and is new with each certificate.

        Raises:
            Forbidden: others may read the file.
            Invalid: a name is unusable.
            NotFound: there is no authority yet.
        """
        ensure_private_directory(directory)
        file = directory / "server.pem"
        authority = await self._issuer()
        reason = self._needs_renewal(file, authority.certificate_pem, names)
        if reason:
            made = x509.issue_server_certificate(authority, names, self._clock.now_ms())
            content = made.key_pem.reveal() + made.certificate_pem.encode()
            write_atomic(file, content, mode=0o600)
            _log.info("server_certificate_issued", reason=reason, names=list(names))
        authorities = directory / "ca.pem"
        keep_written(authorities, (await self.trusted()).encode())
        certificate = read_private(file).decode().partition(_PEM_END)[2]
        return ServerCertificate(file, authorities, x509.fingerprint(certificate), bool(reason))

    def _needs_renewal(self, file: Path, authority_pem: str, names: Sequence[str]) -> str | None:
        try:
            certificate = read_private(file).decode().partition(_PEM_END)[2]
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file)
            return x509.needs_renewal(certificate, authority_pem, names, self._clock.now_ms())
        except FileNotFoundError:
            return "there is none"
        except (ssl.SSLError, Corrupt, UnicodeDecodeError):
            return "the file is damaged"

    async def _active(self) -> tuple[str, str] | None:
        rows = await self._store.query(
            Statement("SELECT id, certificate FROM certificate_authority WHERE active = 1"),
            Consistency.LINEARIZABLE,
        )
        return (str(rows[0]["id"]), str(rows[0]["certificate"])) if rows else None

    async def _issuer(self) -> x509.CertifiedKey:
        active = await self._active()
        if active is None:
            raise NotFound("the cluster has no certificate authority yet")
        authority_id, certificate = active
        key = await self._secrets.find(_owner(authority_id), _KEY)
        if key is None:
            raise Corrupt(f"the key of certificate authority {authority_id} is missing")
        return x509.CertifiedKey(certificate, key)


def _owner(authority_id: str) -> str:
    return target("certificate_authority", authority_id)
