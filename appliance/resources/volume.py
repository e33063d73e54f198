"""Volume: a virtual disk."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.operations.step import OnFailure, OperationKind, Outputs, Step, StepContext
from appliance.resources.disk import Disk, disk, ensure_disk, ensure_disk_absent
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text
from appliance.resources.sizes import check_disk, check_not_smaller
from appliance.resources.table import View, as_json, flat
from appliance.resources.work import (
    CHANGE_BUDGET_S,
    CREATE_BUDGET_S,
    PoolPlace,
    Work,
    read_rows,
)
from appliance.store.base import Statement, guard


class VolumeType(StrEnum):
    OS = "os"  # cloned from a template
    ISO = "iso"  # a CD-ROM
    RAW = "raw"  # empty


class Volume(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A virtual disk of a project in a storage pool."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among volumes")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    type: Annotated[VolumeType, about("What is on it at first; cannot change")]
    size: Annotated[int, about("Size in bytes; can grow", json_format="int64")]


def check_volume(volume: Volume) -> None:
    """Accept a volume by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(volume.name)
    check_text(given(volume.description, ""))
    check_disk(volume.size, "size")


def check_volume_change(stored: Volume, wanted: Volume) -> None:
    """Accept an update.

    Raises:
        Invalid: another type, or a smaller size.
    """
    if wanted.type != stored.type:
        raise Invalid(
            f"volume {stored.name} is of type {stored.type} and cannot become {wanted.type}",
            field="type",
        )
    check_not_smaller(wanted.size, stored.size, "size")


class VolumeFacts(PoolPlace, frozen=True):
    """A volume as a request about it needs to know it."""

    id: str
    project_id: str
    phase: str
    generation: int
    kompute_id: str | None
    instance_id: str | None
    host_agents: str  # JSON; of the instance's Kaktus

    def list_host_agents(self) -> list[str]:
        return msgspec.json.decode(self.host_agents, type=list[str])


VOLUMES: Final = View(
    kind="volume",
    title="volume",
    struct=Volume,
    list_ids=Statement("SELECT id FROM volume WHERE phase <> 'creating' ORDER BY id"),
    find_named=lambda _, name: Statement("SELECT id FROM volume WHERE name = ?", (name,)),
    read=lambda volume_id: Statement(
        "SELECT id, name, description, type, size_bytes AS size, generation FROM volume"
        " WHERE id = ? AND phase <> 'creating'",
        (volume_id,),
    ),
    decode=flat(Volume),
)


def volumes_of_project(project_id: str, region_id: str) -> Statement:
    """Select the ids of the visible volumes of a project in a region."""
    return Statement(
        "SELECT volume.id FROM volume JOIN storage_pool ON storage_pool.id = storage_pool_id"
        " WHERE project_id = ? AND region_id = ? AND phase <> 'creating' ORDER BY volume.id",
        (project_id, region_id),
    )


def volume_facts(volume_id: str) -> Statement:
    """Select the `VolumeFacts`, of a hidden volume too."""
    return Statement(
        "SELECT volume.id, project_id, phase, volume.generation, kompute_id, instance_id,"
        " volume.storage_pool_id, pool, ceph_address, ceph_port,"
        " (SELECT json_group_array(agent_id) FROM kaktus_agent WHERE kaktus_id ="
        " (SELECT kaktus_id FROM instance WHERE id = volume.instance_id)) AS host_agents"
        " FROM volume JOIN storage_pool ON storage_pool.id = volume.storage_pool_id"
        " WHERE volume.id = ?",
        (volume_id,),
    )


def insert_volume(
    volume_id: str,
    volume: Volume,
    *,
    project_id: str,
    storage_pool_id: str,
    template_id: str | None,
    now_ms: int,
    kompute_id: str | None = None,
    instance_id: str | None = None,
    position: int | None = None,
) -> Statement:
    return Statement(
        "INSERT INTO volume (id, project_id, storage_pool_id, kompute_id, template_id, name,"
        " description, type, size_bytes, instance_id, position, phase, created_at_ms,"
        " updated_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'creating', ?, ?)",
        (
            volume_id,
            project_id,
            storage_pool_id,
            kompute_id,
            template_id,
            volume.name,
            given(volume.description, ""),
            volume.type.value,
            volume.size,
            instance_id,
            position,
            now_ms,
            now_ms,
        ),
    )


def rename_volume(volume_id: str, name: str, description: str, now_ms: int) -> Statement:
    """Change what no image shows: what was current stays so."""
    return Statement(
        "UPDATE volume SET name = ?, description = ?, generation = generation + 1,"
        " observed_generation = observed_generation + (observed_generation = generation),"
        " updated_at_ms = ? WHERE id = ?",
        (name, description, now_ms, volume_id),
    )


def resize_volume(volume_id: str, size_bytes: int, now_ms: int) -> Statement:
    return Statement(
        "UPDATE volume SET size_bytes = ?, generation = generation + 1, updated_at_ms = ?"
        " WHERE id = ?",
        (size_bytes, now_ms, volume_id),
    )


def volume_guard(volume_id: str, generation: int) -> Statement:
    """Select 1 while the volume is as it was read."""
    return Statement(
        "SELECT EXISTS (SELECT 1 FROM volume WHERE id = ? AND generation = ?)",
        (volume_id, generation),
    )


def begin_delete_volume(volume_id: str) -> tuple[Statement, ...]:
    """From now on nobody can attach the volume; Stale if somebody has."""
    opened, closed = guard(
        Statement(
            "SELECT EXISTS (SELECT 1 FROM volume WHERE id = ? AND instance_id IS NULL)",
            (volume_id,),
        )
    )
    return (
        opened,
        Statement(
            "UPDATE volume SET phase = 'deleting', generation = generation + 1 WHERE id = ?",
            (volume_id,),
        ),
        closed,
    )


async def _ensure(context: StepContext[Work]) -> None:
    (found,) = await read_rows(context, Disk, disk(context.arguments.id))
    await ensure_disk(context, found)


async def _remove(context: StepContext[Work]) -> None:
    (found,) = await read_rows(context, Disk, disk(context.arguments.id))
    await ensure_disk_absent(context, found)


def _made(work: Work, _: Outputs) -> Sequence[Statement]:
    return [
        Statement(
            "UPDATE volume SET phase = 'ready', problem = NULL, observed_generation = generation"
            " WHERE id = ?",
            (work.id,),
        )
    ]


def _forget(work: Work) -> Sequence[Statement]:
    return [Statement("DELETE FROM volume WHERE id = ?", (work.id,))]


VOLUME_CREATE: Final = OperationKind(
    name="volume_create",
    arguments=Work,
    steps=(Step("image", _ensure, _remove),),
    on_failure=OnFailure.UNDO,
    budget_s=CREATE_BUDGET_S,
    finish=_made,
    withdraw=_forget,
)
VOLUME_UPDATE: Final = OperationKind(
    name="volume_update",
    arguments=Work,
    steps=(Step("image", _ensure),),
    on_failure=OnFailure.LEAVE,
    budget_s=CHANGE_BUDGET_S,
    finish=_made,
    mark_failed=lambda work, problem: [
        Statement(
            "UPDATE volume SET phase = 'error', problem = ? WHERE id = ?",
            (as_json(problem), work.id),
        )
    ],
)
VOLUME_DELETE: Final = OperationKind(
    name="volume_delete",
    arguments=Work,
    steps=(Step("image", _remove),),
    on_failure=OnFailure.LEAVE,
    budget_s=CHANGE_BUDGET_S,
    finish=lambda work, _: _forget(work),
    # It stays wanted gone: reconciliation goes on trying.
    mark_failed=lambda work, problem: [
        Statement("UPDATE volume SET problem = ? WHERE id = ?", (as_json(problem), work.id))
    ],
)
