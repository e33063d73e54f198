"""The states of a domain: what is desired of it, and the contract's texts for what is observed."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Power(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"


class DomainState(StrEnum):
    """The contract's texts for the state of an instance."""

    NO_STATE = "No State"
    RUNNING = "Running"
    BLOCKED = "Blocked"
    PAUSED = "Paused"
    SHUTDOWN = "Shutdown"  # being shut down
    SHUTOFF = "Shutoff"
    CRASHED = "Crashed"
    PM_SUSPENDED = "PM Suspended"


class DomainReason(StrEnum):
    """The contract's texts for how a domain came into its state; see `STATE_REASONS`."""

    UNKNOWN = "Unknown"
    BOOTED = "Booted"
    MIGRATED = "Migrated"
    RESTORED = "Restored"
    FROM_SNAPSHOT = "From Snapshot"
    UNPAUSED = "Unpaused"
    MIGRATION_CANCELLED = "Migration Cancelled"
    SAVE_CANCELLED = "Save Cancelled"
    WAKE_UP = "Wake Up"
    CRASHED = "Crashed"
    POST_COPY = "Post Copy"
    USER = "User"
    MIGRATION = "Migration"
    SAVE = "Save"
    DUMP = "Dump"
    IO_ERROR = "I/O Error"
    WATCHDOG = "Watchdog"
    SHUTTING_DOWN = "Shutting Down"
    SNAPSHOT = "Snapshot"
    STARTING_UP = "Starting Up"
    POST_COPY_FAILED = "Post Copy Failed"
    SHUTDOWN = "Shutdown"
    DESTROYED = "Destroyed"
    SAVED = "Saved"
    FAILED = "Failed"
    DAEMON = "Daemon"
    PANICKED = "Panicked"


_R = DomainReason
STATE_REASONS: Final[Mapping[DomainState, tuple[DomainReason, ...]]] = MappingProxyType(
    {
        # The position of a reason is libvirt's number for it (virDomain*Reason, libvirt-domain.h).
        DomainState.NO_STATE: (_R.UNKNOWN,),
        DomainState.RUNNING: (
            _R.UNKNOWN, _R.BOOTED, _R.MIGRATED, _R.RESTORED, _R.FROM_SNAPSHOT, _R.UNPAUSED,
            _R.MIGRATION_CANCELLED, _R.SAVE_CANCELLED, _R.WAKE_UP, _R.CRASHED, _R.POST_COPY,
        ),
        DomainState.BLOCKED: (_R.UNKNOWN,),
        DomainState.PAUSED: (
            _R.UNKNOWN, _R.USER, _R.MIGRATION, _R.SAVE, _R.DUMP, _R.IO_ERROR, _R.WATCHDOG,
            _R.FROM_SNAPSHOT, _R.SHUTTING_DOWN, _R.SNAPSHOT, _R.CRASHED, _R.STARTING_UP,
            _R.POST_COPY, _R.POST_COPY_FAILED,
        ),
        DomainState.SHUTDOWN: (_R.UNKNOWN, _R.USER),
        DomainState.SHUTOFF: (
            _R.UNKNOWN, _R.SHUTDOWN, _R.DESTROYED, _R.CRASHED, _R.MIGRATED, _R.SAVED, _R.FAILED,
            _R.FROM_SNAPSHOT, _R.DAEMON,
        ),
        DomainState.CRASHED: (_R.UNKNOWN, _R.PANICKED),
        DomainState.PM_SUSPENDED: (_R.UNKNOWN,),
    }
)  # fmt: skip

# States in which a process runs the domain and holds its memory and disks.
ACTIVE_STATES: Final = frozenset(
    {
        DomainState.RUNNING, DomainState.BLOCKED, DomainState.PAUSED, DomainState.SHUTDOWN,
        DomainState.PM_SUSPENDED,
    }
)  # fmt: skip
