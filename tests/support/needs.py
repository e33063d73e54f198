"""Tools that a test needs: skipped without them on a laptop, failed in CI."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def need(tool: str) -> Path:
    """Return the path of a command of this machine."""
    found = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        lack(f"{tool} is not installed")
    return Path(found)


def need_root() -> None:
    if os.geteuid() != 0:
        lack("this test needs root")


def need_cloud_kernel() -> Path:
    """Return Debian's kernel for virtual machines, the newest that is here."""
    found = sorted(Path("/boot").glob("vmlinuz-*-cloud-*"), key=lambda path: path.stat().st_mtime)
    if not found:
        lack("linux-image-cloud-amd64 is not installed")
    return found[-1]


def lack(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI may skip nothing", pytrace=False)
    pytest.skip(reason)
