"""Agents, their credentials and their sessions; the sockets themselves are `api/agents.py`."""

from collections.abc import AsyncGenerator
from typing import Annotated, Final

import msgspec
from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream
from msgspec import Meta

from appliance.api.guards import allow
from appliance.api.services import Services
from appliance.api.streams import UntilStopped
from appliance.core import crypto
from appliance.core.errors import Conflict, Corrupt, Invalid, Unavailable
from appliance.model.access import Allow
from appliance.model.agent import AgentType, CredentialKind
from appliance.model.target import target
from appliance.rpc.hub import SessionInfo
from appliance.services.agents import Agent

_QUIET_S: Final = 1.0


class NewAgent(msgspec.Struct, forbid_unknown_fields=True):
    """With a public key the agent is enrolled; without one it waits for a key to be issued."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    type: AgentType
    description: Annotated[str, Meta(max_length=1024)] = ""
    public_key: Annotated[str, Meta(max_length=64, description="Ed25519, raw, base64.")] | None = (
        None
    )


class AgentView(msgspec.Struct, frozen=True):
    """An agent, and its sessions at the Kahuna that answers."""

    id: str
    name: str
    description: str
    type: AgentType
    credential: CredentialKind
    expires_at_ms: int | None
    created_at_ms: int
    key_waits: bool
    sessions: list[SessionInfo]


class Credential(msgspec.Struct, frozen=True):
    """What an agent of kind hmac proves itself with; handed over this once.

    `authorities` is the PEM of the certificates by which to know the Kahunas.
    """

    agent_id: str
    type: AgentType
    key: str
    authorities: str

    def __repr__(self) -> str:
        return f"Credential({self.agent_id}, ***)"


class AgentController(Controller):
    path = "/agents"
    tags = ("agent",)
    opt = allow(Allow.SUPER_ADMIN)

    @get(operation_id="ListAgents")
    async def list_agents(self, services: NamedDependency[Services]) -> list[AgentView]:
        """Return every agent with its sessions at this Kahuna."""
        sessions = services.hub.sessions()
        return [_view(agent, sessions) for agent in await services.agents.list()]

    @get("/{agent_id:str}", operation_id="GetAgent")
    async def get_agent(
        self, services: NamedDependency[Services], agent_id: FromPath[str]
    ) -> AgentView:
        """Return one agent."""
        return _view(await services.agents.get(agent_id), services.hub.sessions())

    @post(operation_id="CreateAgent", status_code=201)
    async def create_agent(
        self, services: NamedDependency[Services], data: JSONBody[NewAgent]
    ) -> AgentView:
        """Register an agent, and enrol its public key if there is one.

        Repeating it with the same name, type and key is harmless: a node enrols itself again
        after a crash in between.
        """
        public_key = None if data.public_key is None else _decode_key(data.public_key)
        try:
            agent = await services.agents.register(data.name, data.type, data.description)
        except Conflict as taken:
            agent = await _same_agent(services, data, taken)
        if public_key is not None:
            await services.agents.enrol(agent.id, public_key)
        return _view(await services.agents.get(agent.id), services.hub.sessions())

    @post("/{agent_id:str}/key", operation_id="IssueAgentKey", status_code=200)
    async def issue_key(
        self, services: NamedDependency[Services], agent_id: FromPath[str]
    ) -> AgentView:
        """Issue a new key of kind hmac, which ends any credential before it; then collect it."""
        await services.agents.issue_key(agent_id)
        services.hub.disconnect(agent_id, "a new key was issued")
        return _view(await services.agents.get(agent_id), services.hub.sessions())

    @post("/{agent_id:str}/credential", operation_id="CollectAgentCredential", status_code=200)
    async def collect_credential(
        self, services: NamedDependency[Services], agent_id: FromPath[str]
    ) -> Credential:
        """Hand over the waiting key, once: of two collectors exactly one gets it."""
        agent = await services.agents.get(agent_id)
        authorities = await services.authority.trusted()
        key = await services.agents.collect_key(agent_id)
        return Credential(agent.id, agent.type, key.reveal_text(), authorities)

    @post("/{agent_id:str}/revoke", operation_id="RevokeAgent", status_code=204)
    async def revoke_agent(
        self, services: NamedDependency[Services], agent_id: FromPath[str]
    ) -> None:
        """End the agent's credential, and its sessions at once."""
        await services.agents.revoke(agent_id)
        services.hub.disconnect(agent_id, "the credential was revoked")

    @get("/{agent_id:str}/log", operation_id="ReadAgentLog", media_type="text/plain")
    async def read_log(
        self,
        services: NamedDependency[Services],
        agent_id: FromPath[str],
        follow: Annotated[bool, QueryParameter(description="Go on with new lines.")] = False,  # noqa: FBT002
    ) -> Stream:
        """Return what the agent has logged lately, as lines of text.

        Without `follow` the answer ends when nothing has come for a second.
        """
        await services.agents.get(agent_id)
        lines = _log_lines(services, agent_id, follow=follow)
        await anext(lines)  # opened, or refused while there can still be an error answer
        return Stream(
            UntilStopped(lines, services.stopping), media_type="text/plain; charset=utf-8"
        )


async def _log_lines(services: Services, agent_id: str, *, follow: bool) -> AsyncGenerator[bytes]:
    """Yield nothing once the stream is open, then what comes out of it."""
    async with services.hub.open_stream(agent_id, "log", target("agent", agent_id)) as stream:
        yield b""
        while True:
            try:
                async with services.clock.timeout(None if follow else _QUIET_S):
                    chunk = await stream.read()
            except TimeoutError:
                return
            except Unavailable:
                yield b"[the stream broke off: the agent has gone]\n"
                return
            if not chunk:
                return
            yield chunk


def _view(agent: Agent, sessions: list[SessionInfo]) -> AgentView:
    return AgentView(
        id=agent.id,
        name=agent.name,
        description=agent.description,
        type=agent.type,
        credential=agent.credential,
        expires_at_ms=agent.expires_at_ms,
        created_at_ms=agent.created_at_ms,
        key_waits=agent.key_waits,
        sessions=[session for session in sessions if session.agent_id == agent.id],
    )


def _decode_key(text: str) -> bytes:
    try:
        return crypto.from_base64(text)
    except Corrupt as bad:
        raise Invalid("a public key is 32 bytes of Ed25519 in base64", field="public_key") from bad


async def _same_agent(services: Services, wanted: NewAgent, taken: Conflict) -> Agent:
    """Return the agent that has the name, if it is the one that the request would make.

    Raises:
        Conflict: it is another.
    """
    agent = await services.agents.get(str(taken.context.get("id", "")))
    identity = await services.agents.find(agent.id)
    public_key = None if identity is None else identity.public_key
    unfinished = agent.credential_serial == 0  # registered, and nothing since: no revoked one
    same_key = public_key is not None and crypto.to_base64(public_key) == wanted.public_key
    if agent.type is wanted.type and wanted.public_key and (unfinished or same_key):
        return agent
    raise taken
