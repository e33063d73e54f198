"""What was brought to the disk: for which files and directories fsync(2) was called."""

import os
from pathlib import Path

import pytest


def watch_syncs(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Return a set that grows with each call, whoever makes it in Python."""
    synced = set[Path]()
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.add(Path(f"/proc/self/fd/{handle}").readlink())
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return synced
