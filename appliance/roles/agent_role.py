"""The agent process of a Kaktus or Kiwi node: finds its identity, then keeps connected."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.model.agent import AgentType


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRoleConfig:
    """What one agent process needs to know.

    Attributes:
        state: the node's state directory; the agent keeps its own things in `agent/` below it.
        type: the role that this agent plays.
        name: the agent's name when it enrols itself (a node name).
        kahunas: `wss://host:port/ws` of every Kahuna; empty: the Kahuna of this node, whose local
            socket `state/run/api.sock` also enrols the agent.
        ca_file: what to verify Kahunas by; None: the certificate that enrolment left in `agent/`.
        credential_file: the file that `kowabunga agent credential` wrote; None: the key pair in
            `agent/`, made on the first start and enrolled through the local socket.
    """

    state: Path
    type: AgentType
    name: str
    kahunas: tuple[str, ...] = ()
    ca_file: Path | None = None
    credential_file: Path | None = None


async def run_agent(config: AgentRoleConfig, *, ready: Callable[[], None]) -> None:
    """Stay connected to every Kahuna until cancelled; `ready` is called on the first session.

    Raises:
        Invalid: no way to an identity: no credential file, and no Kahuna on this node.
        Forbidden: a key file is readable by others.
    """
    raise NotImplementedError
