"""The certificate of the TLS listener: one of the cluster's, or the owner's files.

Both are renewed while connections live: new ones get the new certificate. A bad file never
replaces a good certificate in use.
"""

import asyncio
import re
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol

import structlog

from appliance.api.listener import load_certificate, server_tls
from appliance.core import x509
from appliance.core.clock import Clock
from appliance.core.errors import KowabungaError
from appliance.core.watch import Watch, watch
from appliance.model.setting import KAHUNA_NAMES
from appliance.services.authority import Authority
from appliance.services.authority import ServerCertificate as IssuedCertificate
from appliance.services.settings import Settings

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_LOOK_S: Final = 30.0  # for names that were set
_CERTIFICATE: Final = re.compile(
    r"^-----BEGIN CERTIFICATE-----$.*?^-----END CERTIFICATE-----", re.DOTALL | re.MULTILINE
)
_RENEW_S: Final = 12 * 3600.0  # for its age; writes a file each time
_JUMP_S: Final = 3600.0  # of the wall clock, by which that age is another at once


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
        issued, names = await self._ensure()
        self.context = server_tls(issued.file, issued.file)
        self._take(issued, names)

    async def keep(self) -> None:
        while True:
            await self._clock.sleep(_LOOK_S)
            if not self._is_aged() and await self._all_names() == self._issued_for:
                continue
            issued, names = await self._ensure()
            if issued.fingerprint != self.fingerprint:
                load_certificate(self.context, issued.file, issued.file)
            self._take(issued, names)

    def _is_aged(self) -> bool:
        passed_s = self._clock.monotonic() - self._looked_at
        jump_s = (self._clock.now_ms() - self._looked_at_ms) / 1000 - passed_s
        return passed_s >= _RENEW_S or abs(jump_s) >= _JUMP_S

    async def _ensure(self) -> tuple[IssuedCertificate, tuple[str, ...]]:
        names = await self._all_names()
        issued = await self._authority.ensure_server_certificate(self._directory, names)
        return issued, names

    def _take(self, issued: IssuedCertificate, names: tuple[str, ...]) -> None:
        """Tell of a certificate once it is served, not before."""
        self.fingerprint = issued.fingerprint
        self._issued_for = names
        self._looked_at = self._clock.monotonic()
        self._looked_at_ms = self._clock.now_ms()

    async def _all_names(self) -> tuple[str, ...]:
        further = await self._settings.get(KAHUNA_NAMES)
        return tuple(dict.fromkeys((*self._names, *further)))


def read_certificates(file: Path) -> str:
    """Return the certificates in a PEM file and nothing else of it: no comment, no private key."""
    found: list[str] = _CERTIFICATE.findall(file.read_text(encoding="utf-8", errors="replace"))
    return "".join(f"{certificate}\n" for certificate in found)


class OwnerCertificate:
    """The owner's files, taken anew when they change."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self.context = server_tls(certificate, key)
        self.fingerprint = self._read_fingerprint()

    async def keep(self) -> None:
        with ExitStack() as stack:
            # Both: the key may be in another directory, and come last.
            watches = [stack.enter_context(watch(file)) for file in (self._certificate, self._key)]
            self._reload()  # what changed before the watches stood
            async with asyncio.TaskGroup() as group:
                for changes in watches:
                    group.create_task(self._follow(changes))

    async def _follow(self, changes: Watch) -> None:
        while True:
            await changes.changed()
            self._reload()

    def _reload(self) -> None:
        before = self.fingerprint
        try:
            load_certificate(self.context, self._certificate, self._key)
            self.fingerprint = self._read_fingerprint()
        except (KowabungaError, OSError) as bad:
            # Half of a pair, most likely: the other file's change comes next.
            _log.warning("certificate_not_taken", error=str(bad))
        if self.fingerprint != before:
            _log.info("certificate_taken", file=str(self._certificate))

    def _read_fingerprint(self) -> bytes:
        return x509.fingerprint(read_certificates(self._certificate))
