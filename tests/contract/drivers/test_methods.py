"""The drivers behind the agent's own dispatcher: each method arrives, and answers as declared."""

from collections.abc import AsyncGenerator
from itertools import count
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import pytest_asyncio

from appliance.agent.dispatch import Dispatcher
from appliance.agent.fences import FenceBook
from appliance.agent.simulated import simulated_handlers
from appliance.agent.storage import storage_handlers
from appliance.core.errors import Invalid, NotFound
from appliance.drivers.fake.node import NodeTraits, SimulatedNode
from appliance.drivers.fake.world import World
from appliance.model.agent import AgentType
from appliance.model.compute import Change, DiskSpec, DomainSpec, InterfaceSpec, OsFamily
from appliance.model.domain_state import DomainState, Power
from appliance.model.network import BridgeSpec, DnsRecord, DnsZone, RegionNetwork
from appliance.model.storage import (
    IMAGES_PER_LIST,
    ImagePurpose,
    LocalPool,
    ObservedImage,
    SeedSpec,
    TemplateSource,
    VolumeSpec,
)
from appliance.model.target import Fence, target
from appliance.rpc.compute import (
    COMPUTE_ENSURE_DOMAIN,
    COMPUTE_ENSURE_DOMAIN_ABSENT,
    COMPUTE_ENSURE_POWER,
    COMPUTE_GET_DOMAIN,
    COMPUTE_GET_HOST,
    COMPUTE_GROW_DISK,
    COMPUTE_LIST_DOMAINS,
    COMPUTE_LIST_STATISTICS,
    COMPUTE_METHODS,
    COMPUTE_REBOOT,
    COMPUTE_REQUEST_SHUTDOWN,
    COMPUTE_RESET,
    DomainGrowDisk,
    DomainPower,
    DomainRef,
)
from appliance.rpc.gateway import Command
from appliance.rpc.messages import MAX_MESSAGE_BYTES
from appliance.rpc.method import Method, Nothing
from appliance.rpc.methods import AGENT_DESCRIBE, AGENT_PING, METHODS, Event
from appliance.rpc.network import (
    NETWORK_ENSURE_BRIDGE,
    NETWORK_ENSURE_BRIDGE_ABSENT,
    NETWORK_ENSURE_REGION,
    NETWORK_GET_REGION,
    NETWORK_LIST_BRIDGES,
    NETWORK_METHODS,
    BridgeRemoval,
)
from appliance.rpc.storage import (
    STORAGE_ENSURE_IMAGE,
    STORAGE_ENSURE_IMAGE_ABSENT,
    STORAGE_ENSURE_SEED,
    STORAGE_GET_IMAGE,
    STORAGE_GET_POOL_STATISTICS,
    STORAGE_IMPORT_TEMPLATE,
    STORAGE_LIST_IMAGES,
    STORAGE_METHODS,
    ImageEnsure,
    ImageList,
    ImageListParams,
    ImageRef,
    SeedEnsure,
    StoragePoolParams,
    TemplateImport,
)
from tests.contract.drivers.rig import MIB, some_id
from tests.support.clock import ManualClock

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

POOL = LocalPool(directory="/pool")
TRAITS = NodeTraits(latency_s=0)


class Agent:
    """Calls a simulated node as Kahuna does: JSON in, JSON out."""

    def __init__(self, dispatcher: Dispatcher, events: list[Event]) -> None:
        self._dispatcher = dispatcher
        self._requests = count()
        self.events = events

    async def call(self, method: Method[P, R], params: P) -> R:
        about = target("instance", "0" * 24)
        command = Command(str(next(self._requests)), about, Fence(1, 1))
        result = await self._dispatcher.handle(
            method.name, msgspec.json.encode(params), command if method.effectful else None
        )
        return msgspec.json.decode(msgspec.json.encode(result), type=method.result)


@pytest_asyncio.fixture(params=[AgentType.KAKTUS])
async def agent(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Agent]:
    events: list[Event] = []
    with World() as world:
        node = SimulatedNode(some_id(), world, clock=ManualClock(), traits=TRAITS)
        handlers = simulated_handlers(
            node, request.param, version="1", boot_id="b", send_event=events.append
        )
        async with (
            FenceBook.open(tmp_path / "fences.db") as fences,
            Dispatcher(handlers, fences) as dispatcher,
        ):
            yield Agent(dispatcher, events)


def served_by(agent_type: AgentType) -> set[str]:
    with World() as world:
        node = SimulatedNode(some_id(), world, clock=ManualClock(), traits=TRAITS)
        return set(
            simulated_handlers(
                node, agent_type, version="1", boot_id="b", send_event=lambda _: None
            )
        )


def test_every_declared_method_is_served_by_one_type_of_agent() -> None:
    every = served_by(AgentType.KONTROLLER)
    kaktus, kiwi = served_by(AgentType.KAKTUS), served_by(AgentType.KIWI)
    declared = {method.name for method in (*COMPUTE_METHODS, *STORAGE_METHODS, *NETWORK_METHODS)}
    assert every == {AGENT_PING.name, AGENT_DESCRIBE.name}
    assert kaktus | kiwi == declared | every
    assert kaktus & kiwi == every
    assert declared <= set(METHODS)


async def test_a_simulated_node_describes_what_is_simulated(agent: Agent) -> None:
    await agent.call(AGENT_PING, Nothing())
    described = await agent.call(AGENT_DESCRIBE, Nothing())
    assert described.hostname.startswith("simulated-")
    assert described.cpu_count == TRAITS.host.cpu_threads
    assert described.memory_total_bytes == TRAITS.host.memory_bytes


async def test_storage_methods_answer_as_declared(agent: Agent) -> None:
    template_id, volume_id, instance_id = some_id(), some_id(), some_id()
    source = TemplateSource(template_id=template_id, url="https://images.example/a")
    template = await agent.call(STORAGE_IMPORT_TEMPLATE, TemplateImport(POOL, source))
    assert agent.events[-1] == Event(
        target("template", template_id),
        "template.progress",
        {"done_bytes": template.size_bytes, "total_bytes": template.size_bytes},
    )
    volume = await agent.call(
        STORAGE_ENSURE_IMAGE,
        ImageEnsure(
            POOL,
            VolumeSpec(image_id=volume_id, size_bytes=template.size_bytes, template_id=template_id),
        ),
    )
    seed = await agent.call(
        STORAGE_ENSURE_SEED,
        SeedEnsure(
            POOL, SeedSpec(image_id=instance_id, user_data="u", meta_data="m", network_config="n")
        ),
    )
    listed = await agent.call(STORAGE_LIST_IMAGES, ImageListParams(POOL))
    assert listed == ImageList((template, volume, seed), more=False)
    rest = await agent.call(STORAGE_LIST_IMAGES, ImageListParams(POOL, after=template_id))
    assert rest.images == (volume, seed)
    assert await agent.call(STORAGE_GET_IMAGE, ImageRef(POOL, volume_id)) == volume
    full = await agent.call(STORAGE_GET_POOL_STATISTICS, StoragePoolParams(POOL))
    assert full.allocated_bytes >= template.size_bytes
    await agent.call(STORAGE_ENSURE_IMAGE_ABSENT, ImageRef(POOL, volume_id))
    with pytest.raises(NotFound):
        await agent.call(STORAGE_GET_IMAGE, ImageRef(POOL, volume_id))


async def test_compute_methods_answer_as_declared(agent: Agent) -> None:
    host = await agent.call(COMPUTE_GET_HOST, Nothing())
    bridge = BridgeSpec(name="br101", vlan=101)
    await agent.call(NETWORK_ENSURE_BRIDGE, bridge)
    (seen,) = (await agent.call(NETWORK_LIST_BRIDGES, Nothing())).bridges
    assert (seen.name, seen.vlan) == (bridge.name, bridge.vlan)
    volume = VolumeSpec(image_id=some_id(), size_bytes=MIB)
    await agent.call(STORAGE_ENSURE_IMAGE, ImageEnsure(POOL, volume))
    spec = DomainSpec(
        domain_id=some_id(),
        name="web",
        vcpus=1,
        memory_bytes=MIB,
        os=OsFamily.LINUX,
        architecture=host.architecture,
        disks=(DiskSpec(storage_pool=POOL, image_id=volume.image_id),),
        interfaces=(InterfaceSpec(mac="da:1e:70:00:00:01", bridge=bridge.name),),
        generation=1,
    )
    domain = DomainRef(spec.domain_id)
    assert (await agent.call(COMPUTE_ENSURE_DOMAIN, spec)).change is Change.DEFINED
    await agent.call(COMPUTE_ENSURE_POWER, DomainPower(spec.domain_id, Power.RUNNING))
    assert agent.events[-1] == Event(
        target("instance", spec.domain_id), "domain.state", {"state": "Running", "reason": "Booted"}
    )
    await agent.call(COMPUTE_REBOOT, domain)
    await agent.call(COMPUTE_RESET, domain)
    await agent.call(COMPUTE_GROW_DISK, DomainGrowDisk(spec.domain_id, volume.image_id, 2 * MIB))
    image = await agent.call(STORAGE_GET_IMAGE, ImageRef(POOL, volume.image_id))
    assert image.size_bytes == 2 * MIB
    (counters,) = (await agent.call(COMPUTE_LIST_STATISTICS, Nothing())).statistics
    assert counters.domain_id == spec.domain_id
    stopped = await agent.call(COMPUTE_REQUEST_SHUTDOWN, domain)
    assert stopped.state is DomainState.SHUTOFF
    assert await agent.call(COMPUTE_GET_DOMAIN, domain) == stopped
    assert (await agent.call(COMPUTE_LIST_DOMAINS, Nothing())).domains == (stopped,)
    await agent.call(COMPUTE_ENSURE_DOMAIN_ABSENT, domain)
    assert (await agent.call(COMPUTE_LIST_DOMAINS, Nothing())).domains == ()
    await agent.call(NETWORK_ENSURE_BRIDGE_ABSENT, BridgeRemoval(seen.name, seen.revision))
    assert (await agent.call(NETWORK_LIST_BRIDGES, Nothing())).bridges == ()


@pytest.mark.parametrize("agent", [AgentType.KIWI], indirect=True)
async def test_kiwi_methods_answer_as_declared(agent: Agent) -> None:
    network = RegionNetwork(
        generation=3,
        dns_zones=(
            DnsZone(name="a.example", records=(DnsRecord(name="web", addresses=("10.0.0.1",)),)),
        ),
    )
    served = await agent.call(NETWORK_ENSURE_REGION, network)
    assert served.generation == 3
    assert await agent.call(NETWORK_GET_REGION, Nothing()) == served
    with pytest.raises(NotFound):
        await agent.call(COMPUTE_GET_HOST, Nothing())


@pytest.mark.parametrize("grace_s", [-1, 181, float("1e9")])
async def test_a_grace_that_outlasts_its_caller_is_refused(agent: Agent, grace_s: float) -> None:
    with pytest.raises(Invalid):
        await agent.call(COMPUTE_ENSURE_POWER, DomainPower(some_id(), Power.STOPPED, grace_s))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "sixteen_letters_", "-x", "br0\n"])
async def test_a_bridge_name_that_no_kernel_takes_is_refused(agent: Agent, name: str) -> None:
    with pytest.raises(Invalid):
        await agent.call(NETWORK_ENSURE_BRIDGE, BridgeSpec(name=name, vlan=0))


@pytest.mark.parametrize("image_id", ["", "../../etc/passwd", "A" * 24, "0" * 23, "0" * 24 + "\n"])
async def test_an_image_name_that_is_no_id_is_refused(agent: Agent, image_id: str) -> None:
    with pytest.raises(Invalid):
        await agent.call(STORAGE_ENSURE_IMAGE_ABSENT, ImageRef(POOL, image_id))


async def test_images_beyond_a_page_are_told_of() -> None:
    with World() as world:
        storage = SimulatedNode(some_id(), world, clock=ManualClock(), traits=TRAITS).storage
        list_images = storage_handlers(storage, lambda _: None)[STORAGE_LIST_IMAGES.name]
        for _ in range(IMAGES_PER_LIST + 1):
            await storage.ensure_image(POOL, VolumeSpec(image_id=some_id(), size_bytes=MIB))
        first = await list_images(ImageListParams(POOL))
        assert isinstance(first, ImageList)
        assert first.more
        last = await list_images(ImageListParams(POOL, after=first.images[-1].image_id))
        assert isinstance(last, ImageList)
        assert (len(last.images), last.more) == (1, False)


def test_a_page_of_the_longest_images_fits_into_a_message() -> None:
    longest = ObservedImage(
        image_id="f" * 24,
        purpose=ImagePurpose.TEMPLATE,
        size_bytes=2**63,
        allocated_bytes=2**63,
        template_id="f" * 24,
        seed_sha256="f" * 64,
    )
    page = ImageList((longest,) * IMAGES_PER_LIST, more=True)
    assert len(msgspec.json.encode(page)) < MAX_MESSAGE_BYTES * 0.9
