"""Zone: the part of a region that fails as one."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text
from appliance.resources.table import Children, Table, flat
from appliance.store.base import Statement


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
