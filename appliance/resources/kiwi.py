"""Kiwi: the routers of a region."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.resources.agent import NodeAgentType
from appliance.resources.agent_list import refuse_agent
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_references, check_text
from appliance.resources.table import Rule, Table, as_json
from appliance.store.base import Row, Statement


class Kiwi(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The SD-WAN routers of a region: routing, firewall, DHCP, DNS and VPN."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among Kiwis")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    agents: Annotated[
        Maybe[list[str]], about("Ids of the Kiwi agents that act for it", implied=[])
    ] = UNSET


def check_kiwi(kiwi: Kiwi) -> None:
    """Accept a Kiwi by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(kiwi.name)
    check_text(given(kiwi.description, ""))
    check_references(given(kiwi.agents, []), "agents")


def _decode(row: Row) -> Kiwi:
    return msgspec.convert(row | {"agents": msgspec.json.decode(str(row["agents"]))}, Kiwi)


def _insert_agents(kiwi_id: str, kiwi: Kiwi) -> Statement:
    return Statement(
        "INSERT INTO kiwi_agent (kiwi_id, position, agent_id)"
        " SELECT ?, key, value FROM json_each(?)",
        (kiwi_id, as_json(given(kiwi.agents, []))),
    )


def _insert(kiwi_id: str, region_id: str, kiwi: Kiwi, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "INSERT INTO kiwi (id, region_id, name, description, created_at_ms, updated_at_ms)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (kiwi_id, region_id, kiwi.name, given(kiwi.description, ""), now_ms, now_ms),
        ),
        _insert_agents(kiwi_id, kiwi),
    ]


def _update(kiwi_id: str, kiwi: Kiwi, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "UPDATE kiwi SET name = ?, description = ?,"
            " generation = generation + 1, updated_at_ms = ? WHERE id = ?",
            (kiwi.name, given(kiwi.description, ""), now_ms, kiwi_id),
        ),
        Statement("DELETE FROM kiwi_agent WHERE kiwi_id = ?", (kiwi_id,)),
        _insert_agents(kiwi_id, kiwi),
    ]


def _bad_agents(kiwi_id: str, _: str, kiwi: Kiwi) -> Statement:
    return Statement(
        "SELECT wanted.key AS position, wanted.value AS id, agent.type, other.name AS taken_by"
        " FROM json_each(?) AS wanted"
        " LEFT JOIN agent ON agent.id = wanted.value"
        " LEFT JOIN kiwi_agent AS taken"
        " ON taken.agent_id = wanted.value AND taken.kiwi_id <> ?"
        " LEFT JOIN kiwi AS other ON other.id = taken.kiwi_id"
        " WHERE agent.type IS NOT 'Kiwi' OR other.id IS NOT NULL ORDER BY wanted.key",
        (as_json(given(kiwi.agents, [])), kiwi_id),
    )


KIWIS: Final = Table(
    kind="kiwi",
    title="Kiwi",
    struct=Kiwi,
    list_ids=Statement("SELECT id FROM kiwi ORDER BY id"),
    list_children_ids=lambda region_id: Statement(
        "SELECT id FROM kiwi WHERE region_id = ? ORDER BY id", (region_id,)
    ),
    find_named=lambda _, name: Statement("SELECT id FROM kiwi WHERE name = ?", (name,)),
    read=lambda kiwi_id: Statement(
        "SELECT id, name, description, generation,"
        " (SELECT json_group_array(agent_id) FROM (SELECT agent_id FROM kiwi_agent"
        " WHERE kiwi_id = kiwi.id ORDER BY position)) AS agents"
        " FROM kiwi WHERE id = ?",
        (kiwi_id,),
    ),
    decode=_decode,
    guard=lambda kiwi_id, generation: Statement(
        "SELECT EXISTS (SELECT 1 FROM kiwi WHERE id = ? AND generation = ?)",
        (kiwi_id, generation),
    ),
    check=check_kiwi,
    insert=_insert,
    update=_update,
    delete=lambda kiwi_id: [Statement("DELETE FROM kiwi WHERE id = ?", (kiwi_id,))],
    rules=(Rule(_bad_agents, lambda _, row: refuse_agent(row, NodeAgentType.KIWI)),),
)
