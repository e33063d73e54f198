"""A process that dies in the midst of writing. The page cache survives it; a power cut is for
the tests of whole machines."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from appliance.core.errors import Conflict
from tests.support.synced import watch_syncs
from tests.unit.store.conftest import OpenSqlite
from tests.unit.store.rows import names

_ROOT = Path(__file__).parents[3]


@contextmanager
def _writing(path: Path) -> Generator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.store.child", path], stdout=subprocess.PIPE, cwd=_ROOT
    )
    assert child.stdout is not None
    with child.stdout:
        try:
            yield child, child.stdout
        finally:
            child.kill()
            child.wait()


@pytest.mark.parametrize("acknowledged", [1, 40, 700])
async def test_what_was_acknowledged_survives_a_kill_and_nothing_is_torn(
    path: Path, open_sqlite: OpenSqlite, acknowledged: int
) -> None:
    with _writing(path) as (child, said):
        lines = [said.readline() for _ in range(acknowledged)]
        child.send_signal(signal.SIGKILL)
        lines += [line for line in said.readlines() if line.endswith(b"\n")]
        assert child.wait() == -signal.SIGKILL
    promised = {int(line) for line in lines}
    assert len(promised) >= acknowledged
    async with open_sqlite(path) as store:
        found = await names(store)
    first = {int(name.removesuffix("-1")) for name in found if name.endswith("-1")}
    second = {int(name.removesuffix("-2")) for name in found if name.endswith("-2")}
    assert first == second, "a torn batch"
    assert promised <= first, "an acknowledged batch is lost"
    assert len(first - promised) <= 8, "at most one batch per caller was on its way"


async def test_a_second_process_is_refused_and_told_the_pid_of_the_first(
    path: Path, open_sqlite: OpenSqlite
) -> None:
    with _writing(path) as (child, said):
        said.readline()
        with pytest.raises(Conflict) as held:
            async with open_sqlite(path):
                pytest.fail("two processes opened one state")
        (pid,) = re.findall(r"process (\d+)", held.value.detail)
        assert int(pid) == child.pid != os.getpid()


async def test_what_a_process_that_died_has_written_is_synced_before_it_is_read(
    path: Path, open_sqlite: OpenSqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _writing(path) as (_, said):
        said.readline()
    synced = watch_syncs(monkeypatch)
    async with open_sqlite(path):
        assert path.with_name(f"{path.name}-wal") in synced
