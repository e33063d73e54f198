"""What a request for a disk may leave out: its storage pool and its template."""

import msgspec

from appliance.model.compute import Architecture
from appliance.resources.storage_pool import LOCAL
from appliance.resources.work import PoolPlace
from appliance.store.base import Statement


class PoolChoice(PoolPlace, frozen=True):
    agents: str  # JSON

    def list_agents(self) -> list[str]:
        return msgspec.json.decode(self.agents, type=list[str])

    @property
    def local_agents(self) -> frozenset[str]:
        """Where a domain must be to use it; empty for a pool that every host reaches."""
        return frozenset(self.list_agents() if self.ceph_address.startswith(LOCAL) else ())


class TemplateChoice(msgspec.Struct, frozen=True):
    id: str
    architecture: Architecture
    size_bytes: int


class RegionOfZone(msgspec.Struct, frozen=True):
    region_id: str


class SubnetChoice(msgspec.Struct, frozen=True):
    subnet_id: str


def pool_choice(region_id: str, pool_id: str | None) -> Statement:
    """Select the `PoolChoice` that is named, or the default of the region."""
    return Statement(
        "SELECT id AS storage_pool_id, pool, ceph_address, ceph_port,"
        " (SELECT json_group_array(agent_id) FROM (SELECT agent_id FROM storage_pool_agent"
        " WHERE storage_pool_agent.storage_pool_id = storage_pool.id ORDER BY position)) AS agents"
        " FROM storage_pool WHERE region_id = ?"
        " AND CASE WHEN ? IS NULL THEN is_default ELSE id = ? END",
        (region_id, pool_id, pool_id),
    )


def pools_by_id(pool_ids: str) -> Statement:
    """Select a `PoolChoice` for each id in a JSON array."""
    return Statement(
        "SELECT id AS storage_pool_id, pool, ceph_address, ceph_port,"
        " (SELECT json_group_array(agent_id) FROM (SELECT agent_id FROM storage_pool_agent"
        " WHERE storage_pool_agent.storage_pool_id = storage_pool.id ORDER BY position)) AS agents"
        " FROM storage_pool WHERE id IN (SELECT value FROM json_each(?))",
        (pool_ids,),
    )


def pool_agents(pool_id: str) -> Statement:
    """Select each `agent_id` that Kahuna asks about a storage pool."""
    return Statement(
        "SELECT agent_id FROM storage_pool_agent WHERE storage_pool_id = ?", (pool_id,)
    )


def pool_guard(pool_id: str, agent_id: str) -> Statement:
    """Select 1 while an agent acts for a storage pool: guards the batch that adds an image."""
    return Statement(
        "SELECT EXISTS (SELECT 1 FROM storage_pool_agent"
        " WHERE storage_pool_id = ? AND agent_id = ?)",
        (pool_id, agent_id),
    )


def template_choice(pool_id: str, template_id: str | None) -> Statement:
    """Select the `TemplateChoice` that is named, or the default of the pool."""
    return Statement(
        "SELECT id, architecture, size_bytes FROM template"
        " WHERE storage_pool_id = ? AND phase = 'ready'"
        " AND CASE WHEN ? IS NULL THEN is_default ELSE id = ? END",
        (pool_id, template_id, template_id),
    )


def template_is_ready(template_id: str) -> Statement:
    """Select 1 while clones may be made of a template: guards the batch that adds one."""
    return Statement(
        "SELECT EXISTS (SELECT 1 FROM template WHERE id = ? AND phase = 'ready')", (template_id,)
    )


def region_of_zone(zone_id: str) -> Statement:
    return Statement("SELECT region_id FROM zone WHERE id = ?", (zone_id,))


def public_subnet(region_id: str) -> Statement:
    """Select the `SubnetChoice` that gives public addresses in a region.

    It is the default one of the first virtual network that is not private.
    """
    return Statement(
        "SELECT id AS subnet_id FROM subnet WHERE is_default = 1 AND vnet_id ="
        " (SELECT min(id) FROM vnet WHERE region_id = ? AND private = 0)",
        (region_id,),
    )
