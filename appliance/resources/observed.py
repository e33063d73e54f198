"""What rows expect of nodes, and how it differs from what nodes show. Pure, but for statements.

One comparison for reconciliation, which acts on it, and for `kowabunga state verify`, which tells
it.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

from appliance.model.compute import HostFacts, ObservedDomain
from appliance.model.domain_state import ACTIVE_STATES, DomainReason, DomainState, Power
from appliance.model.storage import ObservedImage, PoolStatistics, whole_sectors
from appliance.resources.domain import guest_left
from appliance.resources.table import as_json
from appliance.resources.work import PoolPlace
from appliance.store.base import Statement


class ExpectedDomain(msgspec.Struct, frozen=True):
    """An instance on a host.

    Attributes:
        is_held: an operation works on it: what is seen of it means nothing now.
        fence: rises with each operation, so it tells whether one came in between.
    """

    id: str
    kompute_id: str | None
    phase: str
    power: Power
    generation: int
    observed_generation: int
    observed_state: DomainState
    observed_reason: DomainReason
    is_held: bool
    fence: int


class ExpectedImage(msgspec.Struct, frozen=True):
    """A template or a volume in a storage pool, or the seed of an instance (kind "instance")."""

    id: str
    kind: str
    kompute_id: str | None
    phase: str
    size_bytes: int
    is_made: bool
    is_current: bool
    is_held: bool


class ObservedPool(PoolPlace, frozen=True):
    """A storage pool, and what its row says that was last seen of it."""

    agents: str  # JSON
    capacity_bytes: int
    available_bytes: int

    def list_agents(self) -> list[str]:
        return msgspec.json.decode(self.agents, type=list[str])


class ObservedHost(msgspec.Struct, frozen=True):
    """A Kaktus and the agents that act for it."""

    id: str
    agents: str  # JSON

    def list_agents(self) -> list[str]:
        return msgspec.json.decode(self.agents, type=list[str])


class Trouble(StrEnum):
    """How a row and its thing can differ."""

    MISSING = "missing"  # the row has no thing
    UNKNOWN = "unknown"  # the thing has no row
    OTHER = "other"  # the thing is not as the row wants it
    LEFT = "left"  # the guest has powered itself off
    GOING = "going"  # the row is to be deleted, and is still there
    FLAW = "flaw"  # of what belongs to things without a row of its own: bridges, ports, files


class Difference(msgspec.Struct, frozen=True):
    """A row and a thing that do not fit; `target` names both."""

    trouble: Trouble
    target: str
    detail: str


def compare_domains(
    expected: Iterable[ExpectedDomain], observed: Sequence[ObservedDomain]
) -> list[Difference]:
    """Return what differs on one host, of instances that no operation works on."""
    things = {domain.domain_id: domain for domain in observed}
    found: list[Difference] = []
    for row in expected:
        thing = things.pop(row.id, None)
        if row.is_held:
            continue
        difference = _compare_domain(row, thing)
        if difference is not None:
            found.append(difference)
    found.extend(
        Difference(Trouble.UNKNOWN, f"instance/{domain_id}", "a domain that no instance has")
        for domain_id in things
    )
    return found


def _compare_domain(row: ExpectedDomain, thing: ObservedDomain | None) -> Difference | None:
    name = f"instance/{row.id}"
    if row.phase == "deleting":
        return Difference(Trouble.GOING, name, "it was to be deleted")
    if thing is None:
        return Difference(Trouble.MISSING, name, "its domain is not on its host")
    if guest_left(row.power, row.observed_state, thing.state, thing.reason):
        return Difference(Trouble.LEFT, name, "its guest has powered itself off")
    wrong: list[str] = []
    if thing.generation != row.generation:
        wrong.append(f"defined as of generation {thing.generation}, not {row.generation}")
    if row.observed_generation != row.generation or row.phase == "error":
        wrong.append("its last change has failed or is not recorded")
    if not _has_power(row.power, thing.state):
        wrong.append(f"{thing.state} ({thing.reason}), not {row.power}")
    return Difference(Trouble.OTHER, name, ", ".join(wrong)) if wrong else None


def _has_power(power: Power, state: DomainState) -> bool:
    match power:
        case Power.RUNNING:
            return state in ACTIVE_STATES and state is not DomainState.PAUSED
        case Power.PAUSED:
            return state is DomainState.PAUSED
        case Power.STOPPED:
            return state not in ACTIVE_STATES


def compare_images(
    expected: Iterable[ExpectedImage],
    observed: Sequence[ObservedImage],
    seeds: Mapping[str, str | None],
) -> list[Difference]:
    """Return what differs in one storage pool, of objects that no operation works on.

    `seeds`: the digest of the seed that an instance should have; one left out is not looked at.
    """
    things = {image.image_id: image for image in observed}
    found: list[Difference] = []
    for row in expected:
        thing = things.pop(row.id, None)
        if row.is_held:
            continue
        name = f"{row.kind}/{row.id}"
        if row.kind == "instance":
            found.extend(_compare_seed(row, thing, seeds))
        elif row.phase == "deleting":
            found.append(Difference(Trouble.GOING, name, "it was to be deleted"))
        elif thing is None and row.is_made:
            found.append(Difference(Trouble.MISSING, name, "its image is not in its pool"))
        elif not row.is_current or thing is None:
            detail = "its last change has failed or is not recorded"
            found.append(Difference(Trouble.OTHER, name, detail))
        elif row.kind == "volume" and thing.size_bytes < whole_sectors(row.size_bytes):
            detail = f"its image has {thing.size_bytes} bytes, not {row.size_bytes}"
            found.append(Difference(Trouble.OTHER, name, detail))
    found.extend(
        Difference(Trouble.UNKNOWN, f"image/{image.image_id}", f"a {image.purpose} image of nobody")
        for image in things.values()
    )
    return found


def _compare_seed(
    row: ExpectedImage, thing: ObservedImage | None, seeds: Mapping[str, str | None]
) -> Iterable[Difference]:
    """Yield what is wrong with a seed; an instance that is going is told with its domain."""
    if row.phase == "deleting" or row.id not in seeds:
        return
    name = f"instance/{row.id}"
    if thing is None:
        yield Difference(Trouble.MISSING, name, "its seed is not in its pool")
    elif thing.seed_sha256 != seeds[row.id]:
        yield Difference(Trouble.OTHER, name, "its seed tells something else than it should")


def expected_domains(host_id: str) -> Statement:
    """Select each `ExpectedDomain` of a host."""
    return Statement(
        "SELECT instance.id, kompute_id, phase, power, generation, observed_generation,"
        " observed_state, observed_reason,"
        " EXISTS (SELECT 1 FROM operation_target AS held"
        " WHERE held.target = 'instance/' || instance.id) AS is_held,"
        " coalesce((SELECT fence FROM target_fence AS last"
        " WHERE last.target = 'instance/' || instance.id),"
        " (SELECT fence FROM fence_floor)) AS fence"
        " FROM instance WHERE kaktus_id = ?",
        (host_id,),
    )


def expected_images(pool_id: str) -> Statement:
    """Select each `ExpectedImage` of a storage pool, and those of its instances' seeds."""
    return Statement(
        "SELECT id, 'template' AS kind, NULL AS kompute_id, phase, size_bytes,"
        " phase <> 'creating' AS is_made, phase <> 'creating' AS is_current,"
        " EXISTS (SELECT 1 FROM operation_target AS held"
        " WHERE held.target = 'template/' || template.id) AS is_held"
        " FROM template WHERE storage_pool_id = ?"
        " UNION ALL SELECT id, 'volume', kompute_id, phase, size_bytes, observed_generation > 0,"
        " observed_generation = generation AND phase <> 'error',"
        " EXISTS (SELECT 1 FROM operation_target AS held"
        " WHERE held.target = 'volume/' || volume.id)"
        " FROM volume WHERE storage_pool_id = ?"
        " UNION ALL SELECT id, 'instance', kompute_id, phase, 0, 1, 1,"
        " EXISTS (SELECT 1 FROM operation_target AS held"
        " WHERE held.target = 'instance/' || instance.id)"
        " FROM instance WHERE seed_pool_id = ?",
        (pool_id, pool_id, pool_id),
    )


def hosts_of_agent(agent_id: str) -> Statement:
    """Select the `ObservedHost` that an agent acts for."""
    return Statement(
        "SELECT kaktus_id AS id, json_array(agent_id) AS agents FROM kaktus_agent"
        " WHERE agent_id = ?",
        (agent_id,),
    )


def pools_of_agent(agent_id: str) -> Statement:
    """Select each `ObservedPool` that an agent reaches."""
    return Statement(
        "SELECT storage_pool.id AS storage_pool_id, pool, ceph_address, ceph_port, capacity_bytes,"
        " available_bytes, json_array(agent_id) AS agents"
        " FROM storage_pool_agent JOIN storage_pool ON storage_pool.id = storage_pool_id"
        " WHERE agent_id = ?",
        (agent_id,),
    )


ALL_HOSTS = Statement(
    "SELECT id, (SELECT json_group_array(agent_id) FROM kaktus_agent"
    " WHERE kaktus_id = kaktus.id) AS agents FROM kaktus ORDER BY id"
)
ALL_POOLS = Statement(
    "SELECT id AS storage_pool_id, pool, ceph_address, ceph_port, capacity_bytes, available_bytes,"
    " (SELECT json_group_array(agent_id) FROM storage_pool_agent"
    " WHERE storage_pool_agent.storage_pool_id = storage_pool.id) AS agents"
    " FROM storage_pool ORDER BY id"
)


def record_host(host_id: str, facts: HostFacts) -> Statement:
    """Write what a host has; changes no row when that is known."""
    values = (
        facts.architecture.value,
        facts.cpu_vendor,
        facts.cpu_model,
        facts.cpu_sockets,
        facts.cpu_cores,
        facts.cpu_threads,
        facts.memory_bytes,
        as_json(facts.cpu_models),
    )
    return Statement(
        "UPDATE kaktus SET cpu_arch = ?, cpu_vendor = ?, cpu_model = ?, cpu_sockets = ?,"
        " cpu_cores = ?, cpu_threads = ?, memory_bytes = ?, cpu_models = ? WHERE id = ?"
        " AND (cpu_arch, cpu_vendor, cpu_model, cpu_sockets, cpu_cores, cpu_threads, memory_bytes,"
        " cpu_models) <> (?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, host_id, *values),
    )


def record_pool(pool_id: str, seen: PoolStatistics) -> Statement:
    return Statement(
        "UPDATE storage_pool SET capacity_bytes = ?, available_bytes = ? WHERE id = ?",
        (seen.capacity_bytes, seen.available_bytes, pool_id),
    )


def record_state(row: ExpectedDomain, seen: ObservedDomain, *, left: bool) -> Statement:
    """Write what a domain does, unless an operation has come to it since the row was read.

    `left`: its guest has powered itself off, so that is how it shall be.
    """
    return Statement(
        "UPDATE instance SET observed_state = ?, observed_reason = ?,"
        " power = CASE WHEN ? THEN 'stopped' ELSE power END WHERE id = ?"
        " AND NOT EXISTS (SELECT 1 FROM operation_target WHERE target = 'instance/' || instance.id)"
        " AND coalesce((SELECT fence FROM target_fence WHERE target = 'instance/' || instance.id),"
        " (SELECT fence FROM fence_floor)) = ?",
        (seen.state.value, seen.reason.value, int(left), row.id, row.fence),
    )
