"""Zone: the part of a region that fails as one."""

import re
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text, quoted
from appliance.resources.table import Children, Table, flat
from appliance.store.base import Statement

_CPU_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Zone(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of a region with its own Kaktus nodes; other zones live on when it fails."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among zones")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET


def check_zone(zone: Zone) -> None:
    """Accept a zone by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(zone.name)
    check_text(given(zone.description, ""))


def check_cpu_model(model: str) -> None:
    """Accept the name of a processor; whether hosts have it is for `hosts_without` to say.

    Raises:
        Invalid: libvirt has no name of that form.
    """
    if not _CPU_MODEL.fullmatch(model):
        raise Invalid(
            f"model {quoted(model)} is not the name of a processor",
            field="model",
            hint="1 to 64 letters, digits, dots, hyphens and underscores, such as x86-64-v2",
        )


def _insert(zone_id: str, region_id: str, zone: Zone, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "INSERT INTO zone (id, region_id, name, description, created_at_ms, updated_at_ms)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (zone_id, region_id, zone.name, given(zone.description, ""), now_ms, now_ms),
        )
    ]


def _update(zone_id: str, zone: Zone, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "UPDATE zone SET name = ?, description = ?,"
            " generation = generation + 1, updated_at_ms = ? WHERE id = ?",
            (zone.name, given(zone.description, ""), now_ms, zone_id),
        )
    ]


ZONES: Final = Table(
    kind="zone",
    title="zone",
    struct=Zone,
    list_ids=Statement("SELECT id FROM zone ORDER BY id"),
    list_children_ids=lambda region_id: Statement(
        "SELECT id FROM zone WHERE region_id = ? ORDER BY id", (region_id,)
    ),
    find_named=lambda _, name: Statement("SELECT id FROM zone WHERE name = ?", (name,)),
    read=lambda zone_id: Statement(
        "SELECT id, name, description, generation FROM zone WHERE id = ?", (zone_id,)
    ),
    decode=flat(Zone),
    guard=lambda zone_id, generation: Statement(
        "SELECT EXISTS (SELECT 1 FROM zone WHERE id = ? AND generation = ?)",
        (zone_id, generation),
    ),
    check=check_zone,
    insert=_insert,
    update=_update,
    delete=lambda zone_id: [Statement("DELETE FROM zone WHERE id = ?", (zone_id,))],
    children=(
        Children(
            "Kaktus nodes",
            lambda zone_id: Statement(
                "SELECT COUNT(*) AS children FROM kaktus WHERE zone_id = ?", (zone_id,)
            ),
        ),
        Children(
            "Komputes",
            lambda zone_id: Statement(
                "SELECT COUNT(*) AS children FROM kompute WHERE zone_id = ?", (zone_id,)
            ),
        ),
    ),
)


def cpu_model_of(zone_id: str) -> Statement:
    """Select one row: `model`, the processor that machines see; NULL: that of their host."""
    return Statement("SELECT cpu_model AS model FROM zone WHERE id = ?", (zone_id,))


def set_cpu_model(zone_id: str, model: str | None) -> Statement:
    return Statement("UPDATE zone SET cpu_model = ? WHERE id = ?", (model, zone_id))


def hosts_without(zone_id: str, model: str | None) -> Statement:
    """Select the `name` of each x86_64 Kaktus that has reported, and not this processor."""
    return Statement(
        "SELECT name FROM kaktus WHERE zone_id = ? AND cpu_arch = 'x86_64'"
        " AND ? IS NOT NULL AND NOT EXISTS (SELECT 1 FROM json_each(cpu_models) WHERE value = ?)"
        " ORDER BY id",
        (zone_id, model, model),
    )


def common_cpu_models(zone_id: str) -> Statement:
    """Select each `model` that all x86_64 Kaktus nodes of a zone have reported."""
    return Statement(
        "SELECT known.value AS model FROM kaktus JOIN json_each(cpu_models) AS known"
        " WHERE zone_id = ? AND cpu_arch = 'x86_64' GROUP BY known.value HAVING COUNT(*) ="
        " (SELECT COUNT(*) FROM kaktus WHERE zone_id = ? AND cpu_arch = 'x86_64') ORDER BY 1",
        (zone_id, zone_id),
    )
