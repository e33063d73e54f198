"""Changes a domain while it runs, as far as QEMU and its guest play along."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Final

import libvirt
import msgspec
import structlog

from appliance.core.clock import Clock
from appliance.core.errors import Conflict, DriverError
from appliance.drivers.libvirt.connection import Calls
from appliance.drivers.libvirt.definition import (
    Existing,
    Layout,
    Parts,
    find_cards,
    find_disks,
    render_card,
    render_disk,
    render_medium,
)
from appliance.drivers.libvirt.faults import is_away
from appliance.drivers.libvirt.look import find_holder, get_handle
from appliance.drivers.libvirt.places import room
from appliance.drivers.libvirt.record import (
    RECORD_KEY,
    RECORD_URI,
    clean_line,
    clean_text,
    parse,
    render_record,
    serialise,
)
from appliance.model.compute import Architecture, DomainSpec, until_start

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
DeviceFinder = Callable[[ET.Element], dict[str, ET.Element]]
_LIVE: Final = libvirt.VIR_DOMAIN_AFFECT_LIVE
_UNPLUG_LIMIT_S: Final = 5.0  # for the guest to let go, on top of libvirt's own 5 s
_UNPLUG_POLL_S: Final = 0.25


class LiveChange:
    """Leads what runs to `desired`.

    Args:
        layout: of the new definition.
    """

    def __init__(
        self,
        calls: Calls,
        desired: DomainSpec,
        *,
        layout: Layout,
        parts: Parts,
        clock: Clock,
    ) -> None:
        self._calls = calls
        self._desired = desired
        self._layout = layout
        self._parts = parts
        self._clock = clock

    async def apply(self, running: Existing) -> tuple[DomainSpec, tuple[str, ...]]:
        """Change what can change; return what runs then, and the fields that await a restart.

        Raises:
            Conflict: a disk is open in another domain.
        """
        desired, before = self._desired, running.spec
        stuck = {
            "vcpus": not await self._change_vcpus(running),
            # A balloon is no way to grow: until its driver runs, a guest would have all of it.
            "memory_bytes": desired.memory_bytes != before.memory_bytes,
            "os": desired.os is not before.os,
            "disks": not await self._change_disks(running),
            "interfaces": not await self._change_cards(running),
        }
        if desired.seed != before.seed:
            await self._change_medium()
        restart_for = tuple(name for name, is_stuck in stuck.items() if is_stuck)
        after = until_start(desired, before)
        if restart_for:
            after = msgspec.structs.replace(
                after,
                generation=before.generation,
                **{name: getattr(before, name) for name in restart_for},
            )
        if after != before:
            await self._calls.call_long(_write_texts, after)
        return after, restart_for

    async def _change_vcpus(self, running: Existing) -> bool:
        desired, before = self._desired, running.spec
        if desired.vcpus == before.vcpus:
            return True
        if self._parts.platform.architecture is not Architecture.X86_64:
            return False
        if not before.vcpus < desired.vcpus <= running.max_vcpus:
            return False
        try:
            await self._calls.call_long(_plug_vcpus, desired.domain_id, desired.vcpus)
        except DriverError as error:
            _log.warning("domain_vcpus_not_plugged", domain=desired.domain_id, error=str(error))
            return False
        return True

    async def _change_disks(self, running: Existing) -> bool:
        """Plug and unplug disks; nobody can move one that stays."""
        there, wanted = running.layout.disks, self._layout.disks
        places, _ = room(running.banks)
        stay = all(wanted.get(name, place) == place for name, place in there.items())
        first = min(there, key=there.__getitem__)
        if not stay or self._desired.disks[0].image_id != first or max(wanted.values()) >= places:
            return False
        new = {name: place for name, place in wanted.items() if name not in there}
        elements = [
            render_disk(name, self._parts.images[name], place, first=False)
            for name, place in new.items()
        ]
        try:
            await self._calls.call_long(_attach, self._desired.domain_id, elements)
        except DriverError as refused:
            await blame_holder(self._calls, set(new), self._desired.domain_id, refused)
            raise _not_plugged(refused) from refused
        return await self._unplug(find_disks, set(there) - set(wanted))

    async def _change_cards(self, running: Existing) -> bool:
        """Plug, unplug and move cards; one that is to change its place does so at a restart."""
        domain_id = self._desired.domain_id
        there = running.layout.cards
        _, places = room(running.banks)
        free = [place for place in range(places) if place not in there.values()]
        bridges = {card.mac: card.bridge for card in running.spec.interfaces}
        new = [card for card in self._desired.interfaces if card.mac not in there]
        if len(new) > len(free):
            return False
        plugged = list[ET.Element]()
        for card in new:
            place = self._layout.cards[card.mac]
            free.remove(place if place in free else (place := free[0]))
            plugged.append(render_card(card, place))
        moved = [
            render_card(card, there[card.mac])
            for card in self._desired.interfaces
            if card.mac in there and bridges.get(card.mac) != card.bridge
        ]
        try:
            await self._calls.call_long(_attach, domain_id, plugged)
        except DriverError as refused:
            raise _not_plugged(refused) from refused
        await self._calls.call_long(_update, domain_id, moved, 0)
        gone = set(there) - {card.mac for card in self._desired.interfaces}
        return await self._unplug(find_cards, gone)

    async def _change_medium(self) -> None:
        seed = self._desired.seed
        location = None if seed is None else self._parts.images[seed.image_id]
        medium = render_medium(location, self._parts.platform, self._desired.os)
        await self._calls.call_long(
            _update, self._desired.domain_id, [medium], libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
        )

    async def _unplug(self, find: DeviceFinder, names: set[str]) -> bool:
        """Ask the guest to let go of devices; tell whether it has."""
        if not names:
            return True
        domain_id = self._desired.domain_id
        await self._calls.call_long(_detach, domain_id, find, names)
        deadline = self._clock.monotonic() + _UNPLUG_LIMIT_S
        while await self._calls.call(_remain, domain_id, find, names):
            if self._clock.monotonic() > deadline:
                _log.warning("guest_keeps_devices", domain=domain_id, devices=sorted(names))
                return False
            await self._clock.sleep(_UNPLUG_POLL_S)
        return True


async def blame_holder(
    calls: Calls, image_ids: set[str], domain_id: str, refused: DriverError
) -> None:
    """Raise Conflict if QEMU refused because another domain has one of the images open."""
    holder = await calls.call(find_holder, image_ids, domain_id)
    if holder is not None:
        detail = f"a disk of domain {domain_id} is open in domain {holder}"
        raise Conflict(detail, id=domain_id) from refused


def _not_plugged(refused: DriverError) -> DriverError:
    """Say what helps: a libvirtd that died while plugging left half a device, unknown to the next.

    No restart by ourselves: what QEMU refuses may also keep the guest from starting.
    """
    hint = "if it stays so, stop and start the machine: it gets the device then"
    return DriverError(refused.detail, hint=hint, **refused.context)


def _plug_vcpus(connection: libvirt.virConnect, domain_id: str, vcpus: int) -> None:
    domain = get_handle(connection, domain_id)
    domain.setVcpusFlags(vcpus, _LIVE)
    try:
        # Some guests take a new processor into use by themselves, the others if their agent does.
        domain.setVcpusFlags(vcpus, libvirt.VIR_DOMAIN_VCPU_GUEST)
    except libvirt.libvirtError as error:
        _log.info("guest_agent_silent", domain=domain_id, error=error.get_error_message())


def _attach(connection: libvirt.virConnect, domain_id: str, devices: list[ET.Element]) -> None:
    domain = get_handle(connection, domain_id)
    for device in devices:
        domain.attachDeviceFlags(serialise(device), _LIVE)


def _update(
    connection: libvirt.virConnect, domain_id: str, devices: list[ET.Element], flags: int
) -> None:
    domain = get_handle(connection, domain_id)
    for device in devices:
        domain.updateDeviceFlags(serialise(device), _LIVE | flags)


def _detach(
    connection: libvirt.virConnect, domain_id: str, find: DeviceFinder, names: set[str]
) -> None:
    domain = get_handle(connection, domain_id)
    for name, device in find(parse(domain.XMLDesc())).items():
        if name not in names:
            continue
        try:
            domain.detachDeviceFlags(serialise(device), _LIVE)
        except libvirt.libvirtError as error:
            if is_away(error):
                raise
            # Asked already, or a guest that has no drivers yet: what remains is what counts.
            _log.info("device_not_detached", domain=domain_id, error=error.get_error_message())


def _remain(
    connection: libvirt.virConnect, domain_id: str, find: DeviceFinder, names: set[str]
) -> bool:
    there = find(parse(get_handle(connection, domain_id).XMLDesc()))
    return not names.isdisjoint(there)


def _write_texts(connection: libvirt.virConnect, spec: DomainSpec) -> None:
    domain = get_handle(connection, spec.domain_id)
    for kind, text in (
        (libvirt.VIR_DOMAIN_METADATA_TITLE, clean_line(spec.name)),
        (libvirt.VIR_DOMAIN_METADATA_DESCRIPTION, clean_text(spec.description)),
    ):
        domain.setMetadata(kind, text or None, None, None, _LIVE)
    domain.setMetadata(
        libvirt.VIR_DOMAIN_METADATA_ELEMENT,
        serialise(render_record(spec, bare=True)),
        RECORD_KEY,
        RECORD_URI,
        _LIVE,
    )
