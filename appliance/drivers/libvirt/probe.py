"""Finds out whether guests really run under KVM: /dev/kvm may be there, and guests hang or abort.

The guest is a few bytes of machine code that end QEMU in a way that nothing else does. On x86
firmware boots it from a disk, with the host's own processor, and it turns on what a kernel turns
on first: where a guest gets as far as that, it runs.
"""

from pathlib import Path
from typing import Final

import structlog

from appliance.core.command import run
from appliance.core.errors import DeadlineExceeded, DriverError
from appliance.model.compute import Architecture

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)

_X86_BOOT_SECTOR: Final = bytes.fromhex(
    "fa 31c0 8ed8 8ec0"  # cli; ds = es = 0
    "bf0010 b90018 f3ab"  # clear three page tables at 0x1000
    "c70600100320 c70600200330 c70600308300"  # which map the first 2 MiB to themselves
    "66b820000000 0f22e0"  # cr4 = PAE
    "66b800100000 0f22d8"  # cr3 = 0x1000
    "66b9800000c0 0f32 80cc01 0f30"  # EFER |= LME
    "0f01165d7c"  # lgdt 0x7c5d
    "66b801000080 0f22c0"  # cr0 = PG | PE
    "ea537c0800"  # ljmp 8:0x7c53: 64 bits from here
    "66baf400 b031 ee f4 ebfd"  # write 0x31 to port 0xf4, halt
    "0f00687c0000 0000000000"  # 0x7c5d: limit and base of the descriptors, padding
    "0000000000000000 00000000009a2000"  # none; code of 64 bits
).ljust(510, b"\0") + bytes.fromhex("55aa")
_X86_STATUS: Final = 0x31 << 1 | 1  # what QEMU's isa-debug-exit makes of the byte
# PSCI SYSTEM_OFF (Arm DEN0022, 5.10) by hypervisor call; then for ever nothing.
_AARCH64_KERNEL: Final = bytes.fromhex("00018052 0080b072 020000d4 00000014")


async def probe_kvm(
    qemu_binary: str | Path,
    directory: Path,
    limit_s: float,
    *,
    architecture: Architecture = Architecture.X86_64,
    accelerator: str = "kvm",
) -> bool:
    """Tell whether a guest runs under the accelerator, by running one for at most `limit_s`.

    Writes a small file into `directory` and removes it.
    """
    image = directory / "accelerator-probe.img"
    code, guest, status = _guest(architecture, image, accelerator)
    options = (
        "-accel", accelerator, "-m", "16", "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot", *guest,
    )  # fmt: skip
    image.write_bytes(code)
    try:
        ended = await run([qemu_binary, *options], timeout_s=limit_s, check=False)
    except (DeadlineExceeded, DriverError) as failed:
        _log.info("accelerator_unusable", accelerator=accelerator, error=str(failed))
        return False
    finally:
        image.unlink(missing_ok=True)
    if ended.status != status:
        told = ended.stderr.decode("utf-8", "replace")
        _log.info("accelerator_unusable", accelerator=accelerator, error=told)
    return ended.status == status


def _guest(
    architecture: Architecture, image: Path, accelerator: str
) -> tuple[bytes, tuple[str, ...], int]:
    """Return a guest's code, the options that boot it, and how QEMU ends once it has run."""
    options: tuple[str, ...]
    if architecture is Architecture.AARCH64:
        cpu = "host" if accelerator == "kvm" else "cortex-a72"
        options = ("-machine", "virt,gic-version=max", "-cpu", cpu, "-kernel", str(image))
        return _AARCH64_KERNEL, options, 0
    cpu = "host" if accelerator == "kvm" else "max"
    options = (
        "-machine", "pc", "-cpu", cpu, "-drive", f"file={image},format=raw,if=ide",
        "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
    )  # fmt: skip
    return _X86_BOOT_SECTOR, options, _X86_STATUS
