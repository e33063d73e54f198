"""A libvirtd of the tests' own, and drivers of a Kaktus on it."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.contract.drivers.rig import Rig
from tests.contract.drivers.rig_libvirt import libvirt_rig
from tests.support.libvirtd import Libvirtd, private_libvirtd


@pytest.fixture(scope="session")
def libvirtd() -> Generator[Libvirtd]:
    with private_libvirtd() as libvirtd:
        yield libvirtd


@pytest_asyncio.fixture
async def rig(libvirtd: Libvirtd, tmp_path: Path) -> AsyncGenerator[Rig]:
    async with libvirt_rig(libvirtd, tmp_path) as rig:
        yield rig
