"""Agent: the program on a node that carries out what Kahuna decides."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text
from appliance.resources.table import Children, Table, flat
from appliance.store.base import Statement


class NodeAgentType(StrEnum):
    """The types that the contract knows; an agent inside a guest is never shown by it."""

    KIWI = "Kiwi"
    KAKTUS = "Kaktus"


class Agent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A program on a node that dials in and acts for it."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among agents")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    type: Annotated[NodeAgentType, about("Kind of node that it acts for; cannot change")]


def check_agent(agent: Agent) -> None:
    """Accept an agent by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(agent.name)
    check_text(given(agent.description, ""))


def check_agent_change(stored: Agent, wanted: Agent) -> None:
    """Accept an update.

    Raises:
        Invalid: another type; a node would be asked for what it does not have.
    """
    if wanted.type != stored.type:
        raise Invalid(
            f"agent {stored.name} is of type {stored.type} and cannot become {wanted.type}",
            field="type",
            hint="register another agent",
        )


def insert_agent(
    agent_id: str, name: str, agent_type: str, description: str, now_ms: int
) -> Statement:
    """Add an agent without a credential; also of the type that the contract does not know."""
    return Statement(
        "INSERT INTO agent (id, name, description, type, credential, credential_serial,"
        " created_at_ms) VALUES (?, ?, ?, ?, 'none', 0, ?)",
        (agent_id, name, description, agent_type, now_ms),
    )


def _insert(agent_id: str, _: str, agent: Agent, now_ms: int) -> Sequence[Statement]:
    description = given(agent.description, "")
    return [insert_agent(agent_id, agent.name, agent.type.value, description, now_ms)]


def _update(agent_id: str, agent: Agent, _: int) -> Sequence[Statement]:
    return [
        Statement(
            "UPDATE agent SET name = ?, description = ?, generation = generation + 1 WHERE id = ?",
            (agent.name, given(agent.description, ""), agent_id),
        )
    ]


def delete_agent(agent_id: str) -> Sequence[Statement]:
    """Remove an agent and its secrets; the first statement changes one row or none."""
    return [
        Statement("DELETE FROM agent WHERE id = ?", (agent_id,)),
        Statement("DELETE FROM secret WHERE owner = 'agent/' || ?", (agent_id,)),
    ]


# Agents inside guests are not the contract's: its clients would stumble over their type.
AGENTS: Final = Table(
    kind="agent",
    title="agent",
    struct=Agent,
    list_ids=Statement("SELECT id FROM agent WHERE type IN ('Kiwi', 'Kaktus') ORDER BY id"),
    find_named=lambda _, name: Statement("SELECT id FROM agent WHERE name = ?", (name,)),
    read=lambda agent_id: Statement(
        "SELECT id, name, description, type, generation FROM agent"
        " WHERE id = ? AND type IN ('Kiwi', 'Kaktus')",
        (agent_id,),
    ),
    decode=flat(Agent),
    guard=lambda agent_id, generation: Statement(
        "SELECT EXISTS (SELECT 1 FROM agent WHERE id = ? AND generation = ?)",
        (agent_id, generation),
    ),
    check=check_agent,
    check_change=check_agent_change,
    insert=_insert,
    update=_update,
    delete=delete_agent,
    children=(
        Children(
            "Kiwis",
            lambda agent_id: Statement(
                "SELECT COUNT(*) AS children FROM kiwi_agent WHERE agent_id = ?", (agent_id,)
            ),
        ),
        Children(
            "Kaktus nodes",
            lambda agent_id: Statement(
                "SELECT COUNT(*) AS children FROM kaktus_agent WHERE agent_id = ?", (agent_id,)
            ),
        ),
        Children(
            "storage pools",
            lambda agent_id: Statement(
                "SELECT COUNT(*) AS children FROM storage_pool_agent WHERE agent_id = ?",
                (agent_id,),
            ),
        ),
    ),
)
