"""Whether guests run is found out by running one."""

import asyncio
from pathlib import Path

import pytest

from appliance.drivers.libvirt.probe import probe_kvm
from appliance.model.compute import Architecture
from tests.support.needs import need

BINARIES = {
    Architecture.X86_64: "qemu-system-x86_64",
    Architecture.AARCH64: "qemu-system-aarch64",
}


@pytest.mark.parametrize("architecture", list(Architecture))
async def test_a_guest_that_runs_is_seen_to_run(tmp_path: Path, architecture: Architecture) -> None:
    qemu = need(BINARIES[architecture])
    assert await probe_kvm(qemu, tmp_path, 60, architecture=architecture, accelerator="tcg")
    assert list(tmp_path.iterdir()) == []


async def test_kvm_is_answered_for_in_time(tmp_path: Path) -> None:
    """Whatever this machine's KVM does: run, refuse, abort or hang."""
    async with asyncio.timeout(60):
        await probe_kvm(need("qemu-system-x86_64"), tmp_path, 5)
    assert list(tmp_path.iterdir()) == []


async def test_a_guest_that_hangs_is_given_up(tmp_path: Path) -> None:
    """QEMU that waits for a debugger before the first instruction stands for a KVM that hangs."""
    qemu = need("qemu-system-x86_64")
    hanging = tmp_path / "qemu"
    hanging.write_text(f'#!/bin/sh\nexec {qemu} -S "$@"\n')
    hanging.chmod(0o755)
    assert not await probe_kvm(hanging, tmp_path, 1, accelerator="tcg")


async def test_what_qemu_refuses_does_not_run(tmp_path: Path) -> None:
    assert not await probe_kvm(need("qemu-system-x86_64"), tmp_path, 60, accelerator="none-such")


async def test_a_missing_qemu_runs_nothing(tmp_path: Path) -> None:
    assert not await probe_kvm(tmp_path / "qemu", tmp_path, 60)
