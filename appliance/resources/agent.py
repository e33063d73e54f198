"""Agent: the program on a node that carries out what Kahuna decides."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text


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
