"""What a user may do: decided per object, from rows, at each request.

The one place. What a route needs is declared beside its path (`model/access.py`); whose an object
is, the view `project_object` tells. An object of others and one that does not exist are refused
alike.
"""

from collections.abc import Mapping
from typing import Final

from appliance.core.errors import Forbidden
from appliance.model.access import Allow
from appliance.resources.user import UserRole
from appliance.store.base import Statement, Store

_FACTS: Final = (
    "SELECT role, EXISTS (SELECT 1 FROM project_object"
    " JOIN project_team ON project_team.project_id = project_object.project_id"
    " JOIN team_user ON team_user.team_id = project_team.team_id"
    " WHERE project_object.object_id = ? AND team_user.user_id = user.id) AS is_member"
    " FROM user WHERE id = ?"
)

_NEEDS: Final = {
    Allow.ANYONE: "nothing",
    Allow.AUTHENTICATED: "a user that exists",
    Allow.SELF: "the user themselves",
    Allow.PROJECT_MEMBER: "a member of the project",
    Allow.PROJECT_ADMIN: "an admin of the project",
    Allow.SUPER_ADMIN: "a super administrator",
}


class Access:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def role_for(self, user_id: str, allow: Allow, path: Mapping[str, str]) -> UserRole:
        """Return the role by which a user may call a route.

        Args:
            user_id: who asks.
            allow: what the route declares.
            path: the parameters of its path, in their order: the first names the object that
                decides.

        Raises:
            Forbidden: they may not; or there is no such user any more.
        """
        object_id = next(iter(path.values()), "")
        rows = await self._store.query(Statement(_FACTS, (object_id, user_id)))
        if rows:
            role = UserRole(str(rows[0]["role"]))
            own = object_id == user_id
            if _is_allowed(allow, role, is_member=bool(rows[0]["is_member"]), is_self=own):
                return role
        raise Forbidden(f"user/{user_id} may not do this: it takes {_NEEDS[allow]}")


def _is_allowed(allow: Allow, role: UserRole, *, is_member: bool, is_self: bool) -> bool:
    if role is UserRole.SUPER_ADMIN:
        return True
    match allow:
        case Allow.ANYONE | Allow.AUTHENTICATED:
            return True
        case Allow.SELF:
            return is_self
        case Allow.PROJECT_MEMBER:
            return is_member
        case Allow.PROJECT_ADMIN:
            return is_member and role is UserRole.PROJECT_ADMIN
        case Allow.SUPER_ADMIN:
            return False
