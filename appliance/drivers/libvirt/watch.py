"""Tells of every change of a domain's state once, also of those that nobody saw happen."""

from appliance.drivers.libvirt.states import state_after
from appliance.model.compute import DomainEvent, DomainListener, ObservedDomain
from appliance.model.domain_state import DomainReason, DomainState


class StateWatch:
    """Knows the last state of each domain of ours, and says what differs from it."""

    def __init__(self) -> None:
        self.listener: DomainListener | None = None
        self._states: dict[str, DomainState | None] = {}
        self._caught_up = False

    def adopt(self, domain_id: str) -> None:
        """Listen to a domain that is new here."""
        self._states.setdefault(domain_id, None)

    def forget(self, domain_id: str) -> None:
        self._states.pop(domain_id, None)

    def catch_up(self, observed: list[ObservedDomain]) -> None:
        """Compare with all that is there, after a time without events."""
        known, self._states = self._states, {}
        for domain in observed:
            self._states[domain.domain_id] = known.get(domain.domain_id)
            if self._caught_up:
                self._enter(domain.domain_id, domain.state, domain.reason)
            self._states[domain.domain_id] = domain.state
        self._caught_up = True

    def on_lifecycle(self, name: str, event: int, detail: int) -> None:
        after = state_after(event, detail)
        if after is not None and name in self._states:
            self._enter(name, *after)

    def _enter(self, domain_id: str, state: DomainState, reason: DomainReason) -> None:
        if self._states[domain_id] is state:  # libvirt tells of a start twice
            return
        self._states[domain_id] = state
        if self.listener is not None:
            self.listener(DomainEvent(domain_id=domain_id, state=state, reason=reason))
