"""The master key of the cluster, and the one look-up that authenticates any API key.

Keys are stored as SHA-256. The row of the master key outlives its being disabled, so that a
restart with the old key file does not bring it back.
"""

from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

from appliance.core import crypto
from appliance.core.clock import Clock
from appliance.core.errors import Conflict, Invalid, Stale
from appliance.core.files import create_private, read_private, remove_durably
from appliance.core.secret import Secret
from appliance.model.principal import MASTER, Principal
from appliance.store.base import Consistency, Statement, Store, guard

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


class MasterKeyState(StrEnum):
    NONE = "none"
    ENABLED = "enabled"
    DISABLED = "disabled"


class KeyFile(StrEnum):
    """How the key file of this node stands to the cluster's master key."""

    MADE = "made"  # a new key, now the master key
    ADOPTED = "adopted"  # the owner's key, now the master key
    CURRENT = "current"  # it holds the master key
    OUTDATED = "outdated"  # it holds another key: the master key was rotated or disabled
    ABSENT = "absent"  # the master key exists, its text is not to be had any more


class ApiKeys:
    """Tells whose an API key is."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def authenticate(self, api_key: str) -> Principal | None:
        """Return whose key this is: one indexed look-up, then a constant-time compare.

        Reads the database each time, so a revoked key is refused from the next request on.
        """
        if not crypto.is_api_key(api_key):
            return None
        sha256 = crypto.hash_api_key(api_key)
        rows = await self._store.query(
            Statement(
                "SELECT principal, sha256 FROM api_key WHERE sha256 = ?"
                " AND coalesce(expires_at_ms > ?, 1)",
                (sha256, self._clock.now_ms()),
            )
        )
        if not rows or not crypto.same(str(rows[0]["sha256"]).encode(), sha256.encode()):
            return None
        return Principal.parse(str(rows[0]["principal"]))


class MasterKey:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def ensure(self, file: Path) -> KeyFile:
        """Make the master key on the first start, or take the one that the owner put in `file`.

        Idempotent, and safe at a crash: the file is durable before its key counts, and a key in
        the file whose row is missing is adopted. Once a master key exists no file changes it:
        an old file could bring back a key that was rotated because it leaked.

        Raises:
            Forbidden: others may read the file.
            Invalid: the file does not hold a key, or cannot be read or made.
        """
        born_here = False
        try:
            try:
                key = _parse(file, read_private(file))
            except FileNotFoundError:
                if await self.state() is not MasterKeyState.NONE:
                    return KeyFile.ABSENT
                key = crypto.generate_api_key()
                born_here = create_private(file, key.reveal() + b"\n")
                if not born_here:  # somebody put a file there this very moment
                    key = _parse(file, read_private(file))
        except OSError as failed:
            raise Invalid(
                f"the key file {file} cannot be used: {failed.strerror}",
                hint="name a file in a directory that exists and can be written",
                field="api_key_file",
            ) from failed
        sha256 = crypto.hash_api_key(key.reveal_text())
        [founded] = await self._store.batch(
            [
                Statement(
                    "INSERT INTO api_key (principal, sha256, created_at_ms) VALUES (?, ?, ?)"
                    " ON CONFLICT (principal) DO NOTHING",
                    (str(MASTER), sha256, self._clock.now_ms()),
                )
            ]
        )
        if founded:
            outcome = KeyFile.MADE if born_here else KeyFile.ADOPTED
        elif await self._sha256() == sha256:
            outcome = KeyFile.CURRENT
        else:
            if born_here:  # another Kahuna founded the cluster meanwhile: ours was never valid
                remove_durably(file)
                return KeyFile.ABSENT
            outcome = KeyFile.OUTDATED
            _log.warning("master_key_file_outdated", file=str(file))
        return outcome

    async def rotate(self) -> Secret:
        """Replace the master key, which ends the old one at once; also enables it again.

        The text is returned this once and never stored.

        Raises:
            Conflict: another rotation was faster; its key is the master key.
        """
        before = await self._sha256()
        key = crypto.generate_api_key()
        opened, closed = guard(
            Statement(
                "SELECT (SELECT sha256 FROM api_key WHERE principal = ?) IS ?",
                (str(MASTER), before),
            )
        )
        written = self._write(crypto.hash_api_key(key.reveal_text()))
        try:
            await self._store.batch([opened, written, closed])
        except Stale as overtaken:
            raise Conflict(
                "the master key was rotated or disabled by somebody else this very moment",
                hint="rotate it again if that was not expected",
            ) from overtaken
        _log.info("master_key_rotated")
        return key

    async def disable(self) -> None:
        """Refuse the master key until it is rotated; idempotent."""
        await self._store.batch([self._write(None)])
        _log.info("master_key_disabled")

    async def state(self) -> MasterKeyState:
        rows = await self._rows()
        if not rows:
            return MasterKeyState.NONE
        return MasterKeyState.DISABLED if rows[0] is None else MasterKeyState.ENABLED

    def _write(self, sha256: str | None) -> Statement:
        return Statement(
            "INSERT INTO api_key (principal, sha256, created_at_ms) VALUES (?, ?, ?)"
            " ON CONFLICT (principal) DO UPDATE"
            " SET sha256 = excluded.sha256, created_at_ms = excluded.created_at_ms",
            (str(MASTER), sha256, self._clock.now_ms()),
        )

    async def _sha256(self) -> str | None:
        rows = await self._rows()
        return rows[0] if rows else None

    async def _rows(self) -> list[str | None]:
        rows = await self._store.query(
            Statement("SELECT sha256 FROM api_key WHERE principal = ?", (str(MASTER),)),
            Consistency.LINEARIZABLE,
        )
        return [None if row["sha256"] is None else str(row["sha256"]) for row in rows]


def _parse(file: Path, content: bytes) -> Secret:
    text = content.decode("ascii", "replace").strip()
    if not crypto.is_api_key(text):
        raise Invalid(
            f"{file} does not hold an API key: one line of 43 to 128 letters, digits, - or _",
            hint=f"remove {file} to have a key made, or write one into it",
            field="api_key_file",
        )
    return Secret(text)
