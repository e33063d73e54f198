"""A guest of 128 bytes: boots in half a second, says so, and reacts to what a host does to it.

On its serial line it says "ready", and understands `q` (power off) and `d` (ignore the power button
from now on; answers `D`). It powers off at the power button, and lets go of PCI devices at once.
"""

from pathlib import Path
from typing import Final

from appliance.core.command import run
from tests.support.needs import need

READY: Final = b"ready\n"
POWER_OFF: Final = b"q"
BECOME_DEAF: Final = b"d"
DEAF: Final = b"D"

# Code of 16 bits for q35 with SeaBIOS, which has the timer tick and the registers of power
# management at 0x600 (ICH9: event status and enable, control). Source of the registers at 0xcc0:
# QEMU's docs/specs/acpi_pci_hotplug.
_BOOT_SECTOR: Final = bytes.fromhex(
    "31c0 8ed8 8ed0 bc007c"  # ds = ss = 0, stack below the code
    "ba0206 b80001 ef"  # tell the power button from other events
    "baf803 be797c"  # dx = serial line, si = "ready"
    "ac 84c0 7403 ee ebf8"  # say it
    "fb f4"  # tick: wait for an interrupt
    "bafd03 ec a801 7414"  # nothing to read: go on at button
    "baf803 ec 3c71 743f"  # 'q': off
    "3c64 7508 c606787c01 b044 ee"  # 'd': deaf = 1, answer 'D'
    "803e787c00 7509"  # button: deaf: go on at eject
    "ba0006 ed f6c401 7523"  # power button pressed: off
    "66b93f000000"  # eject: for each of 64 buses
    "bad00c 6689c8 66ef"  # select it
    "bac40c 66ed 6685c0 7405"  # nothing is to leave: the next one
    "bac80c 66ef"  # eject what is
    "6649 79e5 ebaf"  # next bus; tick
    "ba0406 b80020 ef ebf7"  # off: sleep state S5
    "00"  # deaf
    "72656164790a00"  # "ready\n"
).ljust(510, b"\0") + bytes.fromhex("55aa")


async def make_bootable(image: Path, image_format: str) -> None:
    """Write the guest into the first sector of a disk image that nobody has open."""
    sector = image.with_suffix(".sector")
    sector.write_bytes(_BOOT_SECTOR)
    write = f"write -q -s {sector} 0 {len(_BOOT_SECTOR)}"
    await run([need("qemu-io"), "-f", image_format, "-c", write, image], timeout_s=60)
    sector.unlink()
