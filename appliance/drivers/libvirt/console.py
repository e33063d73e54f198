"""Consoles of domains: UNIX sockets that QEMU makes, and logs, in a directory of ours.

What touches the files blocks, and runs in one thread.
"""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from appliance.core.errors import Conflict, DriverError, Invalid, Unavailable
from appliance.drivers.libvirt.definition import (
    MIB,
    console_log,
    socket_directory,
    socket_path,
)
from appliance.model.compute import ConsoleKind

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
# More than virtlogd lets a log become (2 MiB), so that it has turned it over before.
LOG_LIMIT_BYTES: Final = 4 * MIB
_SOCKET_PATH_LIMIT: Final = 107  # sun_path without its NUL (unix(7))
_LONGEST_NAME: Final = len(str(socket_path(Path("/"), "0" * 24, ConsoleKind.SERIAL)))


def check_directory(directory: Path) -> None:
    """Raises Invalid."""
    if not directory.is_absolute() or len(str(directory)) + _LONGEST_NAME > _SOCKET_PATH_LIMIT:
        raise Invalid(
            f"{directory} is too long a path for the sockets of consoles, or not absolute",
            field="directory",
        )


def make_directory(directory: Path, owner: tuple[int, int] | None) -> None:
    """Make the directory of logs, and in it that of sockets.

    QEMU's user has the one for sockets (who gets in has every console), and nothing else: a guest
    that broke out of QEMU could lead whoever opens its log as root to any other file.
    """
    sockets = socket_directory(directory)
    for made, mode in ((directory, 0o711), (sockets, 0o700)):
        made.mkdir(mode=mode, parents=True, exist_ok=True)
        made.chmod(mode)
    if owner is not None:
        os.chown(sockets, *owner)


def remove_files(directory: Path, domain_id: str) -> None:
    """Remove sockets and logs of a domain, those that were rotated too."""
    for kind in ConsoleKind:
        socket_path(directory, domain_id, kind).unlink(missing_ok=True)
    log = console_log(directory, domain_id)
    for file in directory.glob(f"{log.name}*"):
        file.unlink(missing_ok=True)


def bound_logs(directory: Path) -> None:
    """Cut logs that have grown too large, and keep the end of each beside it.

    Where libvirt has no virtlogd, nobody else does, and a guest could fill the disk by printing.
    QEMU appends (O_APPEND), so it goes on at the new end.
    """
    for log in directory.glob("*.log"):
        with suppress(FileNotFoundError):  # its domain has gone
            size = log.stat().st_size
            if size > LOG_LIMIT_BYTES:
                _log.info("console_log_cut", file=log.name, size=size)
                _cut(log)


def _cut(log: Path) -> None:
    with log.open("r+b") as file:
        try:
            file.seek(-LOG_LIMIT_BYTES, os.SEEK_END)
            log.with_name(f"{log.name}.0").write_bytes(file.read(LOG_LIMIT_BYTES))
        except OSError as error:  # a full disk is one more reason to go on
            _log.warning("console_log_not_kept", file=log.name, error=str(error))
        finally:
            file.truncate(0)


async def open_socket(
    directory: Path, domain_id: str, kind: ConsoleKind
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a console of a running domain.

    Raises:
        Conflict: nothing listens there any more.
        Unavailable: QEMU does not answer.
        DriverError: something else is in its place.
    """
    path = socket_path(directory, domain_id, kind)
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise Conflict(f"domain {domain_id} has no {kind} console now", id=domain_id) from error
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"the {kind} console of domain {domain_id} does not answer") from error
    # QEMU's user may put a link there, to a socket that trusts root, as whom we speak. The kernel
    # knows under which name a socket was made.
    if writer.get_extra_info("peername") != str(path):
        writer.transport.abort()
        raise DriverError(f"what is at {path} is not the console that was made there")
    return reader, writer
