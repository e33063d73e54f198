"""Who may call a route: what each one declares, and what is judged by."""

from enum import StrEnum


class Allow(StrEnum):
    ANYONE = "anyone"  # also without a credential
    AUTHENTICATED = "authenticated"
    SELF = "self"  # the user whom the path names
    PROJECT_MEMBER = "project_member"  # of a team of the project that the object belongs to
    PROJECT_ADMIN = "project_admin"  # such a one whose role is projectAdmin
    SUPER_ADMIN = "super_admin"
