"""Whether every row has its thing and every thing its row. Reads, and changes nothing."""

from collections.abc import Sequence

import msgspec

from appliance.core.errors import KowabungaError
from appliance.model.storage import ObservedImage, StoragePoolRef
from appliance.resources.observed import (
    ALL_HOSTS,
    ALL_POOLS,
    Difference,
    ExpectedDomain,
    ExpectedImage,
    ObservedHost,
    ObservedPool,
    compare_domains,
    compare_images,
    expected_domains,
    expected_images,
)
from appliance.rpc.compute import COMPUTE_LIST_DOMAINS
from appliance.rpc.gateway import AgentGateway
from appliance.rpc.method import Nothing
from appliance.rpc.storage import STORAGE_LIST_IMAGES, ImageListParams
from appliance.services.seeds import Seeds
from appliance.store.base import Consistency, Store, fetch


class Verdict(msgspec.Struct, frozen=True):
    """What was found, and what could not be looked at."""

    differences: tuple[Difference, ...]
    unseen: tuple[str, ...]  # targets of hosts and pools, with the reason

    @property
    def is_clean(self) -> bool:
        return not self.differences and not self.unseen


async def verify_world(store: Store, gateway: AgentGateway, seeds: Seeds) -> Verdict:
    """Compare all rows of machines and disks with what the nodes show.

    What operations work on is left out, and so is a host or pool that has no agent and by its rows
    nothing else. Several hosts are looked at one after the other, so on a busy cloud a difference
    may be a thing that came or went meanwhile: look twice.
    """
    differences: list[Difference] = []
    unseen: list[str] = []
    for host in await fetch(store, ObservedHost, ALL_HOSTS, Consistency.LINEARIZABLE):
        try:
            differences += await _verify_host(store, gateway, host)
        except KowabungaError as error:
            unseen.append(f"kaktus/{host.id}: {error.detail}")
    pools = await fetch(store, ObservedPool, ALL_POOLS, Consistency.LINEARIZABLE)
    for pool in pools:
        sharing = [other for other in pools if other is not pool and _is_same_place(pool, other)]
        try:
            differences += await _verify_pool(store, gateway, seeds, pool, sharing)
        except KowabungaError as error:
            unseen.append(f"storage_pool/{pool.storage_pool_id}: {error.detail}")
    return Verdict(tuple(dict.fromkeys(differences)), tuple(unseen))


async def _verify_host(
    store: Store, gateway: AgentGateway, host: ObservedHost
) -> Sequence[Difference]:
    agents = host.list_agents()
    expected = expected_domains(host.id)
    if not agents and not await store.query(expected, Consistency.LINEARIZABLE):
        return ()
    seen = await gateway.call(_agent_among(gateway, agents), COMPUTE_LIST_DOMAINS, Nothing())
    rows = await fetch(store, ExpectedDomain, expected, Consistency.LINEARIZABLE)
    return compare_domains(rows, seen.domains)


async def _verify_pool(
    store: Store,
    gateway: AgentGateway,
    seeds: Seeds,
    pool: ObservedPool,
    sharing: Sequence[ObservedPool],
) -> Sequence[Difference]:
    """Compare the images of a pool; those that `sharing` pools have rows for are not unknown."""
    agents = pool.list_agents()
    expected = expected_images(pool.storage_pool_id)
    if not agents and not await store.query(expected, Consistency.LINEARIZABLE):
        return ()
    seen = await list_images(gateway, _agent_among(gateway, agents), pool.ref)
    rows = await fetch(store, ExpectedImage, expected, Consistency.LINEARIZABLE)
    own = {row.id for row in rows}
    elsewhere = {
        row.id
        for other in sharing
        for row in await fetch(
            store,
            ExpectedImage,
            expected_images(other.storage_pool_id),
            Consistency.LINEARIZABLE,
        )
    }
    mine = [image for image in seen if image.image_id not in elsewhere - own]
    return compare_images(rows, mine, await seeds.digests(pool.storage_pool_id))


def _is_same_place(one: ObservedPool, other: ObservedPool) -> bool:
    """Tell whether two rows are one pool of one Ceph cluster."""
    return one.pool == other.pool and not one.monitors.isdisjoint(other.monitors)


async def list_images(
    gateway: AgentGateway, agent_id: str, storage_pool: StoragePoolRef
) -> list[ObservedImage]:
    """Return every image of a storage pool, page by page: those that come meanwhile may lack."""
    images: list[ObservedImage] = []
    while True:
        after = images[-1].image_id if images else None
        page = await gateway.call(
            agent_id, STORAGE_LIST_IMAGES, ImageListParams(storage_pool, after)
        )
        images += page.images
        if not page.more or not page.images:
            return images


def _agent_among(gateway: AgentGateway, agents: Sequence[str]) -> str:
    """Return the first that is connected, else any: the call then says why it fails."""
    return next(filter(gateway.reachable, agents), agents[0] if agents else "")
