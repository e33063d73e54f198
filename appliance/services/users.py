"""Users: people and robots, their passwords and keys."""

from dataclasses import replace
from typing import Final

import structlog

from appliance.core import crypto
from appliance.core.clock import Clock
from appliance.core.errors import Conflict, Forbidden, Stale
from appliance.core.secret import Secret
from appliance.model.principal import Principal, PrincipalKind
from appliance.model.target import target
from appliance.resources.user import USERS, User, UserRole
from appliance.services.catalog import Catalog, missing
from appliance.services.passwords import Passwords, check_password
from appliance.services.secrets import Sealer, Secrets, forget_all
from appliance.services.sessions import end_sessions
from appliance.store.base import Statement, Store, guard

_KEY: Final = "api_key"  # the secret that waits to be handed over
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


def _keep_role(stored: User, wanted: User) -> None:
    if wanted.role != stored.role:
        raise Forbidden("nobody changes their own role", hint="ask a super administrator")


_OWN: Final = replace(USERS, check_change=_keep_role)  # compared with the row that is replaced


class Users:
    def __init__(
        self, store: Store, catalog: Catalog, secrets: Secrets, passwords: Passwords, clock: Clock
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._secrets = secrets
        self._passwords = passwords
        self._clock = clock

    async def update(self, user_id: str, sent: User, *, by: UserRole) -> User:
        """Replace what was sent.

        Raises:
            Forbidden: another role, and the caller is no super administrator.
            Others as `Catalog.update`.
        """
        table = USERS if by is UserRole.SUPER_ADMIN else _OWN
        return await self._catalog.update(table, user_id, sent)

    async def set_password(self, user_id: str, password: str) -> None:
        """Set a password that somebody chose; all log-ins end.

        Raises:
            NotFound: no such user.
            Invalid: it is too weak.
            Unavailable: too many log in at once.
        """
        await self._catalog.require(USERS, user_id)
        check_password(password)
        hashed = await self._passwords.hash(Secret(password))
        [changed, _] = await self._store.batch(
            [
                Statement(
                    "UPDATE user SET password = ?, updated_at_ms = ? WHERE id = ?",
                    (hashed, self._clock.now_ms(), user_id),
                ),
                end_sessions(user_id),
            ]
        )
        if not changed:
            raise missing(USERS, user_id)
        _log.info("password_set", user=user_id)

    async def issue_key(self, user_id: str, expires_at_ms: int | None = None) -> None:
        """Give the user a new API key, which ends the one before it.

        It waits, sealed, until `collect_key` hands it over.

        Raises:
            NotFound: no such user.
        """
        key = crypto.generate_api_key()
        opened, closed = _guard_exists(user_id)

        def build(sealer: Sealer) -> list[Statement]:
            return [
                opened,
                Statement(
                    "INSERT INTO api_key (principal, user_id, sha256, expires_at_ms, created_at_ms)"
                    " VALUES (?, ?, ?, ?, ?) ON CONFLICT (principal) DO UPDATE SET"
                    " sha256 = excluded.sha256, expires_at_ms = excluded.expires_at_ms,"
                    " created_at_ms = excluded.created_at_ms",
                    (
                        str(Principal(PrincipalKind.USER, user_id)),
                        user_id,
                        crypto.hash_api_key(key.reveal_text()),
                        expires_at_ms,
                        self._clock.now_ms(),
                    ),
                ),
                sealer.put(_owner(user_id), _KEY, key),
                closed,
            ]

        try:
            await self._secrets.batch(build)
        except Stale:
            raise missing(USERS, user_id) from None
        _log.info("user_key_issued", user=user_id)

    async def collect_key(self, user_id: str) -> Secret:
        """Hand over the waiting key, once: of two collectors exactly one gets it.

        Raises:
            NotFound: no such user.
            Conflict: no key waits.
        """
        key = await self._secrets.take(_owner(user_id), _KEY)
        if key is not None:
            _log.info("user_key_collected", user=user_id)
            return key
        await self._catalog.require(USERS, user_id)
        raise Conflict(
            f"no key of user {user_id} waits: none was issued, or it was handed over already",
            hint="issue a new key; it ends the old one",
            id=user_id,
        )

    async def revoke_key(self, user_id: str) -> None:
        """End the user's key; idempotent.

        Raises:
            NotFound: no such user.
        """
        await self._catalog.require(USERS, user_id)
        await self._store.batch(
            [
                Statement("DELETE FROM api_key WHERE user_id = ?", (user_id,)),
                forget_all(_owner(user_id)),
            ]
        )
        _log.info("user_key_revoked", user=user_id)


def _owner(user_id: str) -> str:
    return target("user", user_id)


def _guard_exists(user_id: str) -> tuple[Statement, Statement]:
    return guard(Statement("SELECT EXISTS (SELECT 1 FROM user WHERE id = ?)", (user_id,)))
