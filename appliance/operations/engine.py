"""The durable operations engine, as the rest of the package uses it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from appliance.core.clock import Clock
from appliance.operations.operation import Abandoned, Operation
from appliance.operations.step import A, AnyKind, Submission
from appliance.rpc.gateway import AgentGateway
from appliance.store.base import Store


class Engine:
    def __init__(
        self,
        store: Store,
        gateway: AgentGateway,
        kinds: Sequence[AnyKind],
        *,
        clock: Clock,
        alone: bool = False,
    ) -> None:
        """Nothing runs yet. `alone`: no other process can have the store open (embedded SQLite)."""
        raise NotImplementedError

    async def run(self) -> None:
        """Work until cancelled; then let go of all claims so that a successor starts at once."""
        raise NotImplementedError

    def agent_connected(self, agent_id: str) -> None:
        """Look at once for operations that wait for this agent."""
        raise NotImplementedError

    async def submit(self, submission: Submission[A]) -> str:
        """Write the submission and its operation in one batch; return the operation's id.

        Raises:
            Busy: another operation holds a target; context: `target`, `operation`.
        """
        raise NotImplementedError

    async def submit_when_free(
        self, prepare: Callable[[], Awaitable[Submission[A]]], timeout_s: float
    ) -> str:
        """Submit once no other operation holds the targets; `prepare` runs before each try."""
        raise NotImplementedError

    async def wait(self, operation_id: str, timeout_s: float) -> Operation:
        """Return the operation once it is finished.

        Raises:
            NotFound: no such operation.
            DeadlineExceeded: still unfinished; context: `operation`. The work goes on.
        """
        raise NotImplementedError

    async def get(self, operation_id: str) -> Operation:
        raise NotImplementedError

    async def find_unfinished(self, target: str) -> Operation | None:
        """Return the operation that holds the target."""
        raise NotImplementedError

    def watch(self, operation_id: str) -> AsyncIterator[Operation]:
        """Yield the operation now and after each change, until it is finished."""
        raise NotImplementedError

    async def cancel(self, operation_id: str) -> None:
        """Ask for the work to be withdrawn: a create is undone, anything else stops.

        Raises:
            NotFound: no such operation.
            Conflict: it is finished.
        """
        raise NotImplementedError

    async def cancel_and_wait(self, operation_id: str, timeout_s: float) -> Operation:
        raise NotImplementedError

    async def retry(self, operation_id: str, principal: str) -> str:
        """Try again now; return the id of the operation that does: a new one if it had failed."""
        raise NotImplementedError

    async def abandon(self, operation_id: str) -> Abandoned:
        """Let go of an unfinished operation: its targets are free, what exists is left."""
        raise NotImplementedError

    async def list(self, *, unfinished: bool = False, limit: int = 100) -> Sequence[Operation]:
        """Return the newest operations first."""
        raise NotImplementedError
