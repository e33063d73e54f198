"""libvirt's numbers for the states of domains, in the contract's words. Pure tables.

Sources: virDomainState, virDomain*Reason, virDomainEventType and virDomainEvent*DetailType in
libvirt-domain.h; the position of a name is its number.
"""

from typing import Final

from appliance.model.domain_state import STATE_REASONS, DomainReason, DomainState

_STATES: Final = tuple(STATE_REASONS)

_R = DomainReason
# Event -> the state that it leads to, and the reason per detail. What is not here tells of no new
# state (defined, undefined) or of one that lasts for moments (being shut down).
_EVENTS: Final[dict[int, tuple[DomainState, tuple[DomainReason, ...]]]] = {
    2: (
        DomainState.RUNNING,
        (_R.BOOTED, _R.MIGRATED, _R.RESTORED, _R.FROM_SNAPSHOT, _R.WAKE_UP),
    ),
    3: (
        DomainState.PAUSED,
        (
            _R.USER, _R.MIGRATION, _R.IO_ERROR, _R.WATCHDOG, _R.UNKNOWN, _R.FROM_SNAPSHOT,
            _R.UNKNOWN, _R.POST_COPY, _R.POST_COPY_FAILED,
        ),
    ),
    4: (
        DomainState.RUNNING,
        (_R.UNPAUSED, _R.MIGRATED, _R.FROM_SNAPSHOT, _R.POST_COPY),
    ),
    5: (
        DomainState.SHUTOFF,
        (
            _R.SHUTDOWN, _R.DESTROYED, _R.CRASHED, _R.MIGRATED, _R.SAVED, _R.FAILED,
            _R.FROM_SNAPSHOT,
        ),
    ),
    7: (DomainState.PM_SUSPENDED, (_R.UNKNOWN, _R.UNKNOWN)),
    8: (DomainState.CRASHED, (_R.PANICKED, _R.UNKNOWN)),
}  # fmt: skip


def state_of(state: int, reason: int) -> tuple[DomainState, DomainReason]:
    """Translate what `virDomainGetState` tells; a number of a newer libvirt is "unknown"."""
    named = _STATES[state] if 0 <= state < len(_STATES) else DomainState.NO_STATE
    return named, _pick(STATE_REASONS[named], reason)


def state_after(event: int, detail: int) -> tuple[DomainState, DomainReason] | None:
    """Translate a lifecycle event; None: it brings no new state."""
    known = _EVENTS.get(event)
    return None if known is None else (known[0], _pick(known[1], detail))


def _pick(reasons: tuple[DomainReason, ...], number: int) -> DomainReason:
    return reasons[number] if 0 <= number < len(reasons) else DomainReason.UNKNOWN
