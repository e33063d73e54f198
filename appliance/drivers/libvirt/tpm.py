"""TPM emulators, and their states, that no libvirtd knows of. Blocking.

libvirt starts swtpm before QEMU. A libvirtd that dies in between leaves one behind: the next one
starts another beside it, on the same state, or cannot.
"""

import os
import select
import shutil
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from appliance.drivers.libvirt.record import domain_uuid

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_EMULATOR: Final = "swtpm"
_MANUFACTURER: Final = "swtpm_setup"  # makes a new TPM, with an emulator of its own
_END_LIMIT_S: Final = 20.0
STATES: Final = Path("/var/lib/libvirt/swtpm")


def end_emulators(domain_id: str) -> None:
    """End what is left of the TPM of a domain that does not run."""
    _visit(_MANUFACTURER, domain_id, None)  # half a TPM would stay one
    _visit(_EMULATOR, domain_id, signal.SIGKILL)


def remove_state(directory: Path, domain_id: str) -> None:
    """Remove the TPM of a domain that is gone: libvirt does so itself, but last of all."""
    with suppress(FileNotFoundError):
        shutil.rmtree(directory / domain_uuid(domain_id))


def _visit(name: str, domain_id: str, kill: signal.Signals | None) -> None:
    # libvirt names the directory of its state after the domain.
    mark = domain_uuid(domain_id).encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError), _opened(int(process.name)) as pidfd:
            is_it = (process / "comm").read_text() == f"{name}\n"
            if is_it and mark in (process / "cmdline").read_bytes():
                _log.warning("tpm_emulator_left", domain=domain_id, process=process.name)
                if kill is not None:
                    signal.pidfd_send_signal(pidfd, kill)
                select.select([pidfd], [], [], _END_LIMIT_S)


@contextmanager
def _opened(pid: int) -> Generator[int]:
    """A process by a handle that cannot become another's."""
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)
