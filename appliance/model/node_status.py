"""What a node's supervisor tells about itself: written by it, read by `kowabunga role`."""

from enum import StrEnum

import msgspec

from appliance.core.errors import Problem
from appliance.model.node import Role


class RoleState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"  # as good as it gets; the detail says what is missing
    FAILED = "failed"  # ended by itself; started again after a pause
    STOPPING = "stopping"


class RoleStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    state: RoleState
    detail: str = ""
    pid: int | None = None
    since_ms: int
    failures: int = 0  # in a row


class NodeStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`digest` is of the node file last dealt with: applied, or refused for `error`.

    `unwatched` says why the node file is looked at every few seconds instead of watched.
    """

    pid: int
    version: str
    digest: str
    error: Problem | None = None
    unwatched: str = ""
    roles: dict[Role, RoleStatus] = {}

    @property
    def healthy(self) -> bool:
        states = {status.state for status in self.roles.values()}
        return self.error is None and states <= {RoleState.RUNNING}

    @property
    def settled(self) -> bool:
        """Whether nothing more happens by itself."""
        states = {status.state for status in self.roles.values()}
        return self.error is not None or states <= {RoleState.RUNNING, RoleState.DEGRADED}
