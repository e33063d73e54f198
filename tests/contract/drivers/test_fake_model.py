"""The fakes against a plain model: any order of calls leaves both in the same state."""

from collections.abc import Coroutine
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from appliance.core.errors import Conflict, Invalid, KowabungaError
from appliance.drivers.fake.node import NodeTraits, SimulatedNode
from appliance.drivers.fake.storage import Internet, RemoteFile
from appliance.drivers.fake.world import World
from appliance.model.compute import Architecture, Change, DiskSpec, DomainSpec, OsFamily
from appliance.model.domain_state import DomainState, Power
from appliance.model.storage import LocalPool, TemplateSource, VolumeSpec
from tests.contract.drivers.rig import MIB, ignore
from tests.support.clock import ManualClock

T = TypeVar("T")

POOL = LocalPool(directory="/pool")
TEMPLATE_BYTES = 2 * MIB
TRAITS = NodeTraits(internet=Internet(default=RemoteFile(TEMPLATE_BYTES)), latency_s=0)
IDS = [f"{number:024x}" for number in range(4)]
SIZES = [1 * MIB, 2 * MIB, 3 * MIB]
ids = st.sampled_from(IDS)


def finish(work: Coroutine[None, None, T]) -> T:
    """Run a coroutine that waits for nothing outside itself."""
    while True:
        try:
            work.send(None)
        except StopIteration as done:
            result: T = done.value
            return result


def outcome(work: Coroutine[None, None, object]) -> str:
    """Return "ok", or the code of the error."""
    try:
        finish(work)
    except KowabungaError as error:
        return error.code
    return "ok"


class StorageMachine(RuleBasedStateMachine):
    """The model: templates are a set, volumes have a size and perhaps a parent."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.driver = SimulatedNode(
            "a" * 24, self.world, clock=ManualClock(), traits=TRAITS
        ).storage
        self.templates: set[str] = set()
        self.volumes: dict[str, tuple[int, str | None]] = {}

    def teardown(self) -> None:
        self.world.close()

    @rule(image_id=ids)
    def import_template(self, image_id: str) -> None:
        source = TemplateSource(template_id=image_id, url="https://images.example/a")
        expected = "conflict" if image_id in self.volumes else "ok"
        assert outcome(self.driver.import_template(POOL, source, ignore)) == expected
        if expected == "ok":
            self.templates.add(image_id)

    @rule(image_id=ids, size_bytes=st.sampled_from(SIZES), parent=st.none() | ids)
    def ensure_image(self, image_id: str, size_bytes: int, parent: str | None) -> None:
        spec = VolumeSpec(image_id=image_id, size_bytes=size_bytes, template_id=parent)
        expected = self._expect(image_id, size_bytes, parent)
        assert outcome(self.driver.ensure_image(POOL, spec)) == expected
        if expected == "ok":
            self.volumes[image_id] = (size_bytes, parent)

    def _expect(self, image_id: str, size_bytes: int, parent: str | None) -> str:
        if image_id in self.templates:
            return Conflict.code
        if image_id in self.volumes:
            old_bytes, old_parent = self.volumes[image_id]
            return "ok" if old_parent == parent and old_bytes <= size_bytes else Conflict.code
        if parent is None or (parent in self.templates and size_bytes >= TEMPLATE_BYTES):
            return "ok"
        return Invalid.code

    @rule(image_id=ids)
    def ensure_image_absent(self, image_id: str) -> None:
        has_clones = any(parent == image_id for _, parent in self.volumes.values())
        expected = Conflict.code if has_clones else "ok"
        assert outcome(self.driver.ensure_image_absent(POOL, image_id)) == expected
        if expected == "ok":
            self.templates.discard(image_id)
            self.volumes.pop(image_id, None)

    @invariant()
    def images_are_those_of_the_model(self) -> None:
        images = finish(self.driver.list_images(POOL))
        assert {image.image_id: (image.size_bytes, image.template_id) for image in images} == {
            **dict.fromkeys(self.templates, (TEMPLATE_BYTES, None)),
            **self.volumes,
        }


class ComputeMachine(RuleBasedStateMachine):
    """The model: per domain, its definition, what runs of it, and whether it is paused.

    Each of two shared disks serves at most one active domain.
    """

    DISKS = IDS[2:]
    DOMAINS = IDS[:2]

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.node = SimulatedNode("a" * 24, self.world, clock=ManualClock(), traits=TRAITS)
        for disk in self.DISKS:
            spec = VolumeSpec(image_id=disk, size_bytes=MIB)
            finish(self.node.storage.ensure_image(POOL, spec))
        self.defined: dict[str, DomainSpec] = {}
        self.active: dict[str, DomainSpec] = {}
        self.paused: set[str] = set()

    def teardown(self) -> None:
        self.world.close()

    @rule(
        domain_id=st.sampled_from(DOMAINS),
        disk=st.sampled_from(DISKS),
        vcpus=st.integers(1, 2),
        generation=st.integers(0, 3),
    )
    def ensure_domain(self, domain_id: str, disk: str, vcpus: int, generation: int) -> None:
        spec = DomainSpec(
            domain_id=domain_id,
            name=f"machine {generation}",
            vcpus=vcpus,
            memory_bytes=MIB,
            os=OsFamily.LINUX,
            architecture=Architecture.X86_64,
            disks=(DiskSpec(storage_pool=POOL, image_id=disk),),
            generation=generation,
        )
        before = self.defined.get(domain_id)
        running = self.active.get(domain_id)
        applied = finish(self.node.compute.ensure_domain(spec))
        self.defined[domain_id] = spec
        waits = running is not None and (vcpus < running.vcpus or spec.disks != running.disks)
        if waits:
            assert applied.change is Change.RESTART
            assert running is not None
            assert applied.observed.running_generation == running.generation
            grown = max(vcpus, running.vcpus)
            self.active[domain_id] = DomainSpec(
                domain_id=domain_id,
                name=spec.name,
                vcpus=grown,
                memory_bytes=MIB,
                os=spec.os,
                architecture=spec.architecture,
                disks=running.disks,
                generation=running.generation,
            )
        elif running is not None:
            same = running == spec and before == spec
            assert applied.change is (Change.NONE if same else Change.LIVE)
            self.active[domain_id] = spec
        else:
            assert applied.change is (Change.NONE if before == spec else Change.DEFINED)

    @rule(domain_id=st.sampled_from(DOMAINS), power=st.sampled_from(Power))
    def ensure_power(self, domain_id: str, power: Power) -> None:
        got = outcome(self.node.compute.ensure_power(domain_id, power))
        if domain_id not in self.defined:
            assert got == "not_found"
        elif power is Power.STOPPED:
            assert got == "ok"
            self._stop(domain_id)
        elif domain_id not in self.active and self._disk_is_taken(domain_id):
            assert got == "conflict"
        else:
            assert got == "ok"
            self.active.setdefault(domain_id, self.defined[domain_id])
            (self.paused.add if power is Power.PAUSED else self.paused.discard)(domain_id)

    @rule(domain_id=st.sampled_from(DOMAINS))
    def ensure_domain_absent(self, domain_id: str) -> None:
        finish(self.node.compute.ensure_domain_absent(domain_id))
        self._stop(domain_id)
        self.defined.pop(domain_id, None)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def crash_domain(self, data: st.DataObject) -> None:
        domain_id = data.draw(st.sampled_from(sorted(self.active)))
        self.node.compute.crash_domain(domain_id)
        self._stop(domain_id)

    @rule()
    def power_cycle_host(self) -> None:
        self.node.compute.power_cycle_host()
        for domain_id in list(self.active):
            self._stop(domain_id)

    @rule()
    def restart_agent(self) -> None:
        self.node = SimulatedNode("a" * 24, self.world, clock=ManualClock(), traits=TRAITS)

    @rule(disk=st.sampled_from(DISKS))
    def delete_open_disk(self, disk: str) -> None:
        if any(disk == spec.disks[0].image_id for spec in self.active.values()):
            assert outcome(self.node.storage.ensure_image_absent(POOL, disk)) == "busy"

    @invariant()
    def domains_are_those_of_the_model(self) -> None:
        listed = finish(self.node.compute.list_domains())
        assert {
            domain.domain_id: (domain.state, domain.generation, domain.running_generation)
            for domain in listed
        } == {
            domain_id: (self._state(domain_id), spec.generation, self._running(domain_id))
            for domain_id, spec in self.defined.items()
        }

    def _stop(self, domain_id: str) -> None:
        self.active.pop(domain_id, None)
        self.paused.discard(domain_id)

    def _disk_is_taken(self, domain_id: str) -> bool:
        disks = self.defined[domain_id].disks
        return any(other.disks == disks for other in self.active.values())

    def _state(self, domain_id: str) -> DomainState:
        if domain_id not in self.active:
            return DomainState.SHUTOFF
        return DomainState.PAUSED if domain_id in self.paused else DomainState.RUNNING

    def _running(self, domain_id: str) -> int | None:
        running = self.active.get(domain_id)
        return None if running is None else running.generation


@pytest.mark.parametrize("machine", [StorageMachine, ComputeMachine])
def test_fake_equals_the_model(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=150, stateful_step_count=30, deadline=None)
    )
