"""Which boot of which machine this is."""

from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


def read_boot_id(proc: Path = _PROC) -> str:
    """Return what the kernel drew at boot: it tells two machines, and two boots, apart.

    Source: random(4), /proc/sys/kernel/random/boot_id.
    """
    return (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
