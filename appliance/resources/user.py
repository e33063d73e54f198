"""User: a person or a robot that uses the cloud, by role and by team."""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Conflict, Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.host_name import check_domain
from appliance.resources.names import check_line, check_name, check_text, quoted
from appliance.resources.table import Rule, Table, flat
from appliance.store.base import Row, Statement

MAX_EMAIL_LENGTH: Final = 254  # RFC 5321, 4.5.3.1.3, without the angle brackets
# RFC 5321, 4.1.2: Dot-string. Quoted ones are legal and nowhere to be met.
_LOCAL_PART: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}")


class UserRole(StrEnum):
    SUPER_ADMIN = "superAdmin"  # everything
    PROJECT_ADMIN = "projectAdmin"  # makes and removes what belongs to the projects of their teams
    USER = "user"  # sees and operates it


class User(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Somebody who logs in, or a program with a key."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among users")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    email: Annotated[str, about("Mail address, unique among users; they log in with it")]
    role: Annotated[UserRole, about("What they may do; nobody changes their own")]
    notifications: Annotated[
        Maybe[bool], about("Whether they get mails about their projects", default=False)
    ] = UNSET


class UserCredentials(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a log-in takes and gives."""

    email: Annotated[str, about("Mail address of the user")]
    password: Annotated[str, about("Password; blank in answers")]
    jwt: Annotated[
        Maybe[str], about("Bearer token for the requests that follow", read_only=True)
    ] = UNSET

    def __repr__(self) -> str:
        return "UserCredentials(***)"


class Password(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A password that a user chose."""

    value: Annotated[str, about("The password, of 70 bits at least")]

    def __repr__(self) -> str:
        return "Password(***)"


def check_user(user: User) -> None:
    """Accept a user by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(user.name)
    check_text(given(user.description, ""))
    check_email(user.email)


def check_email(email: str, field: str = "email") -> None:
    """Accept a mail address.

    Raises:
        Invalid: not of the form local-part@domain.
    """
    check_line(email, field, max_length=MAX_EMAIL_LENGTH)
    local, at, domain = email.rpartition("@")
    if not at or not _LOCAL_PART.fullmatch(local) or ".." in f".{local}.":
        raise Invalid(
            f"{field} {quoted(email)} is not a mail address",
            field=field,
            hint="for example: john@example.org",
        )
    check_domain(domain, field, min_labels=1)


def _insert(user_id: str, _: str, user: User, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "INSERT INTO user (id, name, description, email, role, notifications,"
            " created_at_ms, updated_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                user_id,
                user.name,
                given(user.description, ""),
                user.email,
                user.role.value,
                int(given(user.notifications, False)),  # noqa: FBT003 - what it is otherwise
                now_ms,
                now_ms,
            ),
        )
    ]


def _update(user_id: str, user: User, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "UPDATE user SET name = ?, description = ?, email = ?, role = ?, notifications = ?,"
            " generation = generation + 1, updated_at_ms = ? WHERE id = ?",
            (
                user.name,
                given(user.description, ""),
                user.email,
                user.role.value,
                int(given(user.notifications, False)),  # noqa: FBT003 - what it is otherwise
                now_ms,
                user_id,
            ),
        )
    ]


def _same_email(user_id: str, _: str, user: User) -> Statement:
    return Statement("SELECT id FROM user WHERE email = ? AND id <> ?", (user.email, user_id))


def _refuse_email(user: User, row: Row) -> None:
    raise Conflict(
        f"email {quoted(user.email)} is that of user {row['id']}",
        field="email",
        hint="people log in with it: each user needs one of their own",
        id=str(row["id"]),
    )


USERS: Final = Table(
    kind="user",
    title="user",
    struct=User,
    list_ids=Statement("SELECT id FROM user ORDER BY id"),
    find_named=lambda _, name: Statement("SELECT id FROM user WHERE name = ?", (name,)),
    read=lambda user_id: Statement(
        "SELECT id, name, description, email, role, notifications, generation"
        " FROM user WHERE id = ?",
        (user_id,),
    ),
    decode=flat(User),
    guard=lambda user_id, generation: Statement(
        "SELECT EXISTS (SELECT 1 FROM user WHERE id = ? AND generation = ?)",
        (user_id, generation),
    ),
    check=check_user,
    insert=_insert,
    update=_update,
    # Sessions, key and teams: foreign keys.
    delete=lambda user_id: [
        Statement("DELETE FROM user WHERE id = ?", (user_id,)),
        Statement("DELETE FROM secret WHERE owner = 'user/' || ?", (user_id,)),
    ],
    rules=(Rule(_same_email, _refuse_email),),
)
