"""`kowabunga kompute console`: at a terminal, in a script, and when it does not go well."""

import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from websockets.exceptions import InvalidStatus

from tests.e2e.console.conftest import Machine, dial

pytestmark = pytest.mark.timeout(600)
_WAIT_S = 60.0
_LEAVE = b"\x1d"


def command(machine: Machine, *words: str, local: bool = False) -> list[str]:
    """Return a command line that asks over the network, or over the socket of the node."""
    place = machine.server.key_file.parent
    way = (
        ["--socket", str(place / "state/run/api.sock")]
        if local
        else ["--url", machine.server.url, "--api-key-file", str(machine.server.key_file)]
    )
    return [sys.executable, "-m", "appliance", *words, *way]


def run(machine: Machine, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(machine, *words),
        stdin=subprocess.DEVNULL, capture_output=True, timeout=_WAIT_S, check=False,
    )  # fmt: skip


@contextmanager
def piped(
    machine: Machine, *words: str, local: bool = False, stdin: IO[bytes] | int = subprocess.PIPE
) -> Generator[subprocess.Popen[bytes]]:
    """Run a console whose input and output are no terminals."""
    with subprocess.Popen(
        command(machine, "kompute", "console", "web", *words, local=local),
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


class Seat:
    """Somebody before a terminal in which the command runs."""

    def __init__(self, master: int, slave: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self._slave = slave
        self.process = process
        self.seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def until(self, text: bytes) -> None:
        while text not in self.seen:
            ready, _, _ = select.select([self._master], [], [], _WAIT_S)
            assert ready, f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self._master, 65536)

    def modes(self) -> list[object]:
        return list(termios.tcgetattr(self._slave))


@contextmanager
def seat(machine: Machine, *words: str) -> Generator[Seat]:
    master, slave = os.openpty()
    with subprocess.Popen(
        command(machine, *words), stdin=slave, stdout=slave, stderr=subprocess.PIPE
    ) as process:
        try:
            yield Seat(master, slave, process)
        finally:
            process.kill()
            os.close(master)
            os.close(slave)


@pytest.mark.parametrize("noun", ["kompute", "instance"])
def test_at_a_terminal_every_key_goes_through_until_the_escape(machine: Machine, noun: str) -> None:
    name = "web" if noun == "kompute" else machine.instance
    with seat(machine, noun, "console", name) as terminal:
        before = terminal.modes()
        terminal.until(b"comes back.\r\n")
        assert terminal.modes() != before
        terminal.type(b"\x03\x04\x1a~.\r")  # what would end or stop anything else
        terminal.until(b"\x03\x04\x1a~.\r")
        terminal.type(b"last")
        terminal.until(b"last")
        terminal.type(_LEAVE + b"never")
        assert terminal.process.wait(_WAIT_S) == 0
        assert terminal.modes() == before
        assert terminal.process.stderr is not None
        assert b"leave with Ctrl-]" in terminal.process.stderr.read()


def test_a_terminal_is_left_as_it_was_also_by_a_signal(machine: Machine) -> None:
    with seat(machine, "kompute", "console", "web") as terminal:
        before = terminal.modes()
        terminal.until(b"comes back.\r\n")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.process.wait(_WAIT_S) == 130
        assert terminal.modes() == before


@pytest.mark.parametrize("local", [False, True])
def test_a_script_gets_all_that_comes_and_ends_soon_after_its_input(
    machine: Machine, local: bool
) -> None:
    typed = bytes(range(256)) * 2048
    with piped(machine, "--linger", "0.5", local=local) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert b"Simulated console" in process.stdout.readline()
        with ThreadPoolExecutor(1) as writer:
            writing = writer.submit(process.stdin.write, typed)
            assert process.stdout.read(len(typed)) == typed
            writing.result()
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(_WAIT_S) == 0


@pytest.mark.parametrize("content", [b"from a file", b""])
def test_a_file_is_an_input_too_whose_end_is_not_yet_that_of_the_output(
    machine: Machine, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "input"
    file.write_bytes(content)
    with (
        (file if content else Path(os.devnull)).open("rb") as source,
        piped(machine, "--linger", "600", stdin=source) as process,
    ):
        assert process.stdout is not None
        assert b"Simulated console" in process.stdout.readline()
        assert process.stdout.read(len(content)) == content
        assert process.poll() is None
        process.terminate()
        assert process.wait(_WAIT_S) == 130


def test_an_output_that_nobody_reads_ends_it(machine: Machine) -> None:
    with piped(machine) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"hello")
        process.stdin.flush()
        assert process.wait(_WAIT_S) == 0


def test_the_end_of_the_machine_is_told(machine: Machine) -> None:
    try:
        with seat(machine, "kompute", "console", "web") as terminal:
            terminal.until(b"comes back.\r\n")
            machine.power("stop")
            assert terminal.process.wait(_WAIT_S) == 0
            assert terminal.process.stderr is not None
            assert b"the console has ended" in terminal.process.stderr.read()
        refused = run(machine, "kompute", "console", "web")
        assert refused.returncode == 3
        assert b"does not run" in refused.stderr
    finally:
        machine.power("start")


def test_a_line_that_somebody_else_took_is_told(machine: Machine) -> None:
    with seat(machine, "kompute", "console", "web") as terminal:
        terminal.until(b"comes back.\r\n")
        with dial(machine.url()):
            assert terminal.process.wait(_WAIT_S) == 6
        assert terminal.process.stderr is not None
        assert b"somebody else has opened" in terminal.process.stderr.read()


def test_the_screen_is_a_url_that_works_once(machine: Machine) -> None:
    done = run(machine, "instance", "console", machine.instance, "--vnc")
    assert done.returncode == 0, done.stderr
    url = done.stdout.decode().strip()
    with dial(url, "binary") as socket:
        assert socket.recv(_WAIT_S) == b"RFB 003.008\n"
    with pytest.raises(InvalidStatus), dial(url):
        pass


def test_what_does_not_exist_is_told(machine: Machine) -> None:
    done = run(machine, "kompute", "console", "nothing")
    assert done.returncode == 3
    assert b"there is no kompute" in done.stderr
