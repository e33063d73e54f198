"""Consoles of domains: UNIX sockets that QEMU makes, in a directory of ours."""

import asyncio
import os
from pathlib import Path
from typing import Final

from appliance.core.errors import Conflict, Invalid, Unavailable
from appliance.drivers.libvirt.definition import console_log, socket_path
from appliance.model.compute import ConsoleKind

_SOCKET_PATH_LIMIT: Final = 107  # sun_path without its NUL (unix(7))
_LONGEST_NAME: Final = len(f"/{'0' * 24}.{ConsoleKind.SERIAL}")


def check_directory(directory: Path) -> None:
    """Raises Invalid."""
    if not directory.is_absolute() or len(str(directory)) + _LONGEST_NAME > _SOCKET_PATH_LIMIT:
        raise Invalid(
            f"{directory} is too long a path for the sockets of consoles, or not absolute",
            field="directory",
        )


def make_directory(directory: Path, owner: tuple[int, int] | None) -> None:
    """Make the directory, for QEMU's user alone (and root): who gets in has every console."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if owner is not None:
        os.chown(directory, *owner)
    directory.chmod(0o700)


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
    """
    path = socket_path(directory, domain_id, kind)
    try:
        async with asyncio.timeout(10):
            return await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise Conflict(f"domain {domain_id} has no {kind} console now", id=domain_id) from error
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"the {kind} console of domain {domain_id} does not answer") from error
