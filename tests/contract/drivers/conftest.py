"""Every implementation of the drivers, under one suite.

A new one adds a rig and its name to the parameters below; no test changes.
"""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from appliance.drivers.fake.node import NodeTraits, SimulatedNode
from appliance.drivers.fake.storage import Internet, RemoteFile
from appliance.drivers.fake.world import World
from appliance.model.compute import Architecture, ComputeDriver
from appliance.model.network import NetworkDriver
from appliance.model.storage import LocalPool, RbdPool, StoragePoolRef
from tests.contract.drivers.rig import MIB, Rig, StorageRig, some_id
from tests.contract.drivers.rig_libvirt import libvirt_rig
from tests.contract.drivers.rig_local_pool import local_pool_rig
from tests.contract.drivers.rig_network import HostNetworkRig, linux_host, simulated_host
from tests.support.clock import ManualClock
from tests.support.libvirtd import Libvirtd, private_libvirtd

_LOCAL: Final = LocalPool(directory="/var/lib/kowabunga/pool")
_RBD: Final = RbdPool(pool="rbd", monitor_address="192.0.2.1", monitor_port=3300)
_TEMPLATE_URL: Final = "https://images.example/debian.qcow2"
_TEMPLATE: Final = RemoteFile(64 * MIB, sha256="5" * 64)
_TRAITS: Final = NodeTraits(internet=Internet(files={_TEMPLATE_URL: _TEMPLATE}), latency_s=0)


def fake_rig(world: World, node_id: str, storage_pool: StoragePoolRef) -> Rig:
    clock = ManualClock()
    node = SimulatedNode(node_id, world, clock=clock, traits=_TRAITS)

    async def kill_domain(domain_id: str) -> None:
        node.compute.crash_domain(domain_id)

    async def shut_guest_down(domain_id: str) -> None:
        node.compute.shut_guest_down(domain_id)

    async def deafen_guest(domain_id: str) -> None:
        node.compute.deafen_guest(domain_id)

    async def reopen_compute() -> ComputeDriver:
        return fake_rig(world, node_id, storage_pool).compute

    return Rig(
        storage=node.storage,
        compute=node.compute,
        host_network=node.host_network,
        storage_pool=storage_pool,
        architecture=Architecture.X86_64,
        template_url=_TEMPLATE_URL,
        template_bytes=_TEMPLATE.size_bytes,
        template_sha256=_TEMPLATE.sha256 or "",
        missing_url="https://images.invalid/debian.qcow2",
        foreign_interface="eth0",
        grows_open_images=isinstance(storage_pool, RbdPool),
        grows_live=True,
        reopen=lambda: fake_rig(world, node_id, storage_pool),
        reopen_compute=reopen_compute,
        kill_domain=kill_domain,
        shut_guest_down=shut_guest_down,
        deafen_guest=deafen_guest,
        pass_time=clock.advance,
    )


@pytest.fixture(scope="session")
def libvirtd() -> Generator[Libvirtd]:
    with private_libvirtd() as libvirtd:
        yield libvirtd


@pytest_asyncio.fixture(params=["fake-local", "fake-rbd", "libvirt"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Rig]:
    if request.param == "libvirt":
        async with libvirt_rig(request.getfixturevalue("libvirtd"), tmp_path) as rig:
            yield rig
    else:
        with World(tmp_path / "world.db") as world:
            yield fake_rig(world, some_id(), _LOCAL if request.param == "fake-local" else _RBD)


@pytest_asyncio.fixture(params=["fake-local", "fake-rbd", "local"])
async def storage_rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[StorageRig]:
    if request.param == "local":
        async with local_pool_rig(tmp_path) as rig:
            yield rig
    else:
        with World(tmp_path / "world.db") as world:
            yield fake_rig(world, some_id(), _LOCAL if request.param == "fake-local" else _RBD)


@pytest.fixture(params=["fake", "linux"])
def host(request: pytest.FixtureRequest) -> Generator[HostNetworkRig]:
    if request.param == "linux":
        with linux_host() as host:
            yield host
    else:
        with World() as world:
            yield simulated_host(fake_rig(world, some_id(), _LOCAL))


@pytest.fixture(params=["fake"])
def network(request: pytest.FixtureRequest) -> Generator[NetworkDriver]:
    """What a Kiwi drives, serving nothing yet."""
    assert request.param == "fake"
    with World() as world:
        yield SimulatedNode(some_id(), world, clock=ManualClock(), traits=_TRAITS).network
