"""Instance: a virtual machine."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.model.domain_state import Power
from appliance.resources.fields import Maybe, about, given
from appliance.resources.host_name import check_host_name
from appliance.resources.names import check_references, check_text, quoted
from appliance.resources.sizes import check_memory, check_vcpus
from appliance.resources.table import View, as_json
from appliance.resources.volume import VolumeType
from appliance.store.base import Row, Statement, guard


class Instance(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A virtual machine, put together from adapters and volumes."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Host name, unique among instances")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    memory: Annotated[int, about("Memory in bytes", json_format="int64")]
    vcpus: Annotated[int, about("Number of vCPUs", json_format="int64")]
    adapters: Annotated[
        Maybe[list[str]], about("Ids of its adapters, in the order of its cards", implied=[])
    ] = UNSET
    volumes: Annotated[
        Maybe[list[str]], about("Ids of its volumes, one of type os among them", implied=[])
    ] = UNSET


class InstanceState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a virtual machine does, as its host last saw it."""

    state: Annotated[str, about("State, such as Running or Shutoff")]
    reason: Annotated[str, about("How it came to that")]


class InstanceRemoteAccess(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where the screen of a virtual machine is."""

    url: Annotated[str, about("Address of the console")]


def check_instance(instance: Instance) -> None:
    """Accept an instance by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_host_name(instance.name)
    check_text(given(instance.description, ""))
    check_memory(instance.memory)
    check_vcpus(instance.vcpus)
    check_references(given(instance.adapters, []), "adapters")
    check_references(given(instance.volumes, []), "volumes")


class InstanceFacts(msgspec.Struct, frozen=True):
    """An instance as a request about it needs to know it."""

    id: str
    name: str
    project_id: str
    kaktus_id: str
    region_id: str
    zone_id: str
    kompute_id: str | None
    phase: str
    power: Power
    generation: int
    seed_pool_id: str
    observed_state: str
    observed_reason: str
    host_name: str
    agents: str  # JSON; of its Kaktus
    volumes: str  # JSON; ids, in the order of the disks

    def list_agents(self) -> list[str]:
        return msgspec.json.decode(self.agents, type=list[str])

    def list_volumes(self) -> list[str]:
        return msgspec.json.decode(self.volumes, type=list[str])


class PartFacts(msgspec.Struct, frozen=True):
    """An adapter or volume that an instance wants, and what speaks for or against it."""

    id: str
    is_mine: bool  # of the project, or of a public network
    phase: str
    kompute_id: str | None
    instance_id: str | None
    region_id: str


class AdapterFacts(PartFacts, frozen=True):
    is_public: bool


class VolumeFacts(PartFacts, frozen=True):
    type: str
    storage_pool_id: str
    architecture: str | None  # of its template
    local_agents: str | None  # JSON; of its storage pool, if that is local to them

    def list_local_agents(self) -> list[str]:
        return msgspec.json.decode(self.local_agents or "[]", type=list[str])


def _decode(row: Row) -> Instance:
    lists = {name: msgspec.json.decode(str(row[name])) for name in ("adapters", "volumes")}
    return msgspec.convert(row | lists, Instance)


INSTANCES: Final = View(
    kind="instance",
    title="instance",
    struct=Instance,
    list_ids=Statement("SELECT id FROM instance WHERE phase <> 'creating' ORDER BY id"),
    find_named=lambda _, name: Statement(
        "SELECT coalesce(kompute_id, id) AS id FROM instance WHERE lower(name) = lower(?)", (name,)
    ),
    read=lambda instance_id: Statement(
        "SELECT id, name, description, memory_bytes AS memory, vcpus, generation,"
        " (SELECT json_group_array(id) FROM (SELECT id FROM adapter"
        " WHERE instance_id = instance.id ORDER BY position)) AS adapters,"
        " (SELECT json_group_array(id) FROM (SELECT id FROM volume"
        " WHERE instance_id = instance.id ORDER BY position)) AS volumes"
        " FROM instance WHERE id = ? AND phase <> 'creating'",
        (instance_id,),
    ),
    decode=_decode,
)


def instances_of_project(project_id: str, zone_id: str) -> Statement:
    """Select the ids of the visible instances of a project in a zone."""
    return Statement(
        "SELECT instance.id FROM instance JOIN kaktus ON kaktus.id = kaktus_id"
        " WHERE project_id = ? AND zone_id = ? AND phase <> 'creating' ORDER BY instance.id",
        (project_id, zone_id),
    )


_FACTS: Final = """
SELECT instance.id, instance.name, project_id, kaktus_id, zone.region_id, kaktus.zone_id,
    kompute_id, phase, power, instance.generation, seed_pool_id, observed_state, observed_reason,
    kaktus.name AS host_name,
    (SELECT json_group_array(agent_id) FROM (SELECT agent_id FROM kaktus_agent
        WHERE kaktus_agent.kaktus_id = kaktus.id ORDER BY position)) AS agents,
    (SELECT json_group_array(id) FROM (SELECT id FROM volume
        WHERE instance_id = instance.id ORDER BY position)) AS volumes
FROM instance JOIN kaktus ON kaktus.id = kaktus_id JOIN zone ON zone.id = kaktus.zone_id
"""


def instance_facts(instance_id: str) -> Statement:
    """Select the `InstanceFacts`, of a hidden instance too."""
    return Statement(_FACTS + "WHERE instance.id = ?", (instance_id,))


def instance_facts_of_kompute(kompute_id: str) -> Statement:
    return Statement(_FACTS + "WHERE kompute_id = ?", (kompute_id,))


def wanted_adapters(project_id: str, adapter_ids: Sequence[str]) -> Statement:
    """Select the `AdapterFacts` of those that exist."""
    return Statement(
        "SELECT adapter.id, NOT vnet.private OR EXISTS (SELECT 1 FROM project_region"
        " WHERE project_region.subnet_id = adapter.subnet_id AND project_id = ?) AS is_mine,"
        " 'ready' AS phase, kompute_id, instance_id, region_id, NOT vnet.private AS is_public"
        " FROM adapter JOIN subnet ON subnet.id = subnet_id JOIN vnet ON vnet.id = vnet_id"
        " WHERE adapter.id IN (SELECT value FROM json_each(?))",
        (project_id, as_json(adapter_ids)),
    )


def wanted_volumes(project_id: str, volume_ids: Sequence[str]) -> Statement:
    """Select the `VolumeFacts` of those that exist."""
    return Statement(
        "SELECT volume.id, project_id = ? AS is_mine, volume.phase, kompute_id, instance_id,"
        " region_id, type, volume.storage_pool_id, template.architecture,"
        " CASE WHEN ceph_address LIKE 'local://%' THEN (SELECT json_group_array(agent_id)"
        " FROM storage_pool_agent WHERE storage_pool_agent.storage_pool_id = storage_pool.id)"
        " END AS local_agents FROM volume"
        " JOIN storage_pool ON storage_pool.id = volume.storage_pool_id"
        " LEFT JOIN template ON template.id = template_id"
        " WHERE volume.id IN (SELECT value FROM json_each(?))",
        (project_id, as_json(volume_ids)),
    )


def check_parts(
    instance: Instance,
    instance_id: str,
    region_id: str,
    adapters: Sequence[AdapterFacts],
    volumes: Sequence[VolumeFacts],
) -> None:
    """Accept the adapters and volumes that an instance wants.

    Raises:
        Invalid: one does not exist or is another's; or not exactly one volume of type os; or two
            adapters on public networks.
    """
    for field, ids, found in (
        ("adapters", given(instance.adapters, []), {part.id: part for part in adapters}),
        ("volumes", given(instance.volumes, []), {part.id: part for part in volumes}),
    ):
        for index, part_id in enumerate(ids):
            problem = _problem_of_part(found.get(part_id), instance_id, region_id)
            if problem:
                raise Invalid(
                    f"{field}[{index}] {quoted(part_id)} {problem}", field=f"{field}[{index}]"
                )
    systems = [volume.id for volume in volumes if volume.type == VolumeType.OS]
    if len(systems) != 1:
        raise Invalid(
            f"an instance has exactly one volume of type os, not {len(systems)}", field="volumes"
        )
    if sum(adapter.is_public for adapter in adapters) > 1:
        raise Invalid("an instance has at most one adapter on a public network", field="adapters")


def local_agents_of(volumes: Iterable[VolumeFacts]) -> frozenset[str]:
    """Return the agents of the local storage pools that volumes are in."""
    return frozenset(agent_id for volume in volumes for agent_id in volume.list_local_agents())


def check_reach(instance: InstanceFacts, volumes: Iterable[VolumeFacts]) -> None:
    """Accept the volumes that an instance shall have where it is.

    Raises:
        Invalid: one is in a storage pool that is local to another host.
    """
    for volume in volumes:
        if not local_agents_of([volume]).issubset(instance.list_agents()):
            raise Invalid(
                f"volume {volume.id} is in a storage pool that is local to another host than"
                f" {instance.host_name}, which instance {instance.id} is on",
                field="volumes",
                hint="choose a volume of a pool that this host reaches",
            )


def _problem_of_part(part: PartFacts | None, instance_id: str, region_id: str) -> str | None:
    if part is None or not part.is_mine or part.phase == "creating":
        return "does not exist in this project"
    if part.kompute_id is not None:
        return f"is owned by kompute {part.kompute_id}"
    if part.instance_id not in (None, instance_id):
        return f"is attached to instance {part.instance_id}"
    if part.phase == "deleting":
        return "is being deleted"
    if part.region_id != region_id:
        return "is in another region"
    return None


def insert_instance(
    instance_id: str,
    instance: Instance,
    *,
    project_id: str,
    kaktus_id: str,
    seed_pool_id: str,
    now_ms: int,
    kompute_id: str | None = None,
) -> Statement:
    return Statement(
        "INSERT INTO instance (id, project_id, kaktus_id, kompute_id, seed_pool_id, name,"
        " description, memory_bytes, vcpus, power, phase, created_at_ms, updated_at_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'running', 'creating', ?, ?)",
        (
            instance_id,
            project_id,
            kaktus_id,
            kompute_id,
            seed_pool_id,
            instance.name,
            given(instance.description, ""),
            instance.memory,
            instance.vcpus,
            now_ms,
            now_ms,
        ),
    )


def update_instance(instance_id: str, instance: Instance, now_ms: int) -> Statement:
    return Statement(
        "UPDATE instance SET name = ?, description = ?, memory_bytes = ?, vcpus = ?,"
        " generation = generation + 1, updated_at_ms = ? WHERE id = ?",
        (
            instance.name,
            given(instance.description, ""),
            instance.memory,
            instance.vcpus,
            now_ms,
            instance_id,
        ),
    )


def instance_guard(instance_id: str, generation: int) -> Statement:
    """Select 1 while the instance is as it was read."""
    return Statement(
        "SELECT EXISTS (SELECT 1 FROM instance WHERE id = ? AND generation = ?)",
        (instance_id, generation),
    )


def attach(
    instance_id: str, project_id: str, adapter_ids: Sequence[str], volume_ids: Sequence[str]
) -> tuple[Statement, ...]:
    """Give an instance exactly these parts, in this order; Stale if one is not to be had.

    What it had is let go of first, since two cannot change places one by one.
    """
    adapters, volumes = as_json(adapter_ids), as_json(volume_ids)
    opened, closed = guard(
        Statement(
            "SELECT (SELECT COUNT(*) FROM adapter JOIN subnet ON subnet.id = subnet_id"
            " JOIN vnet ON vnet.id = vnet_id WHERE adapter.id IN (SELECT value FROM json_each(?))"
            " AND instance_id IS NULL AND kompute_id IS NULL AND (NOT vnet.private OR EXISTS"
            " (SELECT 1 FROM project_region WHERE project_id = ?"
            " AND project_region.subnet_id = adapter.subnet_id))) = json_array_length(?)"
            " AND (SELECT COUNT(*) FROM volume WHERE id IN (SELECT value FROM json_each(?))"
            " AND instance_id IS NULL AND kompute_id IS NULL AND project_id = ?"
            " AND phase IN ('ready', 'error')) = json_array_length(?)",
            (adapters, project_id, adapters, volumes, project_id, volumes),
        )
    )
    return (
        *detach(instance_id),
        opened,
        Statement(
            "UPDATE adapter SET instance_id = ?,"
            " position = (SELECT key FROM json_each(?) WHERE value = adapter.id)"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (instance_id, adapters, adapters),
        ),
        Statement(
            "UPDATE volume SET instance_id = ?,"
            " position = (SELECT key FROM json_each(?) WHERE value = volume.id)"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (instance_id, volumes, volumes),
        ),
        closed,
    )


def detach(instance_id: str) -> tuple[Statement, Statement]:
    return (
        Statement(
            "UPDATE adapter SET instance_id = NULL, position = NULL WHERE instance_id = ?",
            (instance_id,),
        ),
        Statement(
            "UPDATE volume SET instance_id = NULL, position = NULL WHERE instance_id = ?",
            (instance_id,),
        ),
    )


def begin_delete_instance(instance_id: str) -> Statement:
    return Statement(
        "UPDATE instance SET phase = 'deleting', generation = generation + 1 WHERE id = ?",
        (instance_id,),
    )


def set_power(instance_id: str, power: Power) -> Statement:
    return Statement("UPDATE instance SET power = ? WHERE id = ?", (power.value, instance_id))
