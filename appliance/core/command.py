"""The only place that starts processes: an argv list, never a shell; a small clean environment.

`run` is for a command that ends, `start` for a child that lives as long as its supervisor wants.
Each gets a session of its own, so that it goes with everything that it started.
"""

import asyncio
import os
import shlex
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from appliance.core.errors import DeadlineExceeded, DriverError

OUTPUT_LIMIT_BYTES: Final = 4 * 2**20
_CLEAN: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
_CLOSE_S: Final = 1.0
_TOLD_CHARACTERS: Final = 400
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    status: int
    stdout: bytes
    stderr: bytes


async def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    check: bool = True,
    output_limit_bytes: int = OUTPUT_LIMIT_BYTES,
) -> Finished:
    """Run a command to its end; whatever ends the wait, nothing of it is left running.

    The environment is PATH, LANG and what is given. Arguments show in the process list: never a
    secret, which goes through `stdin`.

    Raises:
        DriverError: it cannot be started, ended badly (unless `check` is off), or said too much.
        DeadlineExceeded: it ran longer than `timeout_s` and was killed.
    """
    name = shlex.join(os.fspath(part) for part in argv)
    _log.debug("command", argv=name)
    with _as_file(stdin) as file:
        process = await _start(argv, environment, stdin=file, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await _converse(process, output_limit_bytes, name)
    except TimeoutError as late:
        raise DeadlineExceeded(f"{name}: did not end within {timeout_s} s") from late
    finally:
        # Also what it left behind in its group, which would otherwise outlive it.
        await kill(process)
    done = Finished(process.returncode or 0, out, err)
    if check and done.status != 0:
        raise DriverError(f"{name}: {explain(done.status)}{_last_words(done)}", status=done.status)
    return done


async def start(
    argv: Sequence[str | Path], *, environment: Mapping[str, str] | None = None
) -> Process:
    """Start a child with pipes for standard input and output; errors pass through to ours.

    The caller ends it with `kill` or `terminate`, and reads what it writes.

    Raises:
        DriverError: it cannot be started.
    """
    return await _start(argv, environment, stdin=PIPE, stdout=PIPE, stderr=None)


def start_detached(
    argv: Sequence[str | Path], *, log: Path, environment: Mapping[str, str] | None = None
) -> int:
    """Start a process that outlives us and return its id; what it says is appended to `log`.

    Raises:
        DriverError: it cannot be started.
    """
    arguments = [os.fspath(part) for part in argv]
    try:
        return os.posix_spawn(
            arguments[0],
            arguments,
            {**_CLEAN, **(environment or {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
    except OSError as failed:
        raise DriverError(f"{arguments[0]} cannot be started: {failed.strerror}") from failed


async def terminate(process: Process, *, grace_s: float) -> None:
    """Ask a child to end, and kill it with all that it started after `grace_s`.

    Cancelling it cuts the grace short: nothing is left running.
    """
    try:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await process.wait()
    finally:
        await kill(process)


async def kill(process: Process) -> None:
    """Kill a child and all that it started, wait until it is gone, and close its pipes."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # Read to the end meanwhile: asyncio does not see the end of a pipe that is full.
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_S), asyncio.TaskGroup() as group:
            group.create_task(_drain(process.stdout))
            group.create_task(_drain(process.stderr))
            group.create_task(process.wait())
    # What left our session may hold a pipe open for ever. The transport has no public name.
    transport: asyncio.SubprocessTransport = vars(process)["_transport"]
    transport.close()


async def _drain(stream: asyncio.StreamReader | None) -> None:
    while stream is not None and await stream.read(65536):
        pass


def explain(status: int) -> str:
    """Say how a process ended, in words."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"failed with exit status {status}" if status else "ended"


async def _start(
    argv: Sequence[str | Path],
    environment: Mapping[str, str] | None,
    *,
    stdin: int,
    stdout: int,
    stderr: int | None,
) -> Process:
    clean = {**_CLEAN, **(environment or {})}
    try:
        return await asyncio.create_subprocess_exec(
            *argv, stdin=stdin, stdout=stdout, stderr=stderr, env=clean, start_new_session=True
        )
    except FileNotFoundError as missing:
        raise DriverError(f"{argv[0]} is not installed", hint=f"install {argv[0]}") from missing
    except OSError as failed:
        raise DriverError(f"{argv[0]} cannot be started: {failed.strerror}") from failed


@contextmanager
def _as_file(content: bytes) -> Generator[int]:
    """Keep the content in memory, as a file to read.

    What the event loop would give for a pipe is a socket, which a command that opens /dev/stdin
    (nft does) cannot open.
    """
    file = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        remaining = memoryview(content)
        while remaining:
            remaining = remaining[os.write(file, remaining) :]
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


async def _converse(process: Process, limit_bytes: int, name: str) -> tuple[bytes, bytes]:
    try:
        async with asyncio.TaskGroup() as group:
            out = group.create_task(_read(process.stdout, limit_bytes, name))
            err = group.create_task(_read(process.stderr, limit_bytes, name))
            group.create_task(process.wait())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return out.result(), err.result()


async def _read(stream: asyncio.StreamReader | None, limit_bytes: int, name: str) -> bytes:
    assert stream is not None
    content = bytearray()
    while chunk := await stream.read(65536):
        content += chunk
        if len(content) > limit_bytes:
            raise DriverError(f"{name}: said more than {limit_bytes} bytes")
    return bytes(content)


def _last_words(done: Finished) -> str:
    said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
    return f": {said[-_TOLD_CHARACTERS:]}" if said else ""
