"""A simulated domain: its record, and what QEMU could change in it while it runs. Pure."""

import msgspec

from appliance.model.compute import DomainSpec, ObservedDomain, until_start
from appliance.model.domain_state import ACTIVE_STATES, DomainReason, DomainState


class FakeDomain(msgspec.Struct, frozen=True, kw_only=True):
    """A domain in the world.

    Attributes:
        defined: what the next start uses.
        running: what the process has, while there is one.
        started_at_ms: when that process began.
        deaf: the guest does not react to the power button.
    """

    defined: DomainSpec
    running: DomainSpec | None = None
    state: DomainState = DomainState.SHUTOFF
    reason: DomainReason = DomainReason.UNKNOWN
    started_at_ms: int = 0
    deaf: bool = False

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STATES

    def observe(self) -> ObservedDomain:
        return ObservedDomain(
            domain_id=self.defined.domain_id,
            name=self.defined.name,
            state=self.state,
            reason=self.reason,
            generation=self.defined.generation,
            running_generation=self.running.generation if self.running is not None else None,
        )

    def define(self, spec: DomainSpec) -> "FakeDomain":
        return msgspec.structs.replace(self, defined=spec)

    def run(self, spec: DomainSpec) -> "FakeDomain":
        """Let the process have `spec`, all of it or the part that could change live."""
        return msgspec.structs.replace(self, running=spec)

    def enter(self, state: DomainState, reason: DomainReason) -> "FakeDomain":
        """Move to a state; nothing runs in an inactive one."""
        running = self.running if state in ACTIVE_STATES else None
        return msgspec.structs.replace(self, state=state, reason=reason, running=running)

    def start(self, *, now_ms: int) -> "FakeDomain":
        """Give the domain a new process that has the whole definition; then `enter` its state."""
        return msgspec.structs.replace(self, running=self.defined, started_at_ms=now_ms)


def change_live(
    running: DomainSpec, desired: DomainSpec, *, grows_live: bool
) -> tuple[DomainSpec, tuple[str, ...]]:
    """Return what runs once all that can change live has changed, and what awaits a restart.

    Disks after the first, interfaces, medium and texts are changed live. Processors and memory
    only grow live, and only where the guest plays along (`grows_live`).
    """
    stuck = {
        "vcpus": desired.vcpus != running.vcpus
        and not (grows_live and desired.vcpus > running.vcpus),
        "memory_bytes": desired.memory_bytes != running.memory_bytes
        and not (grows_live and desired.memory_bytes > running.memory_bytes),
        "os": desired.os is not running.os,
        "disks": not _disks_change_live(running, desired),
    }
    restart_for = tuple(name for name, is_stuck in stuck.items() if is_stuck)
    after = until_start(desired, running)
    if not restart_for:
        return after, ()
    return (
        msgspec.structs.replace(
            after,
            generation=running.generation,
            **{name: getattr(running, name) for name in restart_for},
        ),
        restart_for,
    )


def _disks_change_live(running: DomainSpec, desired: DomainSpec) -> bool:
    """Tell whether plugging and unplugging lead there: nobody can move a disk that stays."""
    if running.disks[0] != desired.disks[0]:
        return False
    kept = [disk for disk in desired.disks if disk in running.disks]
    return kept == [disk for disk in running.disks if disk in desired.disks] and (
        kept == list(desired.disks[: len(kept)])
    )
