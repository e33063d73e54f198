"""Consoles of domains: UNIX sockets that QEMU makes, in a directory of ours."""

import asyncio
import os
from pathlib import Path
from typing import Final

from appliance.core.errors import Conflict, DriverError, Invalid, Unavailable
from appliance.drivers.libvirt.definition import console_log, socket_directory, socket_path
from appliance.model.compute import ConsoleKind

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
