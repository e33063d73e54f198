"""Routes of agents: plain rows, but their credentials and sessions end with them."""

import datetime as dt
from typing import Final

from msgspec import UNSET

from appliance.api.v1.route import Call, Query, Route
from appliance.api.v1.standard import list_all, read, update
from appliance.core.errors import Invalid
from appliance.model.access import Allow
from appliance.model.agent import CredentialKind
from appliance.resources.agent import AGENTS
from appliance.resources.api_token import ApiToken, expiry_ms

_AGENT: Final = "/agent/{agentId}"
_EXPIRE: Final = Query("expire", "boolean", "Whether the key stops working some day.")
_EXPIRATION_DATE: Final = Query("expiration_date", "date", "Last day of the key, YYYY-MM-DD.")


async def _create_agent(call: Call) -> object:
    made = await call.services.catalog.create(AGENTS, call.body, None, "")
    await _settle(call, str(made.id))
    return made


async def _settle(call: Call, agent_id: str) -> None:
    """Where agents are played, answer when this one is: nobody else could start it."""
    if call.services.simulation is not None:
        await call.services.simulation.settle(agent_id)


async def _delete_agent(call: Call) -> None:
    await call.services.catalog.delete(AGENTS, call.last_id)
    call.services.hub.disconnect(call.last_id, "the agent was deleted")


async def _set_token(call: Call) -> ApiToken:
    """Issue a new key, which is handed over elsewhere: no route of the contract may carry it."""
    services = call.services
    agent = await services.catalog.get(AGENTS, call.last_id)
    expires_at_ms, last_day = _expiry(call)
    if (await services.agents.get(call.last_id)).credential is CredentialKind.ED25519:
        raise Invalid(
            f"agent {agent.name} proves itself with the key of its node",
            hint=f"to give it an API key instead, first run: kowabunga agent revoke {agent.id}",
        )
    await services.agents.issue_key(call.last_id, expires_at_ms)
    services.hub.disconnect(call.last_id, "a new key was issued")
    await _settle(call, call.last_id)
    return ApiToken(
        id=call.last_id,  # an agent has one key
        name=f"{agent.name}-api-key",
        description="",
        expire=expires_at_ms is not None,
        expiration_date=UNSET if last_day is None else last_day,
    )


def _expiry(call: Call) -> tuple[int | None, dt.date | None]:
    if not call.flag("expire"):
        return None, None
    text = call.text("expiration_date")
    try:
        last_day = dt.date.fromisoformat(text or "")
    except ValueError as malformed:
        raise Invalid(
            "a key that expires needs expiration_date=YYYY-MM-DD", field="expiration_date"
        ) from malformed
    return expiry_ms(last_day, call.services.clock.now_ms()), last_day


AGENT_ROUTES: Final[tuple[Route, ...]] = (
    list_all(AGENTS, "/agent", "ListAgents", "agent", who=Allow.SUPER_ADMIN),
    Route(
        "POST",
        "/agent",
        "CreateAgent",
        "agent",
        _create_agent,
        who=Allow.SUPER_ADMIN,
        body=AGENTS.struct,
        answer=AGENTS.struct,
    ),
    read(AGENTS, _AGENT, "ReadAgent", "agent", who=Allow.SUPER_ADMIN),
    update(AGENTS, _AGENT, "UpdateAgent", "agent", who=Allow.SUPER_ADMIN),
    Route("DELETE", _AGENT, "DeleteAgent", "agent", _delete_agent, who=Allow.SUPER_ADMIN),
    Route(
        "PATCH",
        _AGENT + "/token",
        "SetAgentApiToken",
        "agent token",
        _set_token,
        who=Allow.SUPER_ADMIN,
        answer=ApiToken,
        query=(_EXPIRE, _EXPIRATION_DATE),
    ),
)
