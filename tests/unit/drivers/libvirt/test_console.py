"""Where consoles lie on a host, and what is at the other end of one."""

import socket
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.core.errors import Conflict, DriverError
from appliance.drivers.libvirt.console import (
    LOG_LIMIT_BYTES,
    bound_logs,
    make_directory,
    open_socket,
    remove_files,
)
from appliance.drivers.libvirt.definition import console_log, socket_directory, socket_path
from appliance.model.compute import ConsoleKind

DOMAIN = "d" * 24
BOTH = list(ConsoleKind)


@contextmanager
def listening(path: Path) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


def test_only_the_sockets_are_in_a_directory_of_qemu(tmp_path: Path) -> None:
    directory = tmp_path / "consoles"
    for _ in range(2):
        make_directory(directory, None)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o711
        assert stat.S_IMODE(socket_directory(directory).stat().st_mode) == 0o700
    assert console_log(directory, DOMAIN).parent == directory


@pytest.mark.parametrize("kind", BOTH)
async def test_a_console_is_opened_where_it_was_made(tmp_path: Path, kind: ConsoleKind) -> None:
    make_directory(tmp_path, None)
    with listening(socket_path(tmp_path, DOMAIN, kind)) as listener:
        reader, writer = await open_socket(tmp_path, DOMAIN, kind)
        with listener.accept()[0] as qemu:
            qemu.send(b"hello")
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("kind", BOTH)
async def test_a_link_to_another_socket_is_not_followed(tmp_path: Path, kind: ConsoleKind) -> None:
    make_directory(tmp_path, None)
    other = tmp_path / "api.sock"
    socket_path(tmp_path, DOMAIN, kind).symlink_to(other)
    with listening(other), pytest.raises(DriverError, match="is not the console"):
        await open_socket(tmp_path, DOMAIN, kind)


async def test_what_is_gone_is_told(tmp_path: Path) -> None:
    make_directory(tmp_path, None)
    with pytest.raises(Conflict, match=DOMAIN):
        await open_socket(tmp_path, DOMAIN, ConsoleKind.SERIAL)


def test_all_files_of_a_domain_are_removed_and_no_other(tmp_path: Path) -> None:
    make_directory(tmp_path, None)
    for domain_id in (DOMAIN, "e" * 24):
        for path in (
            *(socket_path(tmp_path, domain_id, kind) for kind in ConsoleKind),
            console_log(tmp_path, domain_id),
            tmp_path / f"{domain_id}.log.0",
        ):
            path.touch()
    remove_files(tmp_path, DOMAIN)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {f"{'e' * 24}.{end}" for end in ("vnc", "serial", "log", "log.0")}


def test_a_large_log_is_cut_and_its_end_is_kept(tmp_path: Path) -> None:
    log, small = console_log(tmp_path, DOMAIN), console_log(tmp_path, "e" * 24)
    small.write_bytes(b"x" * LOG_LIMIT_BYTES)
    for _ in range(2):
        log.write_bytes(b"old" + b"x" * LOG_LIMIT_BYTES)
        bound_logs(tmp_path)
        assert log.read_bytes() == b""
        assert log.with_name(f"{log.name}.0").read_bytes() == b"x" * LOG_LIMIT_BYTES
    assert small.stat().st_size == LOG_LIMIT_BYTES
    remove_files(tmp_path, DOMAIN)
    assert list(tmp_path.iterdir()) == [small]


def test_a_log_whose_end_cannot_be_kept_is_cut_all_the_same(tmp_path: Path) -> None:
    """As on a full disk."""
    log = console_log(tmp_path, DOMAIN)
    log.with_name(f"{log.name}.0").mkdir()
    log.write_bytes(b"x" * (LOG_LIMIT_BYTES + 1))
    bound_logs(tmp_path)
    assert log.read_bytes() == b""
