"""Domains: what steps do to the virtual machine of an instance, whoever the instance belongs to."""

from typing import Final

import msgspec

from appliance.core.errors import DriverError
from appliance.model.compute import (
    Architecture,
    DiskSpec,
    DomainSpec,
    Firmware,
    InterfaceSpec,
    ObservedDomain,
    OsFamily,
    Tpm,
)
from appliance.model.domain_state import DomainReason, DomainState, Power
from appliance.model.network import BridgeSpec
from appliance.model.target import target
from appliance.operations.step import Outputs, StepContext
from appliance.resources.ipv4 import format_address
from appliance.resources.work import PoolPlace, Work, read_rows
from appliance.rpc.compute import (
    COMPUTE_ENSURE_DOMAIN,
    COMPUTE_ENSURE_DOMAIN_ABSENT,
    COMPUTE_ENSURE_POWER,
    COMPUTE_GET_DOMAIN,
    DomainPower,
    DomainRef,
)
from appliance.rpc.network import NETWORK_ENSURE_BRIDGE
from appliance.store.base import Statement

# How long a guest that must be restarted, or shall shut down, may take before the plug is pulled.
# Leaves the rest of an update's deadline to everything else.
GRACE_S: Final = 150.0


# The names of the steps below.
DEFINE: Final = "domain"
RUN: Final = "power"


class DomainDisk(PoolPlace, frozen=True):
    id: str


class DomainInterface(msgspec.Struct, frozen=True):
    mac: str
    bridge: str
    vlan: int
    reserved: bool
    addresses: list[int]


class DomainRow(msgspec.Struct, frozen=True):
    """An instance as its domain shall be."""

    id: str
    name: str
    description: str
    vcpus: int
    memory_bytes: int
    generation: int
    power: Power
    observed_state: DomainState
    os: OsFamily
    architecture: Architecture
    firmware: Firmware
    tpm: Tpm
    cpu_model: str | None
    disks: str
    interfaces: str
    seed_pool: str

    def list_disks(self) -> list[DomainDisk]:
        return msgspec.json.decode(self.disks, type=list[DomainDisk], strict=False)

    def list_interfaces(self) -> list[DomainInterface]:
        return msgspec.json.decode(self.interfaces, type=list[DomainInterface], strict=False)

    def spec(self) -> DomainSpec:
        return DomainSpec(
            domain_id=self.id,
            name=self.name,
            description=self.description,
            vcpus=self.vcpus,
            memory_bytes=self.memory_bytes,
            os=self.os,
            architecture=self.architecture,
            disks=tuple(
                DiskSpec(storage_pool=disk.ref, image_id=disk.id) for disk in self.list_disks()
            ),
            interfaces=tuple(
                InterfaceSpec(
                    mac=interface.mac,
                    bridge=interface.bridge,
                    # A router's card carries the addresses of others.
                    addresses=None
                    if interface.reserved
                    else tuple(format_address(address) for address in interface.addresses),
                )
                for interface in self.list_interfaces()
            ),
            seed=DiskSpec(
                storage_pool=msgspec.json.decode(self.seed_pool, type=PoolPlace, strict=False).ref,
                image_id=self.id,
            ),
            # A zone's processor is one of x86: under KVM, ARM has only that of the host.
            cpu_model=self.cpu_model if self.architecture is Architecture.X86_64 else None,
            firmware=self.firmware,
            tpm=self.tpm,
            generation=self.generation,
        )


class Defined(msgspec.Struct, frozen=True):
    """The output of the step that defines a domain.

    `guest_left`: the guest had powered itself off, so it stays off.
    """

    generation: int
    guest_left: bool


class Running(msgspec.Struct, frozen=True):
    """The output of the step that brings a domain to its power state."""

    state: DomainState
    reason: DomainReason


def domain_row(instance_id: str) -> Statement:
    """Select the `DomainRow`: the disk with the system first, a public card before others."""
    return Statement(
        "SELECT instance.id, instance.name, instance.description, instance.vcpus,"
        " instance.memory_bytes, instance.generation, instance.power, instance.observed_state,"
        " template.os, template.architecture, template.firmware, template.tpm,"
        " (SELECT zone.cpu_model FROM kaktus JOIN zone ON zone.id = kaktus.zone_id"
        " WHERE kaktus.id = instance.kaktus_id) AS cpu_model,"
        " (SELECT json_group_array(json_object('id', id, 'storage_pool_id', storage_pool_id,"
        " 'pool', pool, 'ceph_address', ceph_address, 'ceph_port', ceph_port)) FROM"
        " (SELECT volume.id, volume.storage_pool_id, pool, ceph_address, ceph_port FROM volume"
        " JOIN storage_pool ON storage_pool.id = volume.storage_pool_id"
        " WHERE volume.instance_id = instance.id ORDER BY volume.type <> 'os', volume.position))"
        " AS disks,"
        " (SELECT json_group_array(json_object('mac', mac, 'bridge', interface, 'vlan', vlan,"
        " 'reserved', reserved, 'addresses', json(addresses))) FROM"
        " (SELECT lower(adapter.mac) AS mac, vnet.interface, vnet.vlan, adapter.reserved,"
        " (SELECT json_group_array(address) FROM (SELECT address FROM adapter_address"
        " WHERE adapter_id = adapter.id ORDER BY position)) AS addresses FROM adapter"
        " JOIN subnet ON subnet.id = adapter.subnet_id JOIN vnet ON vnet.id = subnet.vnet_id"
        " WHERE adapter.instance_id = instance.id ORDER BY vnet.private, adapter.position))"
        " AS interfaces,"
        " (SELECT json_object('storage_pool_id', id, 'pool', pool, 'ceph_address', ceph_address,"
        " 'ceph_port', ceph_port) FROM storage_pool WHERE id = seed_pool_id) AS seed_pool"
        " FROM instance"
        " JOIN volume AS system ON system.instance_id = instance.id AND system.type = 'os'"
        " JOIN template ON template.id = system.template_id"
        " WHERE instance.id = ?",
        (instance_id,),
    )


def guest_left(desired: Power, last: DomainState, now: DomainState, why: DomainReason) -> bool:
    """Tell whether a guest that we saw running has powered itself off, which we respect.

    One that crashed, or whose host lost power, is off for another reason.
    """
    return (
        desired is Power.RUNNING
        and last is DomainState.RUNNING
        and now is DomainState.SHUTOFF
        and why is DomainReason.SHUTDOWN
    )


async def define(context: StepContext[Work]) -> Defined:
    """Define the domain and the bridges it needs, or change what is there; live if possible."""
    row = await _read(context)
    held = target("instance", row.id)
    agent_id = context.arguments.host_agent
    for bridge in sorted({(card.bridge, card.vlan) for card in row.list_interfaces()}):
        # Under the instance, not the node: locking that would put all its instances in a queue,
        # and a bridge more than needed does no harm.
        name, vlan = bridge
        await context.call(
            agent_id, NETWORK_ENSURE_BRIDGE, BridgeSpec(name=name, vlan=vlan), target=held
        )
    applied = await context.call(agent_id, COMPUTE_ENSURE_DOMAIN, row.spec(), target=held)
    observed = applied.observed
    return Defined(
        generation=row.generation,
        guest_left=guest_left(row.power, row.observed_state, observed.state, observed.reason),
    )


async def run(context: StepContext[Work]) -> Running:
    """Bring the domain to its power state; restart it where a change waits for that."""
    row = await _read(context)
    left = context.outputs.get(DEFINE, Defined).guest_left
    power = Power.STOPPED if left else row.power
    if power is Power.RUNNING:
        seen = await context.call(
            context.arguments.host_agent,
            COMPUTE_GET_DOMAIN,
            DomainRef(row.id),
            target=target("instance", row.id),
        )
        running = seen.running_generation
        if running is not None and running < seen.generation:
            await ensure_power(context, Power.STOPPED, grace_s=GRACE_S)
    return as_running(await ensure_power(context, power))


async def ensure_power(
    context: StepContext[Work], power: Power, *, grace_s: float = 0
) -> ObservedDomain:
    instance_id = context.arguments.instance_id
    return await context.call(
        context.arguments.host_agent,
        COMPUTE_ENSURE_POWER,
        DomainPower(instance_id, power, grace_s),
        target=target("instance", instance_id),
    )


async def ensure_domain_absent(context: StepContext[Work]) -> None:
    instance_id = context.arguments.instance_id
    await context.call(
        context.arguments.host_agent,
        COMPUTE_ENSURE_DOMAIN_ABSENT,
        DomainRef(instance_id),
        target=target("instance", instance_id),
    )


def as_running(observed: ObservedDomain) -> Running:
    return Running(observed.state, observed.reason)


def record_domain(work: Work, outputs: Outputs) -> Statement:
    """Write what `define` and `run` have made and found."""
    defined, running = outputs.get(DEFINE, Defined), outputs.get(RUN, Running)
    return Statement(
        "UPDATE instance SET phase = 'ready', problem = NULL, observed_generation = ?,"
        " power = CASE WHEN ? THEN 'stopped' ELSE power END,"
        " observed_state = ?, observed_reason = ? WHERE id = ?",
        (
            defined.generation,
            int(defined.guest_left),
            running.state.value,
            running.reason.value,
            work.instance_id,
        ),
    )


async def _read(context: StepContext[Work]) -> DomainRow:
    instance_id = context.arguments.instance_id
    rows = await read_rows(context, DomainRow, domain_row(instance_id))
    if not rows:
        raise DriverError(f"instance {instance_id} has no volume with a system")
    return rows[0]
