"""Who may open which console: by a token that is good once, for one console, for a minute.

Only its hash is a row, so any Kahuna can honour what another one granted, and a copy of the
database opens nothing. Carrying the bytes is `api/console.py`.
"""

from typing import Final

import msgspec
import structlog

from appliance.core import crypto
from appliance.core.clock import Clock
from appliance.core.errors import Conflict, NotFound, Unavailable
from appliance.core.secret import Secret
from appliance.model.compute import ConsoleKind
from appliance.model.domain_state import ACTIVE_STATES
from appliance.model.principal import Principal
from appliance.resources.instance import INSTANCES, InstanceFacts
from appliance.rpc.compute import COMPUTE_GET_DOMAIN, DomainRef
from appliance.rpc.gateway import AgentGateway
from appliance.services.catalog import AnyView, missing
from appliance.services.power import Machines
from appliance.store.base import Consistency, Statement, Store, fetch

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
TOKEN_S: Final = 60
# Who granted a token may have a clock that is ahead of ours, but not by more than this: an expiry
# that is farther away was written before a clock was put right.
_LONGEST_S: Final = 2 * TOKEN_S
_LOOK_S: Final = 3.0


class Grant(msgspec.Struct, frozen=True):
    """The right to open a console once."""

    token: Secret
    expires_at_ms: int


class Admission(msgspec.Struct, frozen=True):
    """A token that was redeemed: what it opens, and who had asked for it."""

    instance_id: str
    kind: ConsoleKind
    principal: str


class Consoles:
    def __init__(
        self, store: Store, machines: Machines, gateway: AgentGateway, clock: Clock
    ) -> None:
        self._store = store
        self._machines = machines
        self._gateway = gateway
        self._clock = clock

    async def grant(
        self, view: AnyView, object_id: str, kind: ConsoleKind, principal: Principal
    ) -> Grant:
        """Return a token for the console of an instance, which may be named by its Kompute.

        Raises:
            NotFound: it does not exist, or does not run.
            Unavailable: no agent of its host is connected.
            DeadlineExceeded: its host does not answer.
        """
        facts = await self._machines.facts(view, object_id)
        if not await self._runs(facts):
            raise NotFound(
                f"{view.title} {object_id} does not run, so it has no console", hint="start it"
            )
        # With the prefix of our keys: the logs mask it, should it ever come near them.
        token = crypto.generate_api_key()
        now_ms = self._clock.now_ms()
        expires_at_ms = now_ms + TOKEN_S * 1000
        try:
            await self._store.batch(
                [
                    Statement(
                        "DELETE FROM console_token WHERE expires_at_ms NOT BETWEEN ? AND ?",
                        _span(now_ms),
                    ),
                    Statement(
                        "INSERT INTO console_token"
                        " (sha256, instance_id, kind, principal, expires_at_ms)"
                        " VALUES (?, ?, ?, ?, ?)",
                        (
                            crypto.hash_api_key(token.reveal_text()),
                            facts.id,
                            kind.value,
                            str(principal),
                            expires_at_ms,
                        ),
                    ),
                ]
            )
        except Conflict as gone:  # the instance, this very moment
            raise missing(view, object_id) from gone
        _log.info("console_granted", instance=facts.id, kind=kind, principal=str(principal))
        return Grant(token, expires_at_ms)

    async def redeem(self, token: str) -> Admission | None:
        """Use a token up: of several who try, at whatever Kahuna, one gets what it opens.

        An unknown outcome of the write is a refusal, since the token may be gone.

        Raises:
            Unavailable, DeadlineExceeded: the store cannot tell now.
        """
        if not crypto.is_api_key(token):
            return None
        key = (crypto.hash_api_key(token), *_span(self._clock.now_ms()))
        found = await fetch(
            self._store,
            Admission,
            Statement(
                "SELECT instance_id, kind, principal FROM console_token"
                " WHERE sha256 = ? AND expires_at_ms BETWEEN ? AND ?",
                key,
            ),
            Consistency.LINEARIZABLE,
        )
        if not found:
            return None
        [used_up] = await self._store.batch(
            [
                Statement(
                    "DELETE FROM console_token WHERE sha256 = ? AND expires_at_ms BETWEEN ? AND ?",
                    key,
                )
            ]
        )
        return found[0] if used_up else None

    async def agent_of(self, instance_id: str) -> str:
        """Return the agent through which the instance's consoles are reached now.

        Raises:
            NotFound: it does not exist any more.
            Unavailable: none is connected.
        """
        return self._agent_of(await self._machines.facts(INSTANCES, instance_id))

    async def _runs(self, facts: InstanceFacts) -> bool:
        agent_id = self._agent_of(facts)
        try:
            seen = await self._gateway.call(
                agent_id, COMPUTE_GET_DOMAIN, DomainRef(facts.id), timeout_s=_LOOK_S
            )
        except NotFound:  # its host has no such domain
            return False
        return seen.state in ACTIVE_STATES

    def _agent_of(self, facts: InstanceFacts) -> str:
        agent_id = next(filter(self._gateway.reachable, facts.list_agents()), None)
        if agent_id is None:
            raise Unavailable(
                f"no agent of Kaktus {facts.host_name} is connected",
                hint="look after the node, then try again",
            )
        return agent_id


def _span(now_ms: int) -> tuple[int, int]:
    """Return when tokens that are good now expire: the earliest and the latest."""
    return now_ms + 1, now_ms + _LONGEST_S * 1000
