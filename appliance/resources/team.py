"""Team: users who share projects."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_references, check_text, quoted
from appliance.resources.table import Children, Table
from appliance.store.base import Row, Statement


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
    if team.users:
        raise Invalid(
            f"users[0] names user {quoted(team.users[0])}, which does not exist",
            field="users[0]",
            hint="this release has no users yet: send an empty list",
        )


def _decode(row: Row) -> Team:
    return msgspec.convert(row | {"users": []}, Team)


def _insert(team_id: str, _: str, team: Team, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "INSERT INTO team (id, name, description, created_at_ms, updated_at_ms)"
            " VALUES (?, ?, ?, ?, ?)",
            (team_id, team.name, given(team.description, ""), now_ms, now_ms),
        )
    ]


def _update(team_id: str, team: Team, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "UPDATE team SET name = ?, description = ?,"
            " generation = generation + 1, updated_at_ms = ? WHERE id = ?",
            (team.name, given(team.description, ""), now_ms, team_id),
        )
    ]


TEAMS: Final = Table(
    kind="team",
    title="team",
    struct=Team,
    list_ids=Statement("SELECT id FROM team ORDER BY id"),
    find_named=lambda _, name: Statement("SELECT id FROM team WHERE name = ?", (name,)),
    read=lambda team_id: Statement(
        "SELECT id, name, description, generation FROM team WHERE id = ?", (team_id,)
    ),
    decode=_decode,
    guard=lambda team_id, generation: Statement(
        "SELECT EXISTS (SELECT 1 FROM team WHERE id = ? AND generation = ?)",
        (team_id, generation),
    ),
    check=check_team,
    insert=_insert,
    update=_update,
    delete=lambda team_id: [Statement("DELETE FROM team WHERE id = ?", (team_id,))],
    children=(
        Children(
            "projects",
            lambda team_id: Statement(
                "SELECT COUNT(*) AS children FROM project_team WHERE team_id = ?", (team_id,)
            ),
        ),
    ),
)
