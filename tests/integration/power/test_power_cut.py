"""The power of a node fails in the midst of work: what was acknowledged is there when it is back.

A guest with Debian's kernel runs our code on a disk with ext4; its QEMU is killed, so all that the
guest had not brought to its disk is gone, and what it had is not.
"""

import asyncio
import random
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from appliance.core.command import run
from tests.support.faults import What, Where, breaks
from tests.support.needs import need
from tests.support.python_guest import python_guest

pytestmark = pytest.mark.timeout(1200)

_PROGRAM: Final = "tests.integration.power.power_program"
_MODULES: Final = ("virtio_pci", "virtio_net", "virtio_blk", "crc32c_generic", "ext4")
_COMMANDS: Final = ("qemu-img", "prlimit")
_LIST: Final = """
import sys, {}
files = [getattr(each, "__file__", None) for each in sys.modules.values()]
print(*filter(None, files), sep="\\n")
"""
_TOP: Final = Path(__file__).parents[3]
_NOT_NEEDED: Final = {"rich", "pygments"}  # structlog takes them if they are there
_DISK_BYTES: Final = 256 * 2**20
_VOLUME_CHANGES_AT_MOST: Final = 8


def _packages() -> list[Path]:
    """Return what the program imports, besides Python itself."""
    done = subprocess.run(
        [sys.executable, "-c", _LIST.format(_PROGRAM)],
        check=True,
        capture_output=True,
        cwd=_TOP,
        text=True,
    )
    installed = Path(msgspec.__file__).parents[1]
    own = {_TOP / "appliance", _TOP / "tests"}
    files = {Path(line) for line in done.stdout.splitlines()}
    parts = {f.relative_to(installed).parts[0] for f in files if f.is_relative_to(installed)}
    return sorted(own | {installed / part for part in parts - _NOT_NEEDED})


@dataclass
class Ledger:
    """What the guest has acknowledged; a volume of size None may be there or not."""

    sizes: dict[str, int | None] = field(default_factory=dict[str, int | None])
    fences: dict[str, int] = field(default_factory=dict[str, int])
    counted: dict[str, int] = field(default_factory=dict[str, int])

    def enter(self, told: dict[str, Any]) -> bool:
        """Return whether it was about a volume."""
        if "volume" in told:
            self.sizes[told["volume"]] = told["size"]
            self.fences[told["volume"]] = told["fence"]
        else:
            self.counted[told["counted"]] = told["number"]
        return "volume" in told

    def judge(self, found: dict[str, Any]) -> None:
        """Compare with what the guest finds when it is back; keep that."""
        assert found["findings"] == []
        rows, images = found["rows"], found["images"]
        assert rows == images
        for volume, size in self.sizes.items():
            if size == 0:
                assert volume not in rows
            elif size is not None:
                assert rows.get(volume, 0) >= size, volume
        for volume, fence in self.fences.items():
            assert volume not in rows or found["fences"][volume] >= fence, volume
        for what, number in self.counted.items():
            assert found["counted"][what] >= number, what
        self.sizes = dict(rows)
        self.fences, self.counted = found["fences"], found["counted"]


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param(
            cuts,
            marks=breaks(
                What.PROCESS,
                f"power of a node with Kahuna cut {cuts} times in the midst of work",
                expected="what was acknowledged is there, what was not is undone or done",
                where=Where.GUEST,
                long=cuts > 2,
            ),
        )
        for cuts in (2, 20)
    ],
)
async def test_what_was_acknowledged_survives_a_power_cut(tmp_path: Path, cuts: int) -> None:
    disk, ledger = tmp_path / "disk", Ledger()
    with disk.open("wb") as file:
        file.truncate(_DISK_BYTES)
    await run([need("mkfs.ext4"), "-q", disk], timeout_s=60)
    guest_of = partial(
        python_guest,
        tmp_path,
        program=_PROGRAM,
        packages=_packages(),
        commands=_COMMANDS,
        modules=_MODULES,
        disk=disk,
        memory_mib=1024,
    )
    saved = tmp_path / "saved"  # each start begins after what takes long: the kernel, and imports
    async with guest_of() as guest:
        await guest.report()
        await guest.save(saved)
    for _ in range(cuts + 1):
        async with guest_of(saved=saved) as guest:
            guest.tell("\n" + secrets.token_hex(32))
            ledger.judge(await guest.report())
            volumes = random.randint(1, _VOLUME_CHANGES_AT_MOST)
            while volumes:
                volumes -= ledger.enter(await guest.report())
            await asyncio.sleep(random.random() / 10)
