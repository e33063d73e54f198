"""Kaktus: a node that computes and stores."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.agent import NodeAgentType
from appliance.resources.agent_list import refuse_agent
from appliance.resources.cost import Cost, check_cost, free, price_from_text, price_to_text
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_references, check_text, quoted
from appliance.resources.sizes import check_between
from appliance.resources.table import Children, Part, Rule, Table, as_json
from appliance.store.base import Row, Statement

DEFAULT_OVERCOMMIT_CPU_RATIO: Final = 3
DEFAULT_OVERCOMMIT_MEMORY_RATIO: Final = 2
# Of threads or bytes to as many virtual ones; with the bounds of a machine, far within 64 bits.
MAX_OVERCOMMIT_RATIO: Final = 1000


class Kaktus(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A bare-metal node of a zone that runs virtual machines and holds storage."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among Kaktus nodes")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    cpu_cost: Annotated[
        Maybe[Cost], about("What all its processors cost in a month", implied=free())
    ] = UNSET
    memory_cost: Annotated[
        Maybe[Cost], about("What all its memory costs in a month", implied=free())
    ] = UNSET
    overcommit_cpu_ratio: Annotated[
        Maybe[int],
        about(
            "How many vCPUs are handed out for each processor thread",
            default=DEFAULT_OVERCOMMIT_CPU_RATIO,
            json_format="int64",
        ),
    ] = UNSET
    overcommit_memory_ratio: Annotated[
        Maybe[int],
        about(
            "How many bytes of guest memory are handed out for each byte",
            default=DEFAULT_OVERCOMMIT_MEMORY_RATIO,
            json_format="int64",
        ),
    ] = UNSET
    agents: Annotated[list[str], about("Ids of the Kaktus agents that act for it")]


class KaktusCPU(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The processors of a Kaktus, as its agent found them."""

    arch: Annotated[str, about("Architecture, such as x86_64")]
    model: Annotated[str, about("Model")]
    vendor: Annotated[str, about("Maker")]
    sockets: Annotated[int, about("Number of sockets", json_format="int64")]
    cores: Annotated[int, about("Number of cores", json_format="int64")]
    threads: Annotated[int, about("Number of threads", json_format="int64")]


class KaktusCaps(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a Kaktus has to offer; zeroes and empty texts until its agent reported."""

    cpu: Annotated[KaktusCPU, about("Processors")]
    memory: Annotated[int, about("Memory in bytes", json_format="int64")]


def check_kaktus(kaktus: Kaktus) -> None:
    """Accept a Kaktus by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(kaktus.name)
    check_text(given(kaktus.description, ""))
    check_cost(given(kaktus.cpu_cost, free()), "cpu_cost")
    check_cost(given(kaktus.memory_cost, free()), "memory_cost")
    check_between(
        given(kaktus.overcommit_cpu_ratio, DEFAULT_OVERCOMMIT_CPU_RATIO),
        "overcommit_cpu_ratio",
        1,
        MAX_OVERCOMMIT_RATIO,
    )
    check_between(
        given(kaktus.overcommit_memory_ratio, DEFAULT_OVERCOMMIT_MEMORY_RATIO),
        "overcommit_memory_ratio",
        1,
        MAX_OVERCOMMIT_RATIO,
    )
    check_references(kaktus.agents, "agents")


def list_instances(kaktus_id: str) -> Statement:
    """Select the ids of the visible instances on a Kaktus."""
    return Statement(
        "SELECT id FROM instance WHERE kaktus_id = ? AND phase <> 'creating' ORDER BY id",
        (kaktus_id,),
    )


def _decode_caps(row: Row) -> KaktusCaps:
    cpu = {name.removeprefix("cpu_"): row[name] for name in row if name.startswith("cpu_")}
    return msgspec.convert({"cpu": cpu, "memory": row["memory_bytes"]}, KaktusCaps)


KAKTUS_CAPS: Final = Part(
    struct=KaktusCaps,
    read=lambda kaktus_id: Statement(
        "SELECT cpu_arch, cpu_model, cpu_vendor, cpu_sockets, cpu_cores, cpu_threads, memory_bytes"
        " FROM kaktus WHERE id = ?",
        (kaktus_id,),
    ),
    decode=_decode_caps,
)


def _decode(row: Row) -> Kaktus:
    def cost(price: str, currency: str) -> Cost:
        return Cost(price=price_from_text(str(row[price])), currency=str(row[currency]))

    fields = {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "cpu_cost": cost("cpu_price", "cpu_currency"),
        "memory_cost": cost("memory_price", "memory_currency"),
        "overcommit_cpu_ratio": row["overcommit_cpu_ratio"],
        "overcommit_memory_ratio": row["overcommit_memory_ratio"],
        "agents": msgspec.json.decode(str(row["agents"])),
    }
    return msgspec.convert(fields, Kaktus)


def _insert_agents(kaktus_id: str, kaktus: Kaktus) -> Statement:
    return Statement(
        "INSERT INTO kaktus_agent (kaktus_id, position, agent_id)"
        " SELECT ?, key, value FROM json_each(?)",
        (kaktus_id, as_json(kaktus.agents)),
    )


def _insert(kaktus_id: str, zone_id: str, kaktus: Kaktus, now_ms: int) -> Sequence[Statement]:
    cpu_cost, memory_cost = given(kaktus.cpu_cost, free()), given(kaktus.memory_cost, free())
    return [
        Statement(
            "INSERT INTO kaktus (id, zone_id, name, description, cpu_price, cpu_currency,"
            " memory_price, memory_currency, overcommit_cpu_ratio, overcommit_memory_ratio,"
            " created_at_ms, updated_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                kaktus_id,
                zone_id,
                kaktus.name,
                given(kaktus.description, ""),
                price_to_text(cpu_cost.price),
                cpu_cost.currency,
                price_to_text(memory_cost.price),
                memory_cost.currency,
                given(kaktus.overcommit_cpu_ratio, DEFAULT_OVERCOMMIT_CPU_RATIO),
                given(kaktus.overcommit_memory_ratio, DEFAULT_OVERCOMMIT_MEMORY_RATIO),
                now_ms,
                now_ms,
            ),
        ),
        _insert_agents(kaktus_id, kaktus),
    ]


def _update(kaktus_id: str, kaktus: Kaktus, now_ms: int) -> Sequence[Statement]:
    cpu_cost, memory_cost = given(kaktus.cpu_cost, free()), given(kaktus.memory_cost, free())
    return [
        Statement(
            "UPDATE kaktus SET name = ?, description = ?, cpu_price = ?, cpu_currency = ?,"
            " memory_price = ?, memory_currency = ?, overcommit_cpu_ratio = ?,"
            " overcommit_memory_ratio = ?, generation = generation + 1, updated_at_ms = ?"
            " WHERE id = ?",
            (
                kaktus.name,
                given(kaktus.description, ""),
                price_to_text(cpu_cost.price),
                cpu_cost.currency,
                price_to_text(memory_cost.price),
                memory_cost.currency,
                given(kaktus.overcommit_cpu_ratio, DEFAULT_OVERCOMMIT_CPU_RATIO),
                given(kaktus.overcommit_memory_ratio, DEFAULT_OVERCOMMIT_MEMORY_RATIO),
                now_ms,
                kaktus_id,
            ),
        ),
        Statement("DELETE FROM kaktus_agent WHERE kaktus_id = ?", (kaktus_id,)),
        _insert_agents(kaktus_id, kaktus),
    ]


def _bad_agents(kaktus_id: str, _: str, kaktus: Kaktus) -> Statement:
    return Statement(
        "SELECT wanted.key AS position, wanted.value AS id, agent.type, other.name AS taken_by"
        " FROM json_each(?) AS wanted"
        " LEFT JOIN agent ON agent.id = wanted.value"
        " LEFT JOIN kaktus_agent AS taken"
        " ON taken.agent_id = wanted.value AND taken.kaktus_id <> ?"
        " LEFT JOIN kaktus AS other ON other.id = taken.kaktus_id"
        " WHERE agent.type IS NOT 'Kaktus' OR other.id IS NOT NULL ORDER BY wanted.key",
        (as_json(kaktus.agents), kaktus_id),
    )


def _instances_of_other_agents(kaktus_id: str, _: str, kaktus: Kaktus) -> Statement:
    agents = as_json(kaktus.agents)
    return Statement(
        "SELECT COUNT(*) AS instances FROM instance WHERE kaktus_id = ?"
        " AND (EXISTS (SELECT value FROM json_each(?)"
        " EXCEPT SELECT agent_id FROM kaktus_agent WHERE kaktus_id = ?)"
        " OR EXISTS (SELECT agent_id FROM kaktus_agent WHERE kaktus_id = ?"
        " EXCEPT SELECT value FROM json_each(?))) GROUP BY kaktus_id",
        (kaktus_id, agents, kaktus_id, kaktus_id, agents),
    )


def _refuse_other_agents(kaktus: Kaktus, row: Row) -> None:
    """Refuse to look for machines where they are not.

    Kahuna would find none of them with another agent, and start each of them a second time.
    """
    raise Invalid(
        f"agents of Kaktus {quoted(kaktus.name)} stay the same while it has instances"
        f" ({row['instances']}): another agent may be on another machine",
        field="agents",
        hint="remove its instances first; a machine that was installed anew keeps its agent and"
        " gets a new key for it",
    )


KAKTUSES: Final = Table(
    kind="kaktus",
    title="Kaktus",
    struct=Kaktus,
    list_ids=Statement("SELECT id FROM kaktus ORDER BY id"),
    list_children_ids=lambda zone_id: Statement(
        "SELECT id FROM kaktus WHERE zone_id = ? ORDER BY id", (zone_id,)
    ),
    find_named=lambda _, name: Statement("SELECT id FROM kaktus WHERE name = ?", (name,)),
    read=lambda kaktus_id: Statement(
        "SELECT id, name, description, cpu_price, cpu_currency, memory_price, memory_currency,"
        " overcommit_cpu_ratio, overcommit_memory_ratio, generation,"
        " (SELECT json_group_array(agent_id) FROM (SELECT agent_id FROM kaktus_agent"
        " WHERE kaktus_id = kaktus.id ORDER BY position)) AS agents"
        " FROM kaktus WHERE id = ?",
        (kaktus_id,),
    ),
    decode=_decode,
    guard=lambda kaktus_id, generation: Statement(
        "SELECT EXISTS (SELECT 1 FROM kaktus WHERE id = ? AND generation = ?)",
        (kaktus_id, generation),
    ),
    check=check_kaktus,
    insert=_insert,
    update=_update,
    delete=lambda kaktus_id: [Statement("DELETE FROM kaktus WHERE id = ?", (kaktus_id,))],
    children=(
        Children(
            "instances",
            lambda kaktus_id: Statement(
                "SELECT COUNT(*) AS children FROM instance WHERE kaktus_id = ?", (kaktus_id,)
            ),
        ),
    ),
    rules=(
        Rule(_bad_agents, lambda _, row: refuse_agent(row, NodeAgentType.KAKTUS)),
        Rule(_instances_of_other_agents, _refuse_other_agents),
    ),
)
