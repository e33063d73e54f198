"""What the hub asks about agents; `services/agents.py` answers from the store."""

from collections.abc import Mapping
from typing import Protocol

from appliance.model.agent import AgentIdentity


class AgentDirectory(Protocol):
    async def find(self, agent_id: str) -> AgentIdentity | None:
        """Return what a hello is checked against."""
        ...

    async def serials(self) -> Mapping[str, int]:
        """Return the serial of every agent's credential, in one query."""
        ...

    async def may_speak(self, agent_id: str, about: str) -> bool:
        """Tell whether the target is one of the agent's own objects."""
        ...
