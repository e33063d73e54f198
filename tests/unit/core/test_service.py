"""A process ends cleanly when asked, and tells systemd what it is told to tell."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.core.errors import Invalid, Unavailable
from appliance.core.service import notify_systemd, run_service


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_service_cleanly(number: signal.Signals) -> None:
    closed = []

    async def service() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), number)  # a second one must not cut the closing short
            await asyncio.sleep(0.05)
            closed.append(True)

    run_service(service())
    assert closed == [True]


def test_an_error_comes_out_as_it_is() -> None:
    async def service() -> None:
        raise Invalid("no")

    with pytest.raises(Invalid, match="no"):
        run_service(service())


def test_trouble_with_a_disk_is_told_as_that_and_not_as_a_fault_of_the_program() -> None:
    async def service() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/state/file")

    with pytest.raises(Unavailable, match="/state/file: No space left") as told:
        run_service(service())
    assert "free some space" in str(told.value.hint)


def test_what_other_calls_are_refused_comes_out_as_it_is() -> None:
    async def service() -> None:
        raise PermissionError(errno.EACCES, "of a socket, which has no file")

    with pytest.raises(PermissionError):
        run_service(service())


def test_an_error_comes_out_of_the_task_groups_around_it() -> None:
    async def service() -> None:
        async with asyncio.TaskGroup(), asyncio.TaskGroup():
            raise Invalid("no")

    with pytest.raises(Invalid, match="no"):
        run_service(service())


def test_a_service_that_cancels_itself_is_no_clean_end() -> None:
    async def service() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_service(service())


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_what_it_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, abstract: bool
) -> None:
    name = f"kowabunga-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        notify_systemd("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_without_a_manager_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify_systemd("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify_systemd("READY=1")


def test_a_child_whose_parent_is_gone_already_ends() -> None:
    code = "from appliance.core.service import die_with_parent; die_with_parent(1); print('lives')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")
