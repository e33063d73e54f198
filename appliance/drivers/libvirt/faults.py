"""libvirt's errors as ours, by number, never by text."""

from typing import Final

import libvirt

from appliance.core.errors import (
    Conflict,
    DriverError,
    InsufficientResource,
    KowabungaError,
    NotFound,
    Unavailable,
)
from appliance.core.os_errors import FULL, hint_for

_AWAY: Final = frozenset(
    {
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_OPERATION_TIMEOUT,
        libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    }
)
_LINKS: Final = frozenset({libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE})


def is_away(error: libvirt.libvirtError) -> bool:
    """Tell whether libvirtd, rather than what it was asked to do, is the trouble."""
    return error.get_error_domain() in _LINKS or error.get_error_code() in _AWAY


def translate(error: libvirt.libvirtError) -> KowabungaError:
    code = error.get_error_code()
    detail = error.get_error_message() or str(error)
    if is_away(error):
        return Unavailable(f"libvirt does not answer: {detail}", native=f"libvirt:{code}")
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return NotFound(detail, native=f"libvirt:{code}")
    if code == libvirt.VIR_ERR_OPERATION_INVALID:
        return Conflict(detail, native=f"libvirt:{code}")
    if code == libvirt.VIR_ERR_NO_MEMORY:
        return InsufficientResource(detail, native=f"libvirt:{code}")
    number = error.get_int1()  # of errno
    if code == libvirt.VIR_ERR_SYSTEM_ERROR and number in FULL:
        hint = hint_for(OSError(number, detail))
        return InsufficientResource(detail, hint=hint, native=f"libvirt:{code}")
    return DriverError(f"libvirt refused: {detail}", native=f"libvirt:{code}")
