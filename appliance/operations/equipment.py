"""What the workers of one engine share: made once by the engine, changed by nobody."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from appliance.core.aio import Backoff
from appliance.core.clock import Clock
from appliance.operations.step import AnyKind, Lanes
from appliance.operations.vault import Vault
from appliance.rpc.gateway import AgentGateway
from appliance.store.base import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Periods and bounds of one engine.

    Attributes:
        claim_s: a claim whose owner has shown no life for so long is taken over.
        poll_s: how often unfinished operations are looked at without being told to.
        calls_per_agent: how many calls of one agent run at once; others wait for their turn.
        keep_finished_s: finished operations are forgotten after this, by their wall-clock stamps;
            but for the last `sql.ALWAYS_KEPT`, since a clock may be wrong.
    """

    claim_s: float = 15.0
    poll_s: float = 1.0
    calls_per_agent: int = 64
    keep_finished_s: float = 30 * 86_400.0
    prune_s: float = 3_600.0
    do_backoff: Backoff = field(default_factory=lambda: Backoff(max_s=30.0))
    undo_backoff: Backoff = field(default_factory=lambda: Backoff(max_s=60.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    store: Store
    gateway: AgentGateway
    kinds: Mapping[str, AnyKind]
    clock: Clock
    engine_id: str
    settings: EngineSettings
    lanes: Lanes
    vault: Vault
    announce: Callable[[str], None]  # this operation is finished
