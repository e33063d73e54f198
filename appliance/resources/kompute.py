"""Kompute: a virtual machine with its disks and adapters, made and removed as one."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.host_name import check_host_name
from appliance.resources.ipv4 import format_address
from appliance.resources.names import check_text
from appliance.resources.sizes import check_disk, check_memory, check_not_smaller, check_vcpus
from appliance.resources.table import View
from appliance.resources.volume import VolumeType
from appliance.store.base import Row, Statement


class Kompute(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A virtual machine of a project with a system disk, maybe a data disk, and its addresses."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Host name, unique among instances")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    memory: Annotated[int, about("Memory in bytes", json_format="int64")]
    vcpus: Annotated[int, about("Number of vCPUs", json_format="int64")]
    disk: Annotated[int, about("Size of the system disk in bytes; can grow", json_format="int64")]
    data_disk: Annotated[
        Maybe[int],
        about("Size of the data disk in bytes; 0 is none", default=0, json_format="int64"),
    ] = UNSET
    ip: Annotated[Maybe[str], about("Address in the project's subnet", read_only=True)] = UNSET


def check_kompute(kompute: Kompute) -> None:
    """Accept a Kompute by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_host_name(kompute.name)
    check_text(given(kompute.description, ""))
    check_memory(kompute.memory)
    check_vcpus(kompute.vcpus)
    check_disk(kompute.disk, "disk")
    if data_disk := given(kompute.data_disk, 0):
        check_disk(data_disk, "data_disk")


def check_kompute_change(stored: Kompute, wanted: Kompute) -> None:
    """Accept an update.

    Raises:
        Invalid: a disk would shrink or go away.
    """
    check_not_smaller(wanted.disk, stored.disk, "disk")
    old, new = given(stored.data_disk, 0), given(wanted.data_disk, 0)
    if old and not new:
        raise Invalid(
            f"the data disk of kompute {stored.name} cannot be removed", field="data_disk"
        )
    check_not_smaller(new, old, "data_disk")


class KomputeFacts(msgspec.Struct, frozen=True):
    """A Kompute as a request about it needs to know it."""

    id: str
    project_id: str
    zone_id: str
    phase: str
    generation: int
    instance_id: str
    seed_pool_id: str
    host_name: str
    agents: str  # JSON; of its Kaktus
    disks: str  # JSON; see `KomputeDisk`

    def list_agents(self) -> list[str]:
        return msgspec.json.decode(self.agents, type=list[str])

    def list_disks(self) -> list["KomputeDisk"]:
        return msgspec.json.decode(self.disks, type=list[KomputeDisk], strict=False)

    def list_pools(self) -> list[str]:
        """Return the storage pools that its disks and its seed are in."""
        return sorted({self.seed_pool_id, *(disk.storage_pool_id for disk in self.list_disks())})


class KomputeDisk(msgspec.Struct, frozen=True):
    id: str
    type: VolumeType
    storage_pool_id: str
    is_current: bool


class TakenName(msgspec.Struct, frozen=True):
    kind: str
    name: str
    id: str


class Part(StrEnum):
    """What a Kompute is made of besides its instance; its name goes before the part's."""

    SYSTEM = "os"
    DATA = "data"
    PRIVATE = "private-adapter"
    PUBLIC = "public-adapter"


def part_name(name: str, part: Part) -> str:
    return f"{name}-{part}"


def _decode(row: Row) -> Kompute:
    return msgspec.convert(row | {"ip": format_address(int(row["ip"] or 0))}, Kompute)


KOMPUTES: Final = View(
    kind="kompute",
    title="kompute",
    struct=Kompute,
    list_ids=Statement("SELECT id FROM kompute WHERE phase <> 'creating' ORDER BY id"),
    # An instance of its own has a host name too.
    find_named=lambda _, name: Statement(
        "SELECT coalesce(kompute_id, id) AS id FROM instance WHERE lower(name) = lower(?)", (name,)
    ),
    read=lambda kompute_id: Statement(
        "SELECT kompute.id, kompute.name, kompute.description, memory_bytes AS memory, vcpus,"
        " kompute.generation,"
        " (SELECT size_bytes FROM volume WHERE volume.kompute_id = kompute.id AND type = 'os')"
        " AS disk,"
        " coalesce((SELECT size_bytes FROM volume WHERE volume.kompute_id = kompute.id"
        " AND type = 'raw'), 0) AS data_disk,"
        " (SELECT address FROM adapter JOIN adapter_address ON adapter_id = adapter.id"
        " JOIN subnet ON subnet.id = adapter.subnet_id JOIN vnet ON vnet.id = vnet_id"
        " WHERE adapter.kompute_id = kompute.id AND vnet.private"
        " ORDER BY adapter.position, adapter_address.position LIMIT 1) AS ip"
        " FROM kompute JOIN instance ON instance.kompute_id = kompute.id"
        " WHERE kompute.id = ? AND kompute.phase <> 'creating'",
        (kompute_id,),
    ),
    decode=_decode,
)


def komputes_of_project(project_id: str, zone_id: str) -> Statement:
    """Select the ids of the visible Komputes of a project in a zone."""
    return Statement(
        "SELECT id FROM kompute WHERE project_id = ? AND zone_id = ? AND phase <> 'creating'"
        " ORDER BY id",
        (project_id, zone_id),
    )


def kompute_facts(kompute_id: str) -> Statement:
    """Select the `KomputeFacts`, of a hidden Kompute too."""
    return Statement(
        "SELECT kompute.id, kompute.project_id, kompute.zone_id, kompute.phase,"
        " kompute.generation, instance.id AS instance_id, seed_pool_id, kaktus.name AS host_name,"
        " (SELECT json_group_array(agent_id) FROM (SELECT agent_id FROM kaktus_agent"
        " WHERE kaktus_agent.kaktus_id = instance.kaktus_id ORDER BY position)) AS agents,"
        " (SELECT json_group_array(json_object('id', id, 'type', type, 'storage_pool_id',"
        " storage_pool_id, 'is_current', observed_generation = generation)) FROM"
        " (SELECT id, type, storage_pool_id, observed_generation, generation FROM volume"
        " WHERE volume.kompute_id = kompute.id ORDER BY position)) AS disks"
        " FROM kompute JOIN instance ON instance.kompute_id = kompute.id"
        " JOIN kaktus ON kaktus.id = instance.kaktus_id WHERE kompute.id = ?",
        (kompute_id,),
    )


def insert_kompute(
    kompute_id: str, kompute: Kompute, *, project_id: str, zone_id: str, now_ms: int
) -> Statement:
    return Statement(
        "INSERT INTO kompute (id, project_id, zone_id, name, description, phase, created_at_ms,"
        " updated_at_ms) VALUES (?, ?, ?, ?, ?, 'creating', ?, ?)",
        (
            kompute_id,
            project_id,
            zone_id,
            kompute.name,
            given(kompute.description, ""),
            now_ms,
            now_ms,
        ),
    )


def update_kompute(kompute_id: str, kompute: Kompute, now_ms: int) -> tuple[Statement, ...]:
    """Change the Kompute and its instance, and the names of all its parts with its own."""
    return (
        Statement(
            "UPDATE kompute SET name = ?, description = ?, generation = generation + 1,"
            " updated_at_ms = ? WHERE id = ?",
            (kompute.name, given(kompute.description, ""), now_ms, kompute_id),
        ),
        Statement(
            "UPDATE instance SET name = ?, description = ?, memory_bytes = ?, vcpus = ?,"
            " generation = generation + 1, updated_at_ms = ? WHERE kompute_id = ?",
            (
                kompute.name,
                given(kompute.description, ""),
                kompute.memory,
                kompute.vcpus,
                now_ms,
                kompute_id,
            ),
        ),
        Statement(
            "UPDATE volume SET name = CASE type WHEN 'os' THEN ? ELSE ? END WHERE kompute_id = ?",
            (part_name(kompute.name, Part.SYSTEM), part_name(kompute.name, Part.DATA), kompute_id),
        ),
        Statement(
            "UPDATE adapter SET name = CASE (SELECT vnet.private FROM subnet"
            " JOIN vnet ON vnet.id = vnet_id WHERE subnet.id = adapter.subnet_id)"
            " WHEN 1 THEN ? ELSE ? END WHERE kompute_id = ?",
            (
                part_name(kompute.name, Part.PRIVATE),
                part_name(kompute.name, Part.PUBLIC),
                kompute_id,
            ),
        ),
    )


def kompute_guard(kompute_id: str, generation: int) -> Statement:
    """Select 1 while the Kompute is as it was read."""
    return Statement(
        "SELECT EXISTS (SELECT 1 FROM kompute WHERE id = ? AND generation = ?)",
        (kompute_id, generation),
    )


def begin_delete_kompute(kompute_id: str) -> tuple[Statement, ...]:
    return (
        Statement(
            "UPDATE kompute SET phase = 'deleting', generation = generation + 1 WHERE id = ?",
            (kompute_id,),
        ),
        Statement("UPDATE instance SET phase = 'deleting' WHERE kompute_id = ?", (kompute_id,)),
        Statement("UPDATE volume SET phase = 'deleting' WHERE kompute_id = ?", (kompute_id,)),
    )


def forget_kompute(kompute_id: str) -> Sequence[Statement]:
    return [
        Statement("DELETE FROM adapter WHERE kompute_id = ?", (kompute_id,)),
        Statement("DELETE FROM volume WHERE kompute_id = ?", (kompute_id,)),
        Statement(
            "DELETE FROM secret WHERE owner IN"
            " (SELECT 'instance/' || id FROM instance WHERE kompute_id = ?)",
            (kompute_id,),
        ),
        Statement("DELETE FROM instance WHERE kompute_id = ?", (kompute_id,)),
        Statement("DELETE FROM kompute WHERE id = ?", (kompute_id,)),
    ]


def taken_part_names(name: str, kompute_id: str) -> Statement:
    """Select each `TakenName` that a part of a Kompute of this name would have."""
    system, data, private, public = (part_name(name, part) for part in Part)
    return Statement(
        "SELECT 'volume' AS kind, name, id FROM volume"
        " WHERE name IN (?, ?) AND kompute_id IS NOT ?"
        " UNION ALL SELECT 'adapter', name, id FROM adapter"
        " WHERE name IN (?, ?) AND kompute_id IS NOT ?",
        (system, data, kompute_id, private, public, kompute_id),
    )
