"""Region: a place whose zones share networks and storage."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.resources.fields import Maybe, about, given
from appliance.resources.host_name import check_domain
from appliance.resources.names import check_name, check_text
from appliance.resources.table import Children, Table, flat
from appliance.store.base import Statement


class Region(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A place with its own networks, storage pools and Kiwi routers, made of zones."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among regions")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    domain: Annotated[str, about("DNS domain of the region's own records")]


def check_region(region: Region) -> None:
    """Accept a region by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(region.name)
    check_text(given(region.description, ""))
    check_domain(region.domain, min_labels=1)


def _insert(region_id: str, _: str, region: Region, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "INSERT INTO region (id, name, description, domain, created_at_ms, updated_at_ms)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                region_id,
                region.name,
                given(region.description, ""),
                region.domain,
                now_ms,
                now_ms,
            ),
        )
    ]


def _update(region_id: str, region: Region, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "UPDATE region SET name = ?, description = ?, domain = ?,"
            " generation = generation + 1, updated_at_ms = ? WHERE id = ?",
            (region.name, given(region.description, ""), region.domain, now_ms, region_id),
        )
    ]


REGIONS: Final = Table(
    kind="region",
    title="region",
    struct=Region,
    list_ids=Statement("SELECT id FROM region ORDER BY id"),
    find_named=lambda _, name: Statement("SELECT id FROM region WHERE name = ?", (name,)),
    read=lambda region_id: Statement(
        "SELECT id, name, description, domain, generation FROM region WHERE id = ?", (region_id,)
    ),
    decode=flat(Region),
    guard=lambda region_id, generation: Statement(
        "SELECT EXISTS (SELECT 1 FROM region WHERE id = ? AND generation = ?)",
        (region_id, generation),
    ),
    check=check_region,
    insert=_insert,
    update=_update,
    delete=lambda region_id: [Statement("DELETE FROM region WHERE id = ?", (region_id,))],
    children=(
        Children(
            "zones",
            lambda region_id: Statement(
                "SELECT COUNT(*) AS children FROM zone WHERE region_id = ?", (region_id,)
            ),
        ),
        Children(
            "Kiwis",
            lambda region_id: Statement(
                "SELECT COUNT(*) AS children FROM kiwi WHERE region_id = ?", (region_id,)
            ),
        ),
        Children(
            "virtual networks",
            lambda region_id: Statement(
                "SELECT COUNT(*) AS children FROM vnet WHERE region_id = ?", (region_id,)
            ),
        ),
        Children(
            "storage pools",
            lambda region_id: Statement(
                "SELECT COUNT(*) AS children FROM storage_pool WHERE region_id = ?", (region_id,)
            ),
        ),
        Children(
            "projects",
            lambda region_id: Statement(
                "SELECT COUNT(*) AS children FROM project_region WHERE region_id = ?", (region_id,)
            ),
        ),
    ),
)
