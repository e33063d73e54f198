"""Starts, stops and pauses domains. Blocking: runs in the connection's threads."""

from collections.abc import Callable
from functools import partial

import libvirt

from appliance.core.errors import Conflict, DriverError
from appliance.drivers.libvirt.look import Look, find_handle, get_look, read_state
from appliance.drivers.libvirt.tpm import end_emulators
from appliance.model.compute import ObservedDomain
from appliance.model.domain_state import ACTIVE_STATES, DomainReason, DomainState


def ensure_running(connection: libvirt.virConnect, domain_id: str) -> ObservedDomain:
    """Raises NotFound."""
    look = get_look(connection, domain_id)
    match look.state:
        case DomainState.RUNNING | DomainState.BLOCKED:
            return look.observe()
        case DomainState.PAUSED:
            look.domain.resume()
        case DomainState.PM_SUSPENDED:
            look.domain.pMWakeup()
        case DomainState.SHUTDOWN:  # its process is about to end: it is off, and starts again
            destroy(look.domain)
            _start(look, libvirt.VIR_DOMAIN_NONE)
        case _:
            _start(look, libvirt.VIR_DOMAIN_NONE)
    return get_look(connection, domain_id).observe()


def ensure_paused(connection: libvirt.virConnect, domain_id: str) -> ObservedDomain:
    """Raises NotFound."""
    look = get_look(connection, domain_id)
    match look.state:
        case DomainState.PAUSED:
            return look.observe()
        case DomainState.RUNNING | DomainState.BLOCKED | DomainState.PM_SUSPENDED:
            look.domain.suspend()
        case _:
            _start(look, libvirt.VIR_DOMAIN_START_PAUSED)
    return get_look(connection, domain_id).observe()


def ensure_off(connection: libvirt.virConnect, domain_id: str) -> ObservedDomain:
    """Raises NotFound."""
    look = get_look(connection, domain_id)
    if look.state is DomainState.SHUTOFF:
        return look.observe()
    destroy(look.domain)
    return get_look(connection, domain_id).observe()


def press_power_button(connection: libvirt.virConnect, domain_id: str) -> ObservedDomain:
    """Ask the guest by ACPI; without effect when it is off.

    Not by its agent: libvirt would wait up to 60 s, with one of our threads, for the guest to end.

    Raises NotFound.
    """
    look = get_look(connection, domain_id)
    if look.state is DomainState.RUNNING:
        unless_ended(partial(look.domain.shutdownFlags, libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN))
        return get_look(connection, domain_id).observe()
    return look.observe()


def reboot(connection: libvirt.virConnect, domain_id: str) -> ObservedDomain:
    """Ask the guest as `press_power_button` does; QEMU starts it again when it is off.

    Raises NotFound or Conflict.
    """
    look = get_look(connection, domain_id)
    if look.state is not DomainState.RUNNING:
        raise Conflict(f"domain {domain_id} does not run", id=domain_id)
    look.domain.reboot(libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)
    return get_look(connection, domain_id).observe()


def reset(connection: libvirt.virConnect, domain_id: str) -> ObservedDomain:
    """Raises NotFound or Conflict."""
    look = get_look(connection, domain_id)
    if look.state not in ACTIVE_STATES:
        raise Conflict(f"domain {domain_id} does not run", id=domain_id)
    look.domain.reset()
    return get_look(connection, domain_id).observe()


def remove(connection: libvirt.virConnect, domain_id: str) -> None:
    """Stop the domain hard and let libvirt forget all that it keeps about it."""
    domain = find_handle(connection, domain_id)
    if domain is not None and domain.isActive():
        destroy(domain)
    end_emulators(domain_id)
    if domain is None:
        return
    flags = (
        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        | libvirt.VIR_DOMAIN_UNDEFINE_TPM
    )
    try:
        domain.undefineFlags(flags)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def destroy(domain: libvirt.virDomain) -> None:
    """Raises DriverError: libvirtd can never let go of it."""
    try:
        unless_ended(domain.destroy)
    except libvirt.libvirtError as error:
        # Only a start in progress looks so, and that ends with its QEMU, which was killed above:
        # the libvirtd that began it is no more, and had no QEMU yet (seen with libvirt 9.0).
        is_starting = read_state(domain) == (DomainState.PAUSED, DomainReason.STARTING_UP)
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_TIMEOUT or not is_starting:
            raise
        raise DriverError(
            f"libvirtd died while it started domain {domain.name()}, and cannot let go of it",
            hint=f"remove /run/libvirt/qemu/{domain.name()}.xml and restart libvirtd:"
            " the other machines go on",
            id=domain.name(),
        ) from error


def unless_ended(act: Callable[[], object]) -> None:
    """Act on a domain that may have ended by itself meanwhile."""
    try:
        act()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise


def _start(look: Look, flags: int) -> None:
    if look.state is DomainState.CRASHED:  # kept for a look at what is left of it
        destroy(look.domain)
    if look.defined.has_tpm:
        end_emulators(look.defined.spec.domain_id)
    look.domain.createWithFlags(flags)
