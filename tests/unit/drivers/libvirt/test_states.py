"""libvirt's numbers for states are those of its header, and no event names a reason too many."""

import libvirt
import pytest

from appliance.drivers.libvirt.states import state_after, state_of
from appliance.drivers.libvirt.watch import StateWatch
from appliance.model.compute import DomainEvent, ObservedDomain
from appliance.model.domain_state import STATE_REASONS, DomainReason, DomainState

ID = "0" * 24


def number(name: str) -> int:
    value = vars(libvirt)[f"VIR_DOMAIN_{name}"]
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize(
    ("state", "reason", "texts"),
    [
        ("RUNNING", "RUNNING_BOOTED", ("Running", "Booted")),
        ("RUNNING", "RUNNING_POSTCOPY", ("Running", "Post Copy")),
        ("BLOCKED", "BLOCKED_UNKNOWN", ("Blocked", "Unknown")),
        ("PAUSED", "PAUSED_IOERROR", ("Paused", "I/O Error")),
        ("PAUSED", "PAUSED_POSTCOPY_FAILED", ("Paused", "Post Copy Failed")),
        ("SHUTDOWN", "SHUTDOWN_USER", ("Shutdown", "User")),
        ("SHUTOFF", "SHUTOFF_CRASHED", ("Shutoff", "Crashed")),
        ("SHUTOFF", "SHUTOFF_DAEMON", ("Shutoff", "Daemon")),
        ("CRASHED", "CRASHED_PANICKED", ("Crashed", "Panicked")),
        ("PMSUSPENDED", "PMSUSPENDED_UNKNOWN", ("PM Suspended", "Unknown")),
    ],
)
def test_states_and_reasons_have_libvirts_numbers(
    state: str, reason: str, texts: tuple[str, str]
) -> None:
    assert state_of(number(state), number(reason)) == texts


def test_numbers_of_a_newer_libvirt_are_unknown() -> None:
    assert state_of(1, 99) == ("Running", "Unknown")
    assert state_of(99, 0) == ("No State", "Unknown")
    assert state_after(99, 0) is None


@pytest.mark.parametrize(
    ("event", "detail", "texts"),
    [
        ("STARTED", "STARTED_WAKEUP", ("Running", "Wake Up")),
        ("SUSPENDED", "SUSPENDED_IOERROR", ("Paused", "I/O Error")),
        ("SUSPENDED", "SUSPENDED_POSTCOPY_FAILED", ("Paused", "Post Copy Failed")),
        ("RESUMED", "RESUMED_UNPAUSED", ("Running", "Unpaused")),
        ("STOPPED", "STOPPED_FAILED", ("Shutoff", "Failed")),
        ("STOPPED", "STOPPED_FROM_SNAPSHOT", ("Shutoff", "From Snapshot")),
        ("PMSUSPENDED", "PMSUSPENDED_MEMORY", ("PM Suspended", "Unknown")),
        ("CRASHED", "CRASHED_PANICKED", ("Crashed", "Panicked")),
    ],
)
def test_events_lead_to_states(event: str, detail: str, texts: tuple[str, str]) -> None:
    after = state_after(number(f"EVENT_{event}"), number(f"EVENT_{detail}"))
    assert after == texts


@pytest.mark.parametrize("event", range(20))
def test_every_event_has_a_reason_that_its_state_can_have(event: int) -> None:
    for detail in range(20):
        after = state_after(event, detail)
        assert after is None or after[1] in STATE_REASONS[after[0]]


class TestWatch:
    def watch(self) -> tuple[StateWatch, list[DomainEvent]]:
        events: list[DomainEvent] = []
        watch = StateWatch()
        watch.listener = events.append
        return watch, events

    def seen(self, state: DomainState) -> ObservedDomain:
        reason = DomainReason.UNKNOWN
        return ObservedDomain(domain_id=ID, name="x", state=state, reason=reason, generation=1)

    def test_a_state_is_told_once(self) -> None:
        watch, events = self.watch()
        watch.adopt(ID)
        watch.on_lifecycle(ID, number("EVENT_RESUMED"), 0)
        watch.on_lifecycle(ID, number("EVENT_STARTED"), 0)
        watch.on_lifecycle(ID, number("EVENT_STOPPED"), 1)
        assert [event.state for event in events] == ["Running", "Shutoff"]

    def test_domains_of_others_are_not_told_of(self) -> None:
        watch, events = self.watch()
        watch.on_lifecycle("their domain", number("EVENT_STARTED"), 0)
        watch.adopt(ID)
        watch.forget(ID)
        watch.on_lifecycle(ID, number("EVENT_STARTED"), 0)
        assert events == []

    def test_the_first_look_tells_nothing_and_a_later_one_what_changed(self) -> None:
        watch, events = self.watch()
        watch.catch_up([self.seen(DomainState.RUNNING)])
        watch.catch_up([self.seen(DomainState.RUNNING)])
        assert events == []
        watch.catch_up([self.seen(DomainState.SHUTOFF)])
        assert [event.state for event in events] == ["Shutoff"]
