"""Agents and their credentials; also what the hub asks about those that connect.

Each change is one batch: the agent's row, its secrets and its serial move together. Must not
close sockets: the hub notices by the serial.
"""

from typing import Final

import msgspec
import structlog

from appliance.core import crypto
from appliance.core.clock import Clock
from appliance.core.errors import Conflict, Corrupt, Invalid, NotFound, Stale
from appliance.core.ids import new_id
from appliance.core.secret import Secret
from appliance.model.agent import AgentIdentity, AgentType, CredentialKind
from appliance.model.target import target
from appliance.resources.agent import insert_agent
from appliance.services.secrets import Sealer, Secrets, forget_all
from appliance.store.base import Consistency, Row, Statement, Store, fetch, fetch_one, guard

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_KEY: Final = "key"  # the API key, from its making until somebody collects it
_VERIFIER: Final = "verifier"
_MAX_NAME: Final = 255

# Written out for each read, because a statement's text is never put together at run time.
_LIST: Final = Statement(
    "SELECT id, name, description, type, credential, credential_serial, expires_at_ms,"
    " created_at_ms, EXISTS (SELECT 1 FROM secret WHERE owner = 'agent/' || agent.id"
    " AND secret.name = 'key') AS key_waits FROM agent ORDER BY id"
)


class Agent(msgspec.Struct, frozen=True):
    """A registered agent; `key_waits` says that its key was not collected yet."""

    id: str
    name: str
    description: str
    type: AgentType
    credential: CredentialKind
    credential_serial: int
    expires_at_ms: int | None
    created_at_ms: int
    key_waits: bool


class Agents:
    """Implements the hub's AgentDirectory."""

    def __init__(self, store: Store, secrets: Secrets, clock: Clock) -> None:
        self._store = store
        self._secrets = secrets
        self._clock = clock

    async def register(self, name: str, agent_type: AgentType, description: str = "") -> Agent:
        """Create an agent without a credential: it cannot connect yet.

        Raises:
            Invalid: the name is empty or too long.
            Conflict: the name is taken; the context names the agent's id.
        """
        if not 1 <= len(name) <= _MAX_NAME:
            raise Invalid(f"an agent's name has 1 to {_MAX_NAME} characters", field="name")
        agent_id = new_id()
        insert = insert_agent(agent_id, name, agent_type.value, description, self._clock.now_ms())
        try:
            await self._store.batch([insert])
        except Conflict as taken:
            raise await self._taken(taken, name=name) from taken
        return await self.get(agent_id)

    async def get(self, agent_id: str) -> Agent:
        """Return an agent.

        Raises:
            NotFound: no such agent.
        """
        statement = Statement(
            "SELECT id, name, description, type, credential, credential_serial, expires_at_ms,"
            " created_at_ms, EXISTS (SELECT 1 FROM secret WHERE owner = 'agent/' || agent.id"
            " AND secret.name = 'key') AS key_waits FROM agent WHERE id = ?",
            (agent_id,),
        )
        return await fetch_one(self._store, Agent, statement, f"agent {agent_id}")

    async def list(self) -> list[Agent]:
        return await fetch(self._store, Agent, _LIST)

    async def issue_key(self, agent_id: str, expires_at_ms: int | None = None) -> None:
        """Give the agent a new key of kind hmac, which ends any credential before it.

        The key waits, sealed, until `collect_key` hands it over.

        Raises:
            NotFound: no such agent.
        """
        key = crypto.generate_api_key()
        verifier = Secret(crypto.derive_verifier(key.reveal_text()))
        owner = _owner(agent_id)

        def build(sealer: Sealer) -> list[Statement]:
            return [
                *_guard_exists(agent_id),
                _credential(agent_id, CredentialKind.HMAC, None, expires_at_ms),
                sealer.put(owner, _KEY, key),
                sealer.put(owner, _VERIFIER, verifier),
            ]

        try:
            await self._secrets.batch(build)
        except Stale:
            raise _unknown(agent_id) from None
        _log.info("agent_key_issued", agent=agent_id)

    async def collect_key(self, agent_id: str) -> Secret:
        """Hand over the waiting key, once: of two collectors exactly one gets it.

        A key that is lost after this is replaced by `issue_key`.

        Raises:
            NotFound: no such agent.
            Conflict: no key waits.
        """
        key = await self._secrets.take(_owner(agent_id), _KEY)
        if key is not None:
            _log.info("agent_key_collected", agent=agent_id)
            return key
        await self.get(agent_id)
        raise Conflict(
            f"no key of agent {agent_id} waits: none was issued, or it was handed over already",
            hint="issue a new key; it ends the old one",
            id=agent_id,
        )

    async def enrol(
        self, agent_id: str, public_key: bytes, expires_at_ms: int | None = None
    ) -> None:
        """Accept a node's Ed25519 public key (raw), which ends any credential before it.

        Raises:
            Invalid: not such a key.
            NotFound: no such agent.
            Conflict: the key is another agent's; the context names its id.
        """
        if not crypto.is_signing_public_key(public_key):
            raise Invalid("a public key is 32 bytes of Ed25519", field="public_key")
        encoded = crypto.to_base64(public_key)
        try:
            await self._store.batch(
                [
                    *_guard_exists(agent_id),
                    _credential(agent_id, CredentialKind.ED25519, encoded, expires_at_ms),
                    forget_all(_owner(agent_id)),
                ]
            )
        except Stale:
            raise _unknown(agent_id) from None
        except Conflict as taken:
            raise await self._taken(taken, public_key=encoded) from taken
        _log.info("agent_enrolled", agent=agent_id)

    async def set_expiry(self, agent_id: str, expires_at_ms: int | None) -> None:
        """Change when the credential ends; running sessions are checked anew.

        Raises:
            NotFound: no such agent.
        """
        [changed] = await self._store.batch(
            [
                Statement(
                    "UPDATE agent SET expires_at_ms = ?,"
                    " credential_serial = credential_serial + 1 WHERE id = ?",
                    (expires_at_ms, agent_id),
                )
            ]
        )
        if not changed:
            raise _unknown(agent_id)

    async def revoke(self, agent_id: str) -> None:
        """End the agent's credential; it cannot connect until it gets another. Idempotent.

        Raises:
            NotFound: no such agent.
        """
        changed, _ = await self._store.batch(
            [
                _credential(agent_id, CredentialKind.NONE, None, None),
                forget_all(_owner(agent_id)),
            ]
        )
        if not changed:
            raise _unknown(agent_id)
        _log.info("agent_revoked", agent=agent_id)

    async def find(self, agent_id: str) -> AgentIdentity | None:
        """Return what a hello is checked against, read in one query; None: no such agent.

        Raises:
            Corrupt: the verifier was tampered with or is missing.
        """
        statement = Statement(
            "SELECT agent.id, agent.type, agent.credential, agent.public_key,"
            " agent.credential_serial, agent.expires_at_ms, secret.data_key_id, secret.sealed"
            " FROM agent LEFT JOIN secret ON secret.owner = 'agent/' || agent.id"
            " AND secret.name = 'verifier' WHERE agent.id = ?",
            (agent_id,),
        )
        rows = await self._store.query(statement, Consistency.LINEARIZABLE)
        if not rows:
            return None
        row = msgspec.convert(rows[0], _IdentityRow, strict=False)
        return AgentIdentity(
            id=row.id,
            type=row.type,
            credential=row.credential,
            verifier=await self._verifier(agent_id, row, rows[0]),
            public_key=None if row.public_key is None else crypto.from_base64(row.public_key),
            serial=row.credential_serial,
            expires_at_ms=row.expires_at_ms,
        )

    async def serials(self) -> dict[str, int]:
        """Return every agent's serial in one query: the hub's poll for changed credentials."""
        rows = await self._store.query(Statement("SELECT id, credential_serial FROM agent"))
        return {str(row["id"]): int(row["credential_serial"] or 0) for row in rows}

    async def may_speak(self, agent_id: str, about: str) -> bool:
        """Tell whether an agent may report on a target."""
        rows = await self._store.query(
            Statement(
                "SELECT 1 AS yes FROM agent_target WHERE agent_id = ? AND target = ?",
                (agent_id, about),
            )
        )
        return bool(rows)

    async def _verifier(self, agent_id: str, row: "_IdentityRow", raw: Row) -> bytes | None:
        if row.credential is not CredentialKind.HMAC:
            return None
        if row.sealed is None:
            raise Corrupt(f"the verifier of agent {agent_id} is missing", hint="issue a new key")
        try:
            return (await self._secrets.open(_owner(agent_id), _VERIFIER, raw)).reveal()
        except NotFound:  # a rotation dropped the data key since we read the row
            anew = await self._secrets.find(_owner(agent_id), _VERIFIER)
            return None if anew is None else anew.reveal()

    async def _taken(
        self, refused: Conflict, *, name: str | None = None, public_key: str | None = None
    ) -> Conflict:
        """Name the agent that stands in the way, if it is still there."""
        rows = await self._store.query(
            Statement(
                "SELECT id, name FROM agent WHERE name = ? OR public_key = ?", (name, public_key)
            ),
            Consistency.LINEARIZABLE,
        )
        if not rows:
            return refused
        other = str(rows[0]["id"])
        what = f"the name {name!r}" if name is not None else "this public key"
        return Conflict(f"{what} belongs to agent {other}", id=other)


class _IdentityRow(msgspec.Struct, frozen=True):
    id: str
    type: AgentType
    credential: CredentialKind
    public_key: str | None
    credential_serial: int
    expires_at_ms: int | None
    sealed: str | None


def _owner(agent_id: str) -> str:
    return target("agent", agent_id)


def _guard_exists(agent_id: str) -> tuple[Statement, Statement]:
    return guard(Statement("SELECT EXISTS (SELECT 1 FROM agent WHERE id = ?)", (agent_id,)))


def _credential(
    agent_id: str, kind: CredentialKind, public_key: str | None, expires_at_ms: int | None
) -> Statement:
    return Statement(
        "UPDATE agent SET credential = ?, public_key = ?, expires_at_ms = ?,"
        " credential_serial = credential_serial + 1 WHERE id = ?",
        (kind.value, public_key, expires_at_ms, agent_id),
    )


def _unknown(agent_id: str) -> NotFound:
    return NotFound(f"agent {agent_id} does not exist", id=agent_id)
