"""The routes of plain kinds: list, create, read, update, delete, make the default.

They differ in nothing but the table of the kind, their place and who may call them. The last id in
the path is that of the object or of its parent.
"""

from collections.abc import Callable
from typing import Any

from appliance.api.guards import role_of
from appliance.api.v1.route import Call, Route
from appliance.model.access import Allow
from appliance.resources.user import UserRole
from appliance.services.catalog import AnyPart, AnyTable, AnyView
from appliance.store.base import Statement

Below = Callable[[str], Statement]  # selects ids by the id of their parent
After = Callable[[Call, Any], None]  # is handed the object as it is answered


def nothing_after(_call: Call, _answer: object) -> None:
    return


def list_all(table: AnyView, path: str, operation_id: str, tags: str, *, who: Allow) -> Route:
    async def call(call: Call) -> list[str]:
        return await call.services.catalog.list_ids(table)

    return Route("GET", path, operation_id, tags, call, who=who, answer=list[str])


def list_mine(table: AnyView, path: str, operation_id: str, tags: str) -> Route:
    """Route the list of what belongs to projects: a user gets what is in theirs."""

    async def call(call: Call) -> list[str]:
        is_super = role_of(call.request.scope) is UserRole.SUPER_ADMIN
        of_user = None if is_super else call.principal.id
        return await call.services.catalog.list_ids(table, of_user=of_user)

    return Route("GET", path, operation_id, tags, call, who=Allow.AUTHENTICATED, answer=list[str])


def list_below(
    below: Below | None,
    parent: AnyView,
    path: str,
    operation_id: str,
    tags: str,
    *,
    who: Allow,
) -> Route:
    """Route the list of what `below` selects for one parent: often `TABLE.list_children_ids`."""
    assert below is not None

    async def call(call: Call) -> list[str]:
        return await call.services.catalog.list_below(below, parent, call.last_id)

    return Route("GET", path, operation_id, tags, call, who=who, answer=list[str])


def create(
    table: AnyTable,
    parent: AnyView | None,
    path: str,
    operation_id: str,
    tags: str,
    *,
    who: Allow,
    after: After = nothing_after,
) -> Route:
    async def call(call: Call) -> object:
        parent_id = "" if parent is None else call.last_id
        made = await call.services.catalog.create(table, call.body, parent, parent_id)
        after(call, made)
        return made

    return Route(
        "POST", path, operation_id, tags, call, who=who, body=table.struct, answer=table.struct
    )


def read(table: AnyView, path: str, operation_id: str, tags: str, *, who: Allow) -> Route:
    async def call(call: Call) -> object:
        return await call.services.catalog.get(table, call.last_id)

    return Route("GET", path, operation_id, tags, call, who=who, answer=table.struct)


def read_part(
    table: AnyView, part: AnyPart, path: str, operation_id: str, tags: str, *, who: Allow
) -> Route:
    async def call(call: Call) -> object:
        return await call.services.catalog.get_part(table, part, call.last_id)

    return Route("GET", path, operation_id, tags, call, who=who, answer=part.struct)


def update(
    table: AnyTable,
    path: str,
    operation_id: str,
    tags: str,
    *,
    who: Allow,
    after: After = nothing_after,
) -> Route:
    async def call(call: Call) -> object:
        changed = await call.services.catalog.update(table, call.last_id, call.body)
        after(call, changed)
        return changed

    return Route(
        "PUT", path, operation_id, tags, call, who=who, body=table.struct, answer=table.struct
    )


def delete(table: AnyTable, path: str, operation_id: str, tags: str, *, who: Allow) -> Route:
    async def call(call: Call) -> None:
        await call.services.catalog.delete(table, call.last_id)

    return Route("DELETE", path, operation_id, tags, call, who=who)


def set_default(
    table: AnyTable, parent: AnyTable, path: str, operation_id: str, tags: str, *, who: Allow
) -> Route:
    async def call(call: Call) -> None:
        parent_id, object_id = call.path.values()
        await call.services.catalog.set_default(table, object_id, parent, parent_id)

    return Route("PATCH", path, operation_id, tags, call, who=who)
