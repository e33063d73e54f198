"""Processes are started cleanly, bounded in time and output, and leave nothing behind."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
import uvloop

from appliance.core import command
from appliance.core.errors import DeadlineExceeded, DriverError
from tests.support.wait import until


def alive(pid: int) -> bool:
    try:
        # A killed grandchild is init's to reap; as a zombie it is dead enough.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_returns_what_was_said() -> None:
    done = await command.run(["sh", "-c", "cat; echo bad >&2"], timeout_s=60, stdin=b"in")
    assert done == command.Finished(0, b"in", b"bad\n")


async def test_an_argument_is_never_a_shells() -> None:
    done = await command.run(["printf", "%s", "$(id); `id` | id"], timeout_s=60)
    assert done.stdout == b"$(id); `id` | id"


async def test_the_environment_is_small_and_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD_LIKE", "secret")
    done = await command.run(["env"], timeout_s=60, environment={"GIVEN": "1"})
    names = {line.split(b"=")[0] for line in done.stdout.splitlines()}
    assert {b"PATH", b"LANG", b"GIVEN"} <= names
    assert names <= {b"PATH", b"LANG", b"GIVEN", b"PWD", b"SHLVL", b"_"}


async def test_a_failure_is_a_sentence() -> None:
    with pytest.raises(DriverError, match=r"sh -c .*: failed with exit status 3: no such pool$"):
        await command.run(["sh", "-c", "echo no such pool >&2; exit 3"], timeout_s=60)


async def test_a_failure_may_be_an_answer() -> None:
    assert (await command.run(["false"], timeout_s=60, check=False)).status == 1


async def test_a_signal_is_named() -> None:
    with pytest.raises(DriverError, match="killed by SIGTERM"):
        await command.run(["sh", "-c", "kill -TERM $$"], timeout_s=60)


async def test_a_missing_command_says_what_to_install() -> None:
    with pytest.raises(DriverError, match=r"no-such-tool is not installed \(install"):
        await command.run(["no-such-tool"], timeout_s=60)


async def test_a_late_command_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sleep 100 & echo $! $$ > {pids}; wait"
    started: list[int] = []
    timeout_s = 0.3
    while len(started) < 2:  # a busy machine may not have come so far
        with pytest.raises(DeadlineExceeded, match="did not end within"):
            await command.run(["sh", "-c", script], timeout_s=timeout_s)
        started = [int(pid) for pid in pids.read_text().split()] if pids.exists() else []
        timeout_s *= 3
    await until(lambda: not any(map(alive, started)), "all are gone")


async def test_a_cancelled_wait_kills_the_command(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def called() -> None:
        await command.run(["sh", "-c", f"echo $$ > {pids}; exec sleep 100"], timeout_s=100)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(called())
        await until(lambda: pids.exists() and pids.read_text().strip() != "", "it runs")
        task.cancel()
    assert not alive(int(pids.read_text()))


async def test_endless_output_is_cut_off() -> None:
    with pytest.raises(DriverError, match="said more than 1000 bytes"):
        await command.run(["yes"], timeout_s=60, output_limit_bytes=1000)


async def test_what_left_our_session_does_not_hold_us_up(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    stray = f"echo $$ > {pid}; echo up; exec sleep 100"
    child = await command.start(["sh", "-c", f"setsid sh -c '{stray}' & wait"])
    assert child.stdout is not None
    assert await child.stdout.readline() == b"up\n"
    await command.kill(child)
    assert child.returncode == -9
    os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_input_that_nobody_reads_is_no_error() -> None:
    assert (await command.run(["true"], timeout_s=60, stdin=b"x" * 1_000_000)).status == 0


async def test_terminate_asks_first() -> None:
    child = await command.start(
        ["sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done"]
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"up\n"
    await command.terminate(child, grace_s=60)
    assert child.returncode == 7


async def test_terminate_kills_what_does_not_listen() -> None:
    child = await command.start(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done"])
    assert child.stdout is not None
    assert await child.stdout.readline() == b"up\n"
    await command.terminate(child, grace_s=0.1)
    assert child.returncode == -9
    await command.terminate(child, grace_s=0.1)  # again: nothing left to do


def test_a_detached_process_has_its_own_session_and_writes_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "cut -d' ' -f6 /proc/$$/stat; cat; echo error >&2"
    pid = command.start_detached(["/bin/sh", "-c", script], log=log)
    assert os.waitpid(pid, 0)[1] == 0
    session, error = log.read_text().split()
    assert int(session) == pid
    assert error == "error"


def test_a_detached_process_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="cannot be started: No such file"):
        command.start_detached(["/no/such/tool"], log=tmp_path / "log")


async def test_nothing_is_left_of_a_child_whose_ending_is_cut_short() -> None:
    child = await command.start(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done"])
    assert child.stdout is not None
    await child.stdout.readline()
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(command.terminate(child, grace_s=60))
        await asyncio.sleep(0)
        ending.cancel()
    assert child.returncode is not None


def test_a_command_may_open_its_input_by_name() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # its pipes are sockets
        done = runner.run(command.run(["cat", "/dev/stdin"], timeout_s=60, stdin=b"in"))
    assert done.stdout == b"in"
