"""The disk for temporary files is full: the state needs none."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.faults import What, Where, breaks
from tests.support.small_disk import small_disk

_WORK = """
import asyncio, sys
from pathlib import Path
from appliance.core.clock import SystemClock
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore

MANY = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 50000)"

async def main():
    store = await SqliteStore.open(Path(sys.argv[1]), clock=SystemClock())
    await store.batch([Statement(
        "INSERT INTO alarm (kind, target, detail, count, first_at_ms, last_at_ms)"
        f" {MANY} SELECT 'test', x, '', 1, 0, 0 FROM n"
    )])
    change = Statement("UPDATE alarm SET target = hex(randomblob(50))")
    await asyncio.gather(*[store.batch([change]) for _ in range(4)])  # together: in savepoints
    rows = await store.query(Statement("SELECT hex(target) AS told FROM alarm ORDER BY told"))
    assert len(rows) == 50000
    await store.close()

asyncio.run(main())
"""


@breaks(
    What.DISK,
    "disk for temporary files full",
    expected="large changes and large reads of the state go on: it makes none",
    where=Where.HOST,
)
def test_the_state_makes_no_temporary_files(tmp_path: Path) -> None:
    with small_disk(tmp_path / "tmp", "1m") as temporary:
        temporary.fill()
        place = str(temporary.path)
        done = subprocess.run(
            [sys.executable, "-c", _WORK, tmp_path / "state" / "state.db"],
            env={**os.environ, "SQLITE_TMPDIR": place, "TMPDIR": place},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
