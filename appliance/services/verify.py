"""Whether every row has its thing and every thing its row. Reads, and changes nothing."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from appliance.core.errors import Corrupt, KowabungaError
from appliance.model.network import ObservedBridge
from appliance.model.storage import ObservedImage, StoragePoolRef
from appliance.resources.bridge import WantedBridge, compare_bridges, wanted_bridges
from appliance.resources.observed import (
    ALL_HOSTS,
    ALL_POOLS,
    Difference,
    ExpectedDomain,
    ExpectedImage,
    ObservedHost,
    ObservedPool,
    Trouble,
    compare_domains,
    compare_images,
    expected_domains,
    expected_images,
)
from appliance.rpc.compute import COMPUTE_LIST_DOMAINS, COMPUTE_LIST_FLAWS
from appliance.rpc.gateway import AgentGateway
from appliance.rpc.method import Nothing
from appliance.rpc.network import NETWORK_LIST_BRIDGES
from appliance.rpc.storage import (
    STORAGE_LIST_IMAGES,
    STORAGE_LIST_UNFINISHED,
    ImageListParams,
    StoragePoolParams,
)
from appliance.services.seeds import Seeds
from appliance.store.base import Consistency, Row, Statement, Store, fetch

S = TypeVar("S", bound=msgspec.Struct)
_AT_ONCE: Final = 16
_MOST_IMAGES: Final = 1_000_000  # in a pool
_HELD: Final = Statement("SELECT target FROM operation_target")


class Verdict(msgspec.Struct, frozen=True):
    """What was found, and what could not be looked at."""

    differences: tuple[Difference, ...]
    unseen: tuple[str, ...]  # targets of hosts and pools, with the reason

    @property
    def is_clean(self) -> bool:
        return not self.differences and not self.unseen


async def verify_world(store: Store, gateway: AgentGateway, seeds: Seeds) -> Verdict:
    """Compare all rows of machines, networks and disks with what the nodes show.

    What operations work on is left out, and so is a host or pool that has no agent and by its rows
    nothing else. Nodes are looked at a few at once, and each more than once, so on a busy cloud a
    difference may be a thing that came or went meanwhile: look twice.
    """
    looks = _Looks(store, gateway, seeds)
    hosts = await fetch(store, ObservedHost, ALL_HOSTS, Consistency.LINEARIZABLE)
    pools = await fetch(store, ObservedPool, ALL_POOLS, Consistency.LINEARIZABLE)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(looks.contain(f"kaktus/{host.id}", looks.at_host(host)))
            for host in hosts
        ]
        for pool in pools:
            sharing = [each for each in pools if each is not pool and _is_same_place(pool, each)]
            about = f"storage_pool/{pool.storage_pool_id}"
            tasks.append(group.create_task(looks.contain(about, looks.at_pool(pool, sharing))))
    differences = [difference for task in tasks for difference in task.result()]
    return Verdict(tuple(dict.fromkeys(differences)), tuple(sorted(looks.unseen)))


class _Looks:
    """Looks at one host or pool after the other, as many at once as `_AT_ONCE`."""

    def __init__(self, store: Store, gateway: AgentGateway, seeds: Seeds) -> None:
        self._store = store
        self._gateway = gateway
        self._seeds = seeds
        self._room = asyncio.Semaphore(_AT_ONCE)
        self.unseen: list[str] = []

    async def contain(
        self, about: str, look: Coroutine[Any, Any, Sequence[Difference]]
    ) -> Sequence[Difference]:
        """Return what a look finds; note why it cannot look."""
        try:
            async with self._room:
                return await look
        except KowabungaError as error:
            self.unseen.append(f"{about}: {error.detail}")
            return ()

    async def at_host(self, host: ObservedHost) -> Sequence[Difference]:
        agents = host.list_agents()
        expected = expected_domains(host.id)
        if not agents and not await self._query(expected):
            return ()
        agent_id = self._agent_among(agents)
        held = await self._held()
        domains = (await self._gateway.call(agent_id, COMPUTE_LIST_DOMAINS, Nothing())).domains
        bridges = (await self._gateway.call(agent_id, NETWORK_LIST_BRIDGES, Nothing())).bridges
        flaws = (await self._gateway.call(agent_id, COMPUTE_LIST_FLAWS, Nothing())).flaws
        # Rows last: what came meanwhile has them already.
        rows = await self._fetch(ExpectedDomain, expected)
        wanted = await self._fetch(WantedBridge, wanted_bridges(agent_id))
        held |= await self._held()
        found = compare_domains(rows, domains)
        found += [
            Difference(Trouble.FLAW, f"instance/{flaw.domain_id}", flaw.detail)
            for flaw in flaws
            if flaw.domain_id is not None and f"instance/{flaw.domain_id}" not in held
        ]
        about = f"kaktus/{host.id}"
        if about in held or any(f"instance/{row.id}" in held for row in rows):
            return found  # whose ports and bridges are whose is not settled
        found += [
            Difference(Trouble.FLAW, about, flaw.detail) for flaw in flaws if flaw.domain_id is None
        ]
        return [*found, *_bridge_differences(about, wanted, bridges)]

    async def at_pool(
        self, pool: ObservedPool, sharing: Sequence[ObservedPool]
    ) -> Sequence[Difference]:
        """Compare the images of a pool; those that `sharing` pools have rows for are known."""
        agents = pool.list_agents()
        expected = expected_images(pool.storage_pool_id)
        if not agents and not await self._query(expected):
            return ()
        agent_id = self._agent_among(agents)
        held = await self._held()
        seen = await list_images(self._gateway, agent_id, pool.ref)
        left = (
            await self._gateway.call(agent_id, STORAGE_LIST_UNFINISHED, StoragePoolParams(pool.ref))
        ).files
        rows = await self._fetch(ExpectedImage, expected)
        own = {row.id for row in rows}
        elsewhere = {
            row.id
            for other in sharing
            for row in await self._fetch(ExpectedImage, expected_images(other.storage_pool_id))
        }
        mine = [image for image in seen if image.image_id not in elsewhere - own]
        digests = await self._seeds.digests(pool.storage_pool_id)
        held |= await self._held()
        at_work = {name.partition("/")[2] for name in held}
        return [
            *compare_images(rows, mine, digests),
            *(
                Difference(
                    Trouble.FLAW, f"image/{file.image_id}", f"{file.name} was never finished"
                )
                for file in left
                if file.image_id not in at_work
            ),
        ]

    async def _held(self) -> set[str]:
        """Return the targets that operations hold now."""
        return {str(row["target"]) for row in await self._query(_HELD)}

    async def _query(self, statement: Statement) -> list[Row]:
        return await self._store.query(statement, Consistency.LINEARIZABLE)

    async def _fetch(self, kind: type[S], statement: Statement) -> list[S]:
        return await fetch(self._store, kind, statement, Consistency.LINEARIZABLE)

    def _agent_among(self, agents: Sequence[str]) -> str:
        """Return the first that is connected, else any: the call then says why it fails."""
        return next(filter(self._gateway.reachable, agents), agents[0] if agents else "")


def _bridge_differences(
    about: str, wanted: Sequence[WantedBridge], seen: Sequence[ObservedBridge]
) -> Iterator[Difference]:
    changes = compare_bridges(wanted, seen)
    for bridge in changes.unwanted:
        yield Difference(Trouble.FLAW, about, f"no instance here needs bridge {bridge.name}")
    for spec in changes.differing:
        detail = f"bridge {spec.name} is missing, or not in VLAN {spec.vlan}"
        yield Difference(Trouble.FLAW, about, detail)


def _is_same_place(one: ObservedPool, other: ObservedPool) -> bool:
    """Tell whether two rows are one pool of one Ceph cluster."""
    return one.pool == other.pool and not one.monitors.isdisjoint(other.monitors)


async def list_images(
    gateway: AgentGateway, agent_id: str, storage_pool: StoragePoolRef
) -> list[ObservedImage]:
    """Return every image of a storage pool, page by page: those that come meanwhile may lack.

    Raises:
        Corrupt: the pages do not go on by id, or never end.
    """
    images: list[ObservedImage] = []
    after: str | None = None
    while True:
        page = await gateway.call(
            agent_id, STORAGE_LIST_IMAGES, ImageListParams(storage_pool, after)
        )
        images += page.images
        if not page.more or not page.images:
            return images
        before, after = after or "", page.images[-1].image_id
        if after <= before or len(images) > _MOST_IMAGES:
            raise Corrupt(f"agent {agent_id} lists images of a pool without an end")
