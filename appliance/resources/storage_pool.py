"""Storage pool: where volumes and templates lie, on Ceph or in a directory of one Kaktus."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.agent import NodeAgentType
from appliance.resources.agent_list import refuse_agent
from appliance.resources.cost import Cost, check_cost, free, price_from_text, price_to_text
from appliance.resources.fields import Maybe, about, given
from appliance.resources.host_name import check_domain
from appliance.resources.ipv4 import parse_address
from appliance.resources.names import check_name, check_references, check_text, quoted
from appliance.resources.sizes import check_between
from appliance.resources.table import Children, Rule, Table, as_json
from appliance.store.base import Row, Statement

# What is used where nothing, or nothing to the point (port 0), is stored.
DEFAULT_CEPH_ADDRESS: Final = "localhost"
DEFAULT_CEPH_PORT: Final = 3300

MAX_PORT: Final = 65_535
MAX_DIRECTORY_LENGTH: Final = 1024
MAX_MONITORS: Final = 32
LOCAL: Final = "local://"

# "/" and "@" divide the parts of an image's name (rbd(8)); names with a leading dot are Ceph's own.
_CEPH_POOL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIRECTORY: Final = re.compile(r"(?:/[A-Za-z0-9_.-]+)+")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_DIGITS_AND_DOTS: Final = re.compile(r"[0-9.]+")


class StoragePool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A Ceph pool, or a directory of one Kaktus, that holds volumes and templates of a region."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among storage pools")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    pool: Annotated[str, about("Name of the pool in Ceph; any name for a local one")]
    # An address that was left out stays empty: Terraform would take another text for a change.
    ceph_address: Annotated[
        Maybe[str],
        about(
            "Addresses of the Ceph monitors, joined by commas, or local://<absolute directory>",
            default=DEFAULT_CEPH_ADDRESS,
            implied="",
        ),
    ] = UNSET
    ceph_port: Annotated[
        Maybe[int],
        about("Port of the Ceph monitors", default=DEFAULT_CEPH_PORT, json_format="int64"),
    ] = UNSET
    ceph_secret_uuid: Annotated[
        Maybe[str], about("UUID of libvirt's secret with the Ceph key", implied="")
    ] = UNSET
    cost: Annotated[Maybe[Cost], about("What the whole pool costs in a month", implied=free())] = (
        UNSET
    )
    agents: Annotated[
        list[str],
        about(
            "Ids of the Kaktus agents that Kahuna asks about it; of a local one, its Kaktus' own"
        ),
    ]


def local_directory(pool: StoragePool) -> PurePosixPath | None:
    """Return the directory of a local pool that was accepted, None for one on Ceph."""
    address = given(pool.ceph_address, "")
    return PurePosixPath(address.removeprefix(LOCAL)) if address.startswith(LOCAL) else None


def check_storage_pool(pool: StoragePool) -> None:
    """Accept a storage pool by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(pool.name)
    check_text(given(pool.description, ""))
    if not _CEPH_POOL.fullmatch(pool.pool):
        raise Invalid(
            f"pool {quoted(pool.pool)} cannot be the name of a Ceph pool",
            field="pool",
            hint="1 to 128 letters, digits, dots, hyphens and underscores, no dot in front",
        )
    address = given(pool.ceph_address, "")
    if address.startswith(LOCAL):
        _check_local(address.removeprefix(LOCAL), pool.agents)
    elif address:
        _check_monitors(address)
    check_between(given(pool.ceph_port, DEFAULT_CEPH_PORT), "ceph_port", 0, MAX_PORT)
    secret = given(pool.ceph_secret_uuid, "")
    if secret and not _UUID.fullmatch(secret):
        # The text is not shown: it could be the key itself.
        raise Invalid(
            "ceph_secret_uuid is not a UUID",
            field="ceph_secret_uuid",
            hint="libvirt knows the Ceph key by a UUID, often the cluster's FSID",
        )
    check_cost(given(pool.cost, free()), "cost")
    check_references(pool.agents, "agents")


def check_storage_pool_change(stored: StoragePool, wanted: StoragePool) -> None:
    """Accept an update.

    Raises:
        Invalid: images would be left behind, in another directory or on the other kind of storage.
    """
    old, new = local_directory(stored), local_directory(wanted)
    if old != new:
        raise Invalid(
            f"storage pool {stored.name} is {_place(old)} and cannot become {_place(new)}",
            field="ceph_address",
            hint="make another pool",
        )


def _place(directory: PurePosixPath | None) -> str:
    return "on Ceph" if directory is None else f"in {directory}"


def _check_local(directory: str, agents: list[str]) -> None:
    if (
        len(directory) > MAX_DIRECTORY_LENGTH
        or not _DIRECTORY.fullmatch(directory)
        or not {".", ".."}.isdisjoint(directory.split("/"))
    ):
        raise Invalid(
            f"ceph_address {quoted(LOCAL + directory)} does not name an absolute directory",
            field="ceph_address",
            hint="the form is local:///var/lib/kowabunga/pool: letters, digits, dots, hyphens and "
            "underscores, no part . or .., no slash at the end",
        )
    if len(agents) != 1:
        raise Invalid(
            f"a local pool lies on one Kaktus and has one agent, not {len(agents)}", field="agents"
        )


def _check_monitors(addresses: str) -> None:
    monitors = addresses.split(",")
    if len(monitors) > MAX_MONITORS:
        raise Invalid(
            f"ceph_address has {len(monitors)} monitors, {MAX_MONITORS} are allowed",
            field="ceph_address",
        )
    for monitor in monitors:
        if _DIGITS_AND_DOTS.fullmatch(monitor):
            parse_address(monitor, "ceph_address")
        else:
            check_domain(monitor, "ceph_address", min_labels=1)


def list_volumes(pool_id: str) -> Statement:
    """Select the ids of the visible volumes in a pool."""
    return Statement(
        "SELECT id FROM volume WHERE storage_pool_id = ? AND phase <> 'creating' ORDER BY id",
        (pool_id,),
    )


def _decode(row: Row) -> StoragePool:
    fields = {name: value for name, value in row.items() if name not in {"price", "currency"}} | {
        "cost": Cost(price=price_from_text(str(row["price"])), currency=str(row["currency"])),
        "agents": msgspec.json.decode(str(row["agents"])),
    }
    return msgspec.convert(fields, StoragePool)


def _insert_agents(pool_id: str, pool: StoragePool) -> Statement:
    return Statement(
        "INSERT INTO storage_pool_agent (storage_pool_id, position, agent_id)"
        " SELECT ?, key, value FROM json_each(?)",
        (pool_id, as_json(pool.agents)),
    )


def _insert(pool_id: str, region_id: str, pool: StoragePool, now_ms: int) -> Sequence[Statement]:
    cost = given(pool.cost, free())
    return [
        # The first of a region becomes its default.
        Statement(
            "INSERT INTO storage_pool (id, region_id, name, description, pool, ceph_address,"
            " ceph_secret_uuid, ceph_port, price, currency, is_default, created_at_ms,"
            " updated_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NOT EXISTS"
            " (SELECT 1 FROM storage_pool WHERE region_id = ? AND is_default = 1), ?, ?)",
            (
                pool_id,
                region_id,
                pool.name,
                given(pool.description, ""),
                pool.pool,
                given(pool.ceph_address, ""),
                given(pool.ceph_secret_uuid, ""),
                given(pool.ceph_port, DEFAULT_CEPH_PORT),
                price_to_text(cost.price),
                cost.currency,
                region_id,
                now_ms,
                now_ms,
            ),
        ),
        _insert_agents(pool_id, pool),
    ]


def _update(pool_id: str, pool: StoragePool, now_ms: int) -> Sequence[Statement]:
    cost = given(pool.cost, free())
    return [
        Statement(
            "UPDATE storage_pool SET name = ?, description = ?, pool = ?, ceph_address = ?,"
            " ceph_secret_uuid = ?, ceph_port = ?, price = ?, currency = ?,"
            " generation = generation + 1, updated_at_ms = ? WHERE id = ?",
            (
                pool.name,
                given(pool.description, ""),
                pool.pool,
                given(pool.ceph_address, ""),
                given(pool.ceph_secret_uuid, ""),
                given(pool.ceph_port, DEFAULT_CEPH_PORT),
                price_to_text(cost.price),
                cost.currency,
                now_ms,
                pool_id,
            ),
        ),
        Statement("DELETE FROM storage_pool_agent WHERE storage_pool_id = ?", (pool_id,)),
        _insert_agents(pool_id, pool),
    ]


def _bad_agents(_: str, __: str, pool: StoragePool) -> Statement:
    return Statement(
        "SELECT wanted.key AS position, wanted.value AS id, agent.type"
        " FROM json_each(?) AS wanted LEFT JOIN agent ON agent.id = wanted.value"
        " WHERE agent.type IS NOT 'Kaktus' ORDER BY wanted.key",
        (as_json(pool.agents),),
    )


def _pools_in_the_same_directory(pool_id: str, _: str, pool: StoragePool) -> Statement:
    return Statement(
        "SELECT other.id, other.name FROM storage_pool AS other"
        " JOIN storage_pool_agent ON storage_pool_agent.storage_pool_id = other.id"
        " WHERE other.id <> ? AND other.ceph_address = ? AND other.ceph_address LIKE 'local://%'"
        " AND storage_pool_agent.agent_id IN (SELECT value FROM json_each(?)) ORDER BY other.id",
        (pool_id, given(pool.ceph_address, ""), as_json(pool.agents)),
    )


def first_monitor(ceph_address: str, ceph_port: int) -> tuple[str, int]:
    """Return the monitor that is asked: a driver finds the others through it."""
    return ceph_address.partition(",")[0] or DEFAULT_CEPH_ADDRESS, ceph_port or DEFAULT_CEPH_PORT


def _images_of_another_place(pool_id: str, _: str, pool: StoragePool) -> Statement:
    address, port = first_monitor(given(pool.ceph_address, ""), given(pool.ceph_port, 0))
    return Statement(
        "SELECT field FROM (SELECT id, CASE"
        " WHEN ceph_address LIKE 'local://%' THEN CASE WHEN EXISTS"
        " (SELECT agent_id FROM storage_pool_agent WHERE storage_pool_id = storage_pool.id"
        " EXCEPT SELECT value FROM json_each(?)) THEN 'agents' END"
        " WHEN pool <> ? THEN 'pool'"
        " WHEN coalesce(nullif(substr(ceph_address, 1, instr(ceph_address || ',', ',') - 1), ''),"
        " ?) <> ? THEN 'ceph_address'"
        " WHEN coalesce(nullif(ceph_port, 0), ?) <> ? THEN 'ceph_port' END AS field"
        " FROM storage_pool WHERE id = ?) AS changed WHERE field IS NOT NULL"
        " AND (EXISTS (SELECT 1 FROM template WHERE storage_pool_id = changed.id)"
        " OR EXISTS (SELECT 1 FROM volume WHERE storage_pool_id = changed.id)"
        " OR EXISTS (SELECT 1 FROM instance WHERE seed_pool_id = changed.id))",
        (
            as_json(pool.agents),
            pool.pool,
            DEFAULT_CEPH_ADDRESS,
            address,
            DEFAULT_CEPH_PORT,
            port,
            pool_id,
        ),
    )


def _refuse_another_place(pool: StoragePool, row: Row) -> None:
    field = str(row["field"])
    what = "the first monitor of ceph_address" if field == "ceph_address" else field
    raise Invalid(
        f"{what} of storage pool {quoted(pool.name)} stays the same while templates, volumes"
        " or seeds of instances are in it: they would be looked for where they are not",
        field=field,
        hint="make another pool, or remove its volumes and templates first",
    )


def _refuse_same_directory(_: StoragePool, row: Row) -> None:
    raise Invalid(
        f"the directory is that of storage pool {quoted(str(row['name']))}, {row['id']}",
        field="ceph_address",
        hint="choose another directory",
    )


STORAGE_POOLS: Final = Table(
    kind="storage_pool",
    title="storage pool",
    struct=StoragePool,
    list_ids=Statement("SELECT id FROM storage_pool ORDER BY id"),
    list_children_ids=lambda region_id: Statement(
        "SELECT id FROM storage_pool WHERE region_id = ? ORDER BY id", (region_id,)
    ),
    find_named=lambda _, name: Statement("SELECT id FROM storage_pool WHERE name = ?", (name,)),
    read=lambda pool_id: Statement(
        "SELECT id, name, description, pool, ceph_address, ceph_port, ceph_secret_uuid, price,"
        " currency, generation, (SELECT json_group_array(agent_id) FROM"
        " (SELECT agent_id FROM storage_pool_agent"
        " WHERE storage_pool_id = storage_pool.id ORDER BY position)) AS agents"
        " FROM storage_pool WHERE id = ?",
        (pool_id,),
    ),
    decode=_decode,
    guard=lambda pool_id, generation: Statement(
        "SELECT EXISTS (SELECT 1 FROM storage_pool WHERE id = ? AND generation = ?)",
        (pool_id, generation),
    ),
    check=check_storage_pool,
    check_change=check_storage_pool_change,
    insert=_insert,
    update=_update,
    delete=lambda pool_id: [Statement("DELETE FROM storage_pool WHERE id = ?", (pool_id,))],
    set_default=lambda region_id, pool_id: [
        Statement(
            "UPDATE storage_pool SET is_default = 0 WHERE region_id = ? AND is_default = 1"
            " AND EXISTS"
            " (SELECT 1 FROM storage_pool AS next WHERE next.id = ? AND next.region_id = ?)",
            (region_id, pool_id, region_id),
        ),
        Statement(
            "UPDATE storage_pool SET is_default = 1 WHERE id = ? AND region_id = ?",
            (pool_id, region_id),
        ),
    ],
    children=(
        Children(
            "templates",
            lambda pool_id: Statement(
                "SELECT COUNT(*) AS children FROM template WHERE storage_pool_id = ?", (pool_id,)
            ),
        ),
        Children(
            "volumes",
            lambda pool_id: Statement(
                "SELECT COUNT(*) AS children FROM volume WHERE storage_pool_id = ?", (pool_id,)
            ),
        ),
        Children(
            "seeds of instances",
            lambda pool_id: Statement(
                "SELECT COUNT(*) AS children FROM instance WHERE seed_pool_id = ?", (pool_id,)
            ),
        ),
    ),
    rules=(
        Rule(_bad_agents, lambda _, row: refuse_agent(row, NodeAgentType.KAKTUS)),
        Rule(_pools_in_the_same_directory, _refuse_same_directory),
        Rule(_images_of_another_place, _refuse_another_place),
    ),
)
