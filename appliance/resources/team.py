"""Team: users who share projects."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_references, check_text, quoted
from appliance.resources.table import Children, Rule, Table, as_json
from appliance.store.base import Row, Statement


class Team(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Users who work in the same projects."""

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


def _decode(row: Row) -> Team:
    return msgspec.convert(row | {"users": msgspec.json.decode(str(row["users"]))}, Team)


def _insert_users(team_id: str, team: Team) -> Statement:
    return Statement(
        "INSERT INTO team_user (team_id, user_id) SELECT ?, value FROM json_each(?)",
        (team_id, as_json(team.users)),
    )


def _insert(team_id: str, _: str, team: Team, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "INSERT INTO team (id, name, description, created_at_ms, updated_at_ms)"
            " VALUES (?, ?, ?, ?, ?)",
            (team_id, team.name, given(team.description, ""), now_ms, now_ms),
        ),
        _insert_users(team_id, team),
    ]


def _update(team_id: str, team: Team, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "UPDATE team SET name = ?, description = ?,"
            " generation = generation + 1, updated_at_ms = ? WHERE id = ?",
            (team.name, given(team.description, ""), now_ms, team_id),
        ),
        Statement("DELETE FROM team_user WHERE team_id = ?", (team_id,)),
        _insert_users(team_id, team),
    ]


def _unknown_users(_team_id: str, _: str, team: Team) -> Statement:
    return Statement(
        "SELECT wanted.key AS position, wanted.value AS id FROM json_each(?) AS wanted"
        " WHERE NOT EXISTS (SELECT 1 FROM user WHERE user.id = wanted.value) ORDER BY wanted.key",
        (as_json(team.users),),
    )


def _refuse_user(_: Team, row: Row) -> None:
    field = f"users[{row['position']}]"
    raise Invalid(f"{field} names user {quoted(str(row['id']))}, which does not exist", field=field)


TEAMS: Final = Table(
    kind="team",
    title="team",
    struct=Team,
    list_ids=Statement("SELECT id FROM team ORDER BY id"),
    find_named=lambda _, name: Statement("SELECT id FROM team WHERE name = ?", (name,)),
    read=lambda team_id: Statement(
        "SELECT id, name, description, generation,"
        " (SELECT json_group_array(user_id) FROM (SELECT user_id FROM team_user"
        " WHERE team_id = team.id ORDER BY user_id)) AS users"
        " FROM team WHERE id = ?",
        (team_id,),
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
    rules=(Rule(_unknown_users, _refuse_user),),
)
