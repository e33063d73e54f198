"""Placement: which Kaktus of a zone takes an instance. Pure, but for the statements that it needs.

One query tells all there is to know about a zone's hosts, one pass decides, and every host that is
refused has a reason. What was decided is guarded in the batch that acts on it: see `room_guard`.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from appliance.core.errors import InsufficientResource
from appliance.model.compute import Architecture
from appliance.resources.table import as_json
from appliance.store.base import Statement

_SHOWN: Final = 20  # reasons in one message; a zone has thousands of hosts at most


class Spread(StrEnum):
    """How the machines of a project keep apart."""

    NONE = "none"  # they do not
    SOFT = "soft"  # on the host that has the fewest of them
    HARD = "hard"  # never two on one host


class Host(msgspec.Struct, array_like=True, gc=False):
    """A Kaktus, what it has handed out, and how many machines of the project it has."""

    id: str
    name: str
    architecture: str  # empty until its agent has reported
    has_cpu_model: int  # what its zone wants its machines to see, if it does
    cpu_threads: int
    memory_bytes: int
    cpu_ratio: int
    memory_ratio: int
    schedulable: int
    instances: int
    used_vcpus: int
    used_memory_bytes: int
    siblings: int
    agents: list[str]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What needs a place.

    Attributes:
        agents: of local storage pools: the host must be where they are. Every host of the region
            reaches those on Ceph, whose agents are only the ones that Kahuna asks about them.
        reachable: agents that are connected.
    """

    vcpus: int
    memory_bytes: int
    architecture: Architecture
    agents: frozenset[str] = frozenset()
    reachable: frozenset[str]
    spread: Spread = Spread.SOFT


class Refusal(msgspec.Struct, frozen=True):
    host_id: str
    host_name: str
    reason: str


class Decision(msgspec.Struct, frozen=True):
    """The host that takes it, if any, with the agent to ask; and why the others do not."""

    host: Host | None
    agent_id: str
    refusals: tuple[Refusal, ...]


def place(hosts: Iterable[Host], wanted: Wanted) -> Decision:
    """Choose the host with the fewest siblings, then the one that is least full afterwards.

    Equal ones in the order of their making, so the same question has the same answer.
    """
    best: Host | None = None
    best_rank: tuple[int, float] = (0, 0.0)
    refusals: list[Refusal] = []
    apart = wanted.spread is not Spread.NONE
    for host in hosts:
        vcpus = host.used_vcpus + wanted.vcpus
        memory_bytes = host.used_memory_bytes + wanted.memory_bytes
        all_vcpus = host.cpu_threads * host.cpu_ratio
        all_bytes = host.memory_bytes * host.memory_ratio
        if (
            vcpus > all_vcpus
            or memory_bytes > all_bytes
            or wanted.memory_bytes > host.memory_bytes
            or not host.schedulable
            or host.architecture != wanted.architecture
            or not host.has_cpu_model
            or wanted.reachable.isdisjoint(host.agents)
            or not wanted.agents.issubset(host.agents)
            or (host.siblings and wanted.spread is Spread.HARD)
        ):
            refusals.append(Refusal(host.id, host.name, reason_against(host, wanted)))
            continue
        rank = (host.siblings * apart, max(vcpus / all_vcpus, memory_bytes / all_bytes))
        if best is None or rank < best_rank:
            best, best_rank = host, rank
    agent_id = "" if best is None else _first(best.agents, wanted.reachable)
    return Decision(best, agent_id, tuple(refusals))


def reason_against(host: Host, wanted: Wanted) -> str:
    """Say why a host cannot take it; what no free room would mend comes first."""
    return next(_reasons(host, wanted))


def _reasons(host: Host, wanted: Wanted) -> Iterator[str]:
    if not host.agents:
        yield "no agent acts for it"
    if wanted.reachable.isdisjoint(host.agents):
        yield "its agent is not connected"
    if not host.architecture:
        yield "its agent has not reported what it has"
    if not host.schedulable:
        yield "it is closed to new instances"
    if host.architecture != wanted.architecture:
        yield f"it is {host.architecture}, the template is for {wanted.architecture}"
    if not host.has_cpu_model:
        yield "it cannot give its guests the processor of its zone"
    if not wanted.agents.issubset(host.agents):
        yield "it does not reach the storage pool, which is local to another host"
    if wanted.memory_bytes > host.memory_bytes:
        yield f"its whole memory is {host.memory_bytes} bytes"
    if host.siblings and wanted.spread is Spread.HARD:
        yield "it has an instance of this project, which must be apart"
    free_vcpus = max(host.cpu_threads * host.cpu_ratio - host.used_vcpus, 0)
    free_bytes = max(host.memory_bytes * host.memory_ratio - host.used_memory_bytes, 0)
    yield f"{free_vcpus} vCPUs and {free_bytes} bytes of memory are free"


def refuse(zone_id: str, wanted: Wanted, refusals: Sequence[Refusal]) -> InsufficientResource:
    """Return the error that says why no host fits, host by host."""
    told = [f"{refusal.host_name}: {refusal.reason}" for refusal in refusals[:_SHOWN]]
    if len(refusals) > _SHOWN:
        told.append(f"and {len(refusals) - _SHOWN} more")
    return InsufficientResource(
        f"no host of zone {zone_id} has room for {wanted.vcpus} vCPUs and {wanted.memory_bytes}"
        f" bytes of memory ({'; '.join(told) or 'it has no Kaktus'})",
        hint="add a host, remove something, or ask for less",
        zone=zone_id,
    )


def _first(agents: Sequence[str], reachable: frozenset[str]) -> str:
    return next(agent_id for agent_id in agents if agent_id in reachable)


def hosts_of_zone(zone_id: str, project_id: str) -> Statement:
    """Select one row: `hosts`, a JSON array of `Host`, and the project's `spread`.

    One value instead of a row for each host, because making and reading those costs more than all
    the rest of a decision.
    """
    return Statement(
        "SELECT coalesce((SELECT spread FROM project_placement WHERE project_id = ?), 'soft')"
        " AS spread, (SELECT json_group_array(json_array(id, name, cpu_arch, has_cpu_model,"
        " cpu_threads, memory_bytes, overcommit_cpu_ratio, overcommit_memory_ratio, schedulable,"
        " instances, vcpus, used_memory_bytes, siblings, json(agents))) FROM ("
        "SELECT kaktus.id, kaktus.name, cpu_arch, zone.cpu_model IS NULL OR cpu_arch <> 'x86_64'"
        " OR EXISTS (SELECT 1 FROM json_each(cpu_models) WHERE value = zone.cpu_model)"
        " AS has_cpu_model, cpu_threads, kaktus.memory_bytes, overcommit_cpu_ratio,"
        " overcommit_memory_ratio, schedulable, kaktus_load.instances, kaktus_load.vcpus,"
        " kaktus_load.memory_bytes AS used_memory_bytes, coalesce(own.siblings, 0) AS siblings,"
        " (SELECT json_group_array(agent_id) FROM kaktus_agent"
        " WHERE kaktus_agent.kaktus_id = kaktus.id) AS agents"
        " FROM kaktus JOIN zone ON zone.id = kaktus.zone_id"
        " JOIN kaktus_load ON kaktus_load.kaktus_id = kaktus.id"
        " LEFT JOIN (SELECT kaktus_id, COUNT(*) AS siblings FROM instance WHERE project_id = ?"
        " GROUP BY kaktus_id) AS own ON own.kaktus_id = kaktus.id"
        " WHERE zone_id = ? ORDER BY kaktus.id)) AS hosts",
        (project_id, project_id, zone_id),
    )


def room_guard(
    host_id: str,
    project_id: str,
    *,
    agents: Iterable[str],
    vcpus: int,
    memory_bytes: int,
    spread: Spread,
) -> Statement:
    """Select 1 while the host has room for so much more, for `store.base.guard`.

    `agents`: those by which it was chosen; it must still have them.
    """
    wanted = as_json(sorted(agents))
    return Statement(
        "SELECT EXISTS (SELECT 1 FROM kaktus JOIN kaktus_load ON kaktus_id = kaktus.id"
        " WHERE kaktus.id = ? AND schedulable = 1"
        " AND kaktus_load.vcpus + ? <= cpu_threads * overcommit_cpu_ratio"
        " AND kaktus_load.memory_bytes + ? <= kaktus.memory_bytes * overcommit_memory_ratio"
        " AND (? = 0 OR NOT EXISTS (SELECT 1 FROM instance"
        " WHERE project_id = ? AND instance.kaktus_id = kaktus.id))"
        " AND NOT EXISTS (SELECT value FROM json_each(?)"
        " EXCEPT SELECT agent_id FROM kaktus_agent WHERE kaktus_agent.kaktus_id = kaktus.id))",
        (host_id, vcpus, memory_bytes, int(spread is Spread.HARD), project_id, wanted),
    )


def growth_guard(instance_id: str, *, vcpus: int, memory_bytes: int) -> Statement:
    """Select 1 while the host of an instance has room for it to become this large.

    One that shrinks always has: a host may be over lowered ratios. One that is closed to new
    instances still has room for its own.
    """
    return Statement(
        "SELECT EXISTS (SELECT 1 FROM instance JOIN kaktus ON kaktus.id = instance.kaktus_id"
        " JOIN kaktus_load ON kaktus_load.kaktus_id = kaktus.id WHERE instance.id = ?"
        " AND (? <= instance.vcpus OR kaktus_load.vcpus - instance.vcpus + ?"
        " <= cpu_threads * overcommit_cpu_ratio)"
        " AND (? <= instance.memory_bytes OR (? <= kaktus.memory_bytes"
        " AND kaktus_load.memory_bytes - instance.memory_bytes + ?"
        " <= kaktus.memory_bytes * overcommit_memory_ratio)))",
        (instance_id, vcpus, vcpus, memory_bytes, memory_bytes, memory_bytes),
    )


def schedulable_of(kaktus_id: str) -> Statement:
    """Select one row: whether the host takes new instances."""
    return Statement("SELECT schedulable FROM kaktus WHERE id = ?", (kaktus_id,))


def set_schedulable(kaktus_id: str, *, schedulable: bool) -> Statement:
    return Statement(
        "UPDATE kaktus SET schedulable = ? WHERE id = ?", (int(schedulable), kaktus_id)
    )


def spread_of(project_id: str) -> Statement:
    """Select one row: the project's `spread`."""
    return Statement(
        "SELECT coalesce((SELECT spread FROM project_placement WHERE project_id = ?), 'soft')"
        " AS spread",
        (project_id,),
    )


def set_spread(project_id: str, spread: Spread) -> Statement:
    return Statement(
        "INSERT INTO project_placement (project_id, spread) VALUES (?, ?)"
        " ON CONFLICT (project_id) DO UPDATE SET spread = excluded.spread",
        (project_id, spread.value),
    )
