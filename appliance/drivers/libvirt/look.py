"""Reads domains from libvirt. Blocking: runs in the connection's threads."""

import xml.etree.ElementTree as ET
from typing import Final

import libvirt
import msgspec

from appliance.core.errors import NotFound
from appliance.drivers.libvirt.definition import Existing, read_existing
from appliance.drivers.libvirt.record import (
    RECORD_URI,
    UnreadableRecord,
    complain,
    domain_uuid,
    parse,
    parse_record,
    parse_wiring,
)
from appliance.drivers.libvirt.states import state_of
from appliance.model.compute import DomainSpec, DomainStatistics, InterfaceSpec, ObservedDomain
from appliance.model.domain_state import ACTIVE_STATES, DomainReason, DomainState

_ACTIVE: Final = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
# A domain that is busy with something else must not keep the others' figures back.
_NOWAIT: Final = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """A domain of ours at one moment."""

    domain: libvirt.virDomain
    defined: Existing
    running: Existing | None
    state: DomainState
    reason: DomainReason

    def observe(self) -> ObservedDomain:
        running = None if self.running is None else self.running.spec
        return _observe(self.defined.spec, running, self.state, self.reason)


def find_handle(connection: libvirt.virConnect, domain_id: str) -> libvirt.virDomain | None:
    try:
        return connection.lookupByUUIDString(domain_uuid(domain_id))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def get_handle(connection: libvirt.virConnect, domain_id: str) -> libvirt.virDomain:
    """Raises NotFound."""
    domain = find_handle(connection, domain_id)
    if domain is None:
        raise NotFound(f"domain {domain_id} does not exist", id=domain_id)
    return domain


def find_look(
    connection: libvirt.virConnect, domain_id: str, *, desired: DomainSpec | None = None
) -> Look | None:
    """Raises UnreadableRecord, unless what is `desired` can make up for it."""
    domain = find_handle(connection, domain_id)
    if domain is None:
        return None
    defined = read_existing(parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)), desired)
    if defined is None:
        return None
    state, reason = read_state(domain)
    running = read_existing(parse(domain.XMLDesc()), desired) if state in ACTIVE_STATES else None
    return Look(domain=domain, defined=defined, running=running, state=state, reason=reason)


def get_look(connection: libvirt.virConnect, domain_id: str) -> Look:
    """Raises NotFound."""
    look = find_look(connection, domain_id)
    if look is None:
        raise NotFound(f"domain {domain_id} does not exist", id=domain_id)
    return look


def read_state(domain: libvirt.virDomain) -> tuple[DomainState, DomainReason]:
    state, reason = domain.state()
    return state_of(state, reason)


def observe_domain(connection: libvirt.virConnect, domain_id: str) -> ObservedDomain:
    """Raises NotFound."""
    return get_look(connection, domain_id).observe()


def list_observed(connection: libvirt.virConnect) -> list[ObservedDomain]:
    return [
        _observe(defined, running, state, reason)
        for defined, running, state, reason in _list_records(connection)
    ]


def list_cards(connection: libvirt.virConnect) -> dict[str, tuple[InterfaceSpec, ...]]:
    """Return the cards of each domain of ours by its id, those of what runs first.

    A record of which nothing but the cards is readable is enough.
    """
    found = dict[str, tuple[InterfaceSpec, ...]]()
    for domain, _ in connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, _NOWAIT):
        for which in (libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG):
            record = _find_element(domain, which)
            wiring = None if record is None else parse_wiring(record)
            if wiring is not None:
                found[wiring.domain_id] = (*found.get(wiring.domain_id, ()), *wiring.interfaces)
    return found


def list_statistics(connection: libvirt.virConnect) -> list[DomainStatistics]:
    groups = (
        libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
        | libvirt.VIR_DOMAIN_STATS_BALLOON
        | libvirt.VIR_DOMAIN_STATS_VCPU
        | libvirt.VIR_DOMAIN_STATS_INTERFACE
        | libvirt.VIR_DOMAIN_STATS_BLOCK
    )
    counted = [
        _count(spec, counters)
        for domain, counters in connection.getAllDomainStats(groups, _ACTIVE | _NOWAIT)
        if (spec := _find_record(domain, libvirt.VIR_DOMAIN_AFFECT_LIVE)) is not None
    ]
    return sorted(counted, key=lambda statistics: statistics.domain_id)


def find_holder(connection: libvirt.virConnect, image_ids: set[str], domain_id: str) -> str | None:
    """Return the id of another active domain that has one of the images open."""
    for _, running, _, _ in _list_records(connection):
        if running is None or running.domain_id == domain_id:
            continue
        if image_ids & {disk.image_id for disk in running.disks}:
            return running.domain_id
    return None


def _list_records(
    connection: libvirt.virConnect,
) -> list[tuple[DomainSpec, DomainSpec | None, DomainState, DomainReason]]:
    """Return of each domain of ours what is defined, what runs, state and reason; by id."""
    found = list[tuple[DomainSpec, DomainSpec | None, DomainState, DomainReason]]()
    for domain, told in connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, _NOWAIT):
        state, reason = state_of(int(told["state.state"]), int(told["state.reason"]))
        defined = _find_record(domain, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        if defined is None:
            continue
        running = (
            _find_record(domain, libvirt.VIR_DOMAIN_AFFECT_LIVE) if state in ACTIVE_STATES else None
        )
        found.append((defined, running, state, reason))
    return sorted(found, key=lambda record: record[0].domain_id)


def _find_record(domain: libvirt.virDomain, which: int) -> DomainSpec | None:
    """Return what a domain was made from; None also for a record that is not readable."""
    record = _find_element(domain, which)
    try:
        return None if record is None else parse_record(record, domain.name())
    except UnreadableRecord as unreadable:  # the others count
        complain(domain.name(), str(unreadable))
        return None


def _find_element(domain: libvirt.virDomain, which: int) -> ET.Element | None:
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, RECORD_URI, which)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (
            libvirt.VIR_ERR_NO_DOMAIN_METADATA,  # not ours
            libvirt.VIR_ERR_NO_DOMAIN,  # gone since
            libvirt.VIR_ERR_OPERATION_INVALID,  # ended since
        ):
            return None
        raise
    return parse(text)


def _observe(
    defined: DomainSpec, running: DomainSpec | None, state: DomainState, reason: DomainReason
) -> ObservedDomain:
    return ObservedDomain(
        domain_id=defined.domain_id,
        name=defined.name,
        state=state,
        reason=reason,
        generation=defined.generation,
        running_generation=None if running is None else running.generation,
    )


def _count(spec: DomainSpec, counters: dict[str, int | str | bool]) -> DomainStatistics:
    def total(group: str, counter: str) -> int:
        number = int(counters.get(f"{group}.count", 0))
        return sum(int(counters.get(f"{group}.{i}.{counter}", 0)) for i in range(number))

    # Without control groups only the processors' own times are known.
    vcpus = int(counters.get("vcpu.maximum", 0))
    by_vcpu = sum(int(counters.get(f"vcpu.{i}.time", 0)) for i in range(vcpus))
    return DomainStatistics(
        domain_id=spec.domain_id,
        cpu_time_ns=int(counters.get("cpu.time", by_vcpu)),
        memory_bytes=int(counters.get("balloon.current", spec.memory_bytes // 1024)) * 1024,
        disk_read_bytes=total("block", "rd.bytes"),
        disk_written_bytes=total("block", "wr.bytes"),
        network_received_bytes=total("net", "rx.bytes"),
        network_sent_bytes=total("net", "tx.bytes"),
    )
