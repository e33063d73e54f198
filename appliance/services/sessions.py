"""Log-ins of users: a bearer token is good while its row is there.

The token is a JWT, for the clients that read it; what counts is the row, so log-out, a new
password and the user's removal end it at once, at every Kahuna.
"""

from typing import Final

import jwt
import structlog

from appliance.core import crypto
from appliance.core.clock import Clock
from appliance.core.errors import Stale, Unauthenticated
from appliance.core.ids import new_id
from appliance.core.secret import Secret
from appliance.model.principal import Principal, PrincipalKind
from appliance.model.setting import MAX_SESSION_HOURS, SESSION_HOURS
from appliance.services.attempts import Attempts
from appliance.services.passwords import Passwords
from appliance.services.secrets import CLUSTER, Secrets
from appliance.services.settings import Settings
from appliance.store.base import Statement, Store, guard

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_KEY: Final = "session_key"
_ALGORITHM: Final = "HS256"
_ISSUER: Final = "Kowabunga"
_MAX_TOKEN: Final = 4096
_MAX_SESSIONS: Final = 64  # of one user; the oldest ends
_HOUR_MS: Final = 3_600_000
_WRONG: Final = "the mail address or the password is wrong"


class Sessions:
    """The way in by password.

    Failures are counted twice: many addresses may try one account, and one address, which may be
    that of a whole office behind a proxy, many accounts.
    """

    def __init__(
        self,
        store: Store,
        secrets: Secrets,
        settings: Settings,
        passwords: Passwords,
        clock: Clock,
    ) -> None:
        self._store = store
        self._secrets = secrets
        self._settings = settings
        self._passwords = passwords
        self._clock = clock
        self._per_account = Attempts(clock, burst=10, refill_s=60.0)
        self._per_address = Attempts(clock, burst=100, refill_s=1.0)
        self._key: bytes | None = None

    async def log_in(self, email: str, password: Secret, address: str) -> str:
        """Return a new bearer token.

        Raises:
            Unauthenticated: no such user, no password, or a wrong one: all alike.
            Forbidden: too many failed.
            Unavailable: too many log in at once.
        """
        account = email.casefold()
        self._per_address.admit(address)
        self._per_account.admit(account)
        rows = await self._store.query(
            Statement("SELECT id, role, email, password FROM user WHERE email = ?", (email,))
        )
        row = rows[0] if rows else {}
        stored = row.get("password")
        if not await self._passwords.is_right(password, None if stored is None else str(stored)):
            _log.warning("log_in_failed", address=address)
            raise Unauthenticated(_WRONG)
        self._per_address.forgive(address)
        self._per_account.forgive(account)
        user_id, session_id, now_ms = str(row["id"]), new_id(), self._clock.now_ms()
        expires_at_ms = now_ms + await self._settings.get(SESSION_HOURS) * _HOUR_MS
        # The password may have been changed, and the sessions ended, while it was compared.
        opened, closed = guard(
            Statement(
                "SELECT EXISTS (SELECT 1 FROM user WHERE id = ? AND password = ?)",
                (user_id, stored),
            )
        )
        try:
            await self._store.batch(
                [opened, *_insert(session_id, user_id, expires_at_ms, now_ms), closed]
            )
        except Stale as overtaken:
            raise Unauthenticated(_WRONG) from overtaken
        _log.info("logged_in", user=user_id, address=address)
        claims = {
            "iss": _ISSUER,
            "jti": session_id,
            "uid": user_id,
            "email": row["email"],
            "role": row["role"],
            "iat": now_ms // 1000,
            "exp": expires_at_ms // 1000,
        }
        return jwt.encode(claims, await self._signing_key(), _ALGORITHM)

    async def authenticate(self, token: str) -> Principal | None:
        """Return whose token this is, if it is ours and its session is there."""
        if len(token) > _MAX_TOKEN:
            return None
        try:
            claims = jwt.decode(
                token,
                await self._signing_key(),
                [_ALGORITHM],
                issuer=_ISSUER,
                # The row tells when it ends, by our own clock.
                options={"require": ["jti", "uid"], "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError:
            return None
        rows = await self._store.query(
            Statement(
                "SELECT 1 AS yes FROM user_session"
                " WHERE id = ? AND user_id = ? AND expires_at_ms > ? AND expires_at_ms <= ?",
                (str(claims["jti"]), str(claims["uid"]), *_in_force(self._clock.now_ms())),
            )
        )
        return Principal(PrincipalKind.USER, str(claims["uid"])) if rows else None

    async def log_out(self, token: str) -> None:
        """End the session of a token that was authenticated."""
        claims = jwt.decode(token, options={"verify_signature": False})
        await self._store.batch(
            [Statement("DELETE FROM user_session WHERE id = ?", (claims["jti"],))]
        )

    async def _signing_key(self) -> bytes:
        """Return the key of all Kahunas, made at the first need."""
        if self._key is None:
            always = Statement("SELECT 1 AS yes")
            fresh = Secret(crypto.random_key())
            self._key = (await self._secrets.ensure(CLUSTER, _KEY, fresh, while_=always)).reveal()
        return self._key


def _in_force(now_ms: int) -> tuple[int, int]:
    """Return after what, and until what, a session ends that is in force.

    One that was begun under a clock far ahead would otherwise last until that time has come.
    """
    return now_ms, now_ms + MAX_SESSION_HOURS * _HOUR_MS


def end_sessions(user_id: str) -> Statement:
    """End all log-ins of a user."""
    return Statement("DELETE FROM user_session WHERE user_id = ?", (user_id,))


def _insert(session_id: str, user_id: str, expires_at_ms: int, now_ms: int) -> list[Statement]:
    """Add a session, and clear away those that are past or too many."""
    return [
        Statement(
            "DELETE FROM user_session WHERE NOT (expires_at_ms > ? AND expires_at_ms <= ?)",
            _in_force(now_ms),
        ),
        Statement(
            "INSERT INTO user_session (id, user_id, expires_at_ms, created_at_ms)"
            " VALUES (?, ?, ?, ?)",
            (session_id, user_id, expires_at_ms, now_ms),
        ),
        Statement(
            "DELETE FROM user_session WHERE user_id = ? AND id NOT IN (SELECT id FROM user_session"
            " WHERE user_id = ? ORDER BY rowid DESC LIMIT ?)",
            (user_id, user_id, _MAX_SESSIONS),
        ),
    ]
