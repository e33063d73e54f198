"""How the engine reaches agents: a protocol, so that it knows nothing about sockets.

Real sockets: `rpc/hub.py`.
"""

from typing import Protocol, TypeVar

import msgspec

from appliance.model.target import Fence
from appliance.rpc.method import Method

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


class Command(msgspec.Struct, frozen=True):
    """What rides with each effectful call, so that the agent can refuse a stale worker.

    A repeat of `request_id` gets the stored answer, or joins the call in flight.
    """

    request_id: str  # begins with the id of the operation, then a dot
    target: str
    fence: Fence

    @property
    def operation_id(self) -> str:
        """What the logs of both sides call the work."""
        return self.request_id.partition(".")[0]


class AgentGateway(Protocol):
    def reachable(self, agent_id: str) -> bool:
        """Tell whether this process holds a live session with the agent."""
        ...

    async def call(
        self,
        agent_id: str,
        method: Method[P, R],
        params: P,
        *,
        timeout_s: float | None = None,
        command: Command | None = None,
    ) -> R:
        """Call a method of an agent; the method's own timeout holds unless one is given.

        Raises:
            Unavailable: no session, or the call never left: nothing happened there.
            DeadlineExceeded: no answer came: the outcome is unknown.
            Stale: the agent has seen a higher fence for the target.
            KowabungaError: the agent's own error, rebuilt.
        """
        ...
