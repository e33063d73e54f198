"""Team: users who share projects."""

from typing import Annotated

import msgspec
from msgspec import UNSET

from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_references, check_text


class Team(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Users who administer the same projects."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among teams")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    users: Annotated[list[str], about("Ids of the users in it")]


def check_team(team: Team) -> None:
    """Accept a team by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(team.name)
    check_text(given(team.description, ""))
    check_references(team.users, "users")
