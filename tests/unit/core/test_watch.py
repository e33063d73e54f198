"""No change of a watched file goes unnoticed, whatever happens to its directory."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.core.files import write_atomic
from appliance.core.watch import Watch, watch

QUEUE = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


async def expect(watching: Watch) -> None:
    async with asyncio.timeout(60):
        await watching.changed()


async def expect_silence(watching: Watch) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.15):
            await watching.changed()


async def test_atomic_and_plain_writes_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    with watch(path) as watching:
        write_atomic(path, b"1")
        await expect(watching)
        path.write_text("2")
        await expect(watching)
        path.unlink()
        await expect(watching)
        await expect_silence(watching)


async def test_a_burst_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    with watch(path) as watching:
        for number in range(100):
            write_atomic(path, str(number).encode())
        await expect(watching)
        await expect_silence(watching)


async def test_directories_that_do_not_exist_yet_are_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "kowabunga" / "node.yaml"
    with watch(path) as watching:
        (tmp_path / "etc").mkdir()
        await expect(watching)
        path.parent.mkdir()
        await expect(watching)
        path.write_text("1")
        await expect(watching)


async def test_a_replaced_directory_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "node.yaml"
    path.parent.mkdir()
    path.write_text("1")
    with watch(path) as watching:
        path.parent.rename(tmp_path / "old")
        await expect(watching)
        path.parent.mkdir()
        await expect(watching)
        path.write_text("2")
        await expect(watching)
        (tmp_path / "old" / "node.yaml").write_text("3")
        await expect_silence(watching)


async def test_a_swap_within_one_burst_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "node.yaml"
    path.parent.mkdir()
    with watch(path) as watching:
        path.parent.rename(tmp_path / "old")
        path.parent.mkdir()
        await expect(watching)
        path.write_text("2")
        await expect(watching)


async def test_a_lost_event_still_counts_as_a_change(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    with watch(path) as watching:
        # More events than the queue holds before anyone reads: the last ones are dropped.
        one, other = tmp_path / "one", tmp_path / "other"
        one.touch()
        for _ in range(QUEUE // 4 + 1):  # each is four events: from and to, there and back
            one.rename(other)
            other.rename(one)
        path.write_text("lost")
        await expect(watching)
        path.write_text("seen")
        await expect(watching)


async def test_names_that_are_not_utf8_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    with watch(path) as watching:
        tmp_path.joinpath(os.fsdecode(b"\xff")).touch()
        await expect(watching)
        path.write_text("1")
        await expect(watching)


def test_imports_without_a_warning_and_without_touching_the_logs() -> None:
    code = "import appliance.core.watch, logging; print(logging.getLogger('pyinotify').handlers)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
