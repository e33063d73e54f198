"""The certificate of the TLS listener: one of the cluster's, or the owner's files.

Both are renewed while connections live: new ones get the new certificate. A bad file never
replaces a good certificate in use.
"""

import ssl
from pathlib import Path
from typing import Final, Protocol

import structlog

from appliance.api.listener import load_certificate, server_tls
from appliance.core import x509
from appliance.core.clock import Clock
from appliance.core.errors import KowabungaError
from appliance.core.watch import watch
from appliance.model.setting import KAHUNA_NAMES
from appliance.services.authority import Authority
from appliance.services.settings import Settings

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_LOOK_S: Final = 30.0  # for names that were set
_RENEW_S: Final = 12 * 3600.0  # for its age; writes a file each time


class ServerCertificate(Protocol):
    """`fingerprint`: SHA-256 of the certificate (DER) that new connections get."""

    context: ssl.SSLContext
    fingerprint: bytes

    async def keep(self) -> None:
        """Renew it for ever."""
        ...


class ClusterCertificate:
    """Issued by the cluster's authority, below the state directory; renewed in good time."""

    def __init__(
        self,
        authority: Authority,
        settings: Settings,
        clock: Clock,
        *,
        directory: Path,
        names: tuple[str, ...],
    ) -> None:
        self._authority = authority
        self._settings = settings
        self._clock = clock
        self._directory = directory
        self._names = names

    async def open(self) -> None:
        """Issue the certificate, or take the one of an earlier start."""
        file = await self._ensure()
        self.context = server_tls(file, file)

    async def keep(self) -> None:
        while True:
            await self._clock.sleep(_LOOK_S)
            aged = self._clock.monotonic() - self._looked_at >= _RENEW_S
            if not aged and await self._all_names() == self._issued_for:
                continue
            before = self.fingerprint
            file = await self._ensure()
            if self.fingerprint != before:
                load_certificate(self.context, file, file)

    async def _ensure(self) -> Path:
        names = await self._all_names()
        issued = await self._authority.ensure_server_certificate(self._directory, names)
        self.fingerprint = issued.fingerprint
        self._issued_for = names
        self._looked_at = self._clock.monotonic()
        return issued.file

    async def _all_names(self) -> tuple[str, ...]:
        further = await self._settings.get(KAHUNA_NAMES)
        return tuple(dict.fromkeys((*self._names, *further)))


class OwnerCertificate:
    """The owner's files, taken anew when they change."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self.context = server_tls(certificate, key)
        self.fingerprint = self._read_fingerprint()

    async def keep(self) -> None:
        with watch(self._certificate) as changes:
            while True:
                await changes.changed()
                self._reload()

    def _reload(self) -> None:
        try:
            load_certificate(self.context, self._certificate, self._key)
            self.fingerprint = self._read_fingerprint()
        except KowabungaError as bad:
            # Half of a pair, most likely: the other file's change comes next.
            _log.warning("certificate_not_taken", error=str(bad))
        else:
            _log.info("certificate_taken", file=str(self._certificate))

    def _read_fingerprint(self) -> bytes:
        return x509.fingerprint(self._certificate.read_text(encoding="ascii"))
