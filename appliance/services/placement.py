"""Placement with what this process has decided and not yet written.

The decision itself is pure (`resources/placement.py`). A batch that acts on one guards it, so two
processes that choose the same last room cannot both have it.
"""

from typing import Final

import msgspec

from appliance.model.compute import Architecture
from appliance.resources.placement import (
    Decision,
    Host,
    Spread,
    Wanted,
    hosts_of_zone,
    place,
    refuse,
    schedulable_of,
    set_schedulable,
    set_spread,
    spread_of,
)
from appliance.rpc.gateway import AgentGateway
from appliance.store.base import Consistency, Store

decode_hosts: Final = msgspec.json.Decoder(list[Host]).decode


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that needs a host.

    `agents`: of local storage pools that it uses; each lies on one host, and it must be that.
    """

    instance_id: str
    zone_id: str
    project_id: str
    vcpus: int
    memory_bytes: int
    architecture: Architecture
    agents: frozenset[str] = frozenset()


class Chosen(msgspec.Struct, frozen=True):
    host_id: str
    agent_id: str
    spread: Spread


class Placement:
    def __init__(self, store: Store, gateway: AgentGateway) -> None:
        self._store = store
        self._gateway = gateway
        self._promised: dict[str, tuple[str, Needs]] = {}  # by instance: its host

    async def choose(self, needs: Needs) -> Chosen:
        """Choose a host, and count on it until `forget`: others who choose meanwhile go elsewhere.

        Raises:
            InsufficientResource: no host fits; the reason says why, host by host.
        """
        self.forget(needs.instance_id)
        wanted, decision = await self._decide(needs)
        if decision.host is None:
            raise refuse(needs.zone_id, wanted, decision.refusals)
        self._promised[needs.instance_id] = (decision.host.id, needs)
        return Chosen(decision.host.id, decision.agent_id, wanted.spread)

    def forget(self, instance_id: str) -> None:
        """Let go of a promise: the row counts by now, or never will."""
        self._promised.pop(instance_id, None)

    async def explain(self, needs: Needs) -> Decision:
        """Return what `choose` would do, with the reason against each host that it refuses."""
        _, decision = await self._decide(needs)
        return decision

    async def spread_of(self, project_id: str) -> Spread:
        """Return how the machines of a project keep apart."""
        (row,) = await self._store.query(spread_of(project_id))
        return Spread(str(row["spread"]))

    async def set_spread(self, project_id: str, spread: Spread) -> None:
        """Decide it for the machines that are made from now on; those that run stay."""
        await self._store.batch([set_spread(project_id, spread)])

    async def is_schedulable(self, kaktus_id: str) -> bool:
        """Tell whether a host that exists takes new instances."""
        (row,) = await self._store.query(schedulable_of(kaktus_id))
        return bool(row["schedulable"])

    async def set_schedulable(self, kaktus_id: str, *, schedulable: bool) -> None:
        """Open or close a host for new instances; those that it has stay."""
        await self._store.batch([set_schedulable(kaktus_id, schedulable=schedulable)])

    async def _decide(self, needs: Needs) -> tuple[Wanted, Decision]:
        (row,) = await self._store.query(
            hosts_of_zone(needs.zone_id, needs.project_id), Consistency.LINEARIZABLE
        )
        hosts = decode_hosts(str(row["hosts"]))
        self._count_promises(hosts, needs.project_id)
        reachable = self._gateway.reachable
        wanted = Wanted(
            vcpus=needs.vcpus,
            memory_bytes=needs.memory_bytes,
            architecture=needs.architecture,
            agents=needs.agents,
            reachable=frozenset(
                agent_id for host in hosts for agent_id in host.agents if reachable(agent_id)
            ),
            spread=Spread(str(row["spread"])),
        )
        return wanted, place(hosts, wanted)

    def _count_promises(self, hosts: list[Host], project_id: str) -> None:
        if not self._promised:
            return
        by_id = {host.id: host for host in hosts}
        for host_id, promised in self._promised.values():
            host = by_id.get(host_id)
            if host is not None:
                host.instances += 1
                host.used_vcpus += promised.vcpus
                host.used_memory_bytes += promised.memory_bytes
                host.siblings += promised.project_id == project_id
