"""Routes of projects and adapters."""

from dataclasses import replace
from typing import Final

import msgspec

from appliance.api.guards import role_of
from appliance.api.v1.route import Call, Query, Route
from appliance.api.v1.standard import list_below, list_mine, read, read_part
from appliance.model.access import Allow
from appliance.resources.adapter import ADAPTERS, Adapter
from appliance.resources.project import PROJECT_USAGE, PROJECTS, Project
from appliance.resources.project_cost import PROJECT_COST
from appliance.resources.subnet import SUBNETS
from appliance.resources.user import UserRole

_SUPER: Final = UserRole.SUPER_ADMIN

_PROJECT: Final = "/project/{projectId}"
_ADAPTER: Final = "/adapter/{adapterId}"

_SUBNET_SIZE: Final = Query(
    "subnetSize",
    "integer",
    "Prefix length of the smallest subnet that the project has room in; 26 if left out."
    " It cannot be changed later.",
)
_ASSIGN_IP: Final = Query(
    "assignIP",
    "boolean",
    "Whether the lowest free address is taken, if none is sent.",
)


async def _create_project(call: Call) -> Project:
    size = call.query["subnetSize"]
    assert size is None or isinstance(size, int)
    return await call.services.projects.create(call.body, size)


async def _read_project(call: Call) -> Project:
    project = await call.services.projects.get(call.last_id)
    if role_of(call.request.scope) is UserRole.USER:
        # They may become root in its machines by the owner's word only.
        return msgspec.structs.replace(project, root_password="")
    return project


async def _update_project(call: Call) -> Project:
    return await call.services.projects.update(
        call.last_id, call.body, may_change_limits=role_of(call.request.scope) is _SUPER
    )


async def _delete_project(call: Call) -> None:
    await call.services.projects.delete(call.last_id)


async def _create_adapter(call: Call) -> Adapter:
    return await call.services.adapters.create(
        call.last_id, call.body, assign=call.flag("assignIP")
    )


async def _update_adapter(call: Call) -> Adapter:
    return await call.services.adapters.update(call.last_id, call.body)


async def _delete_adapter(call: Call) -> None:
    await call.services.adapters.delete(call.last_id)


PROJECT_ROUTES: Final[tuple[Route, ...]] = (
    replace(list_mine(PROJECTS, "/project", "ListProjects", "project"), query=(_SUBNET_SIZE,)),
    Route(
        "POST",
        "/project",
        "CreateProject",
        "project",
        _create_project,
        who=Allow.SUPER_ADMIN,
        body=Project,
        answer=Project,
        query=(_SUBNET_SIZE,),
    ),
    Route(
        "GET",
        _PROJECT,
        "ReadProject",
        "project",
        _read_project,
        who=Allow.PROJECT_MEMBER,
        answer=Project,
    ),
    Route(
        "PUT",
        _PROJECT,
        "UpdateProject",
        "project",
        _update_project,
        who=Allow.PROJECT_ADMIN,
        body=Project,
        answer=Project,
    ),
    Route("DELETE", _PROJECT, "DeleteProject", "project", _delete_project, who=Allow.PROJECT_ADMIN),
    read_part(
        PROJECTS,
        PROJECT_COST,
        _PROJECT + "/cost",
        "ReadProjectCost",
        "project",
        who=Allow.PROJECT_MEMBER,
    ),
    read_part(
        PROJECTS,
        PROJECT_USAGE,
        _PROJECT + "/usage",
        "ReadProjectUsage",
        "project",
        who=Allow.PROJECT_MEMBER,
    ),
    list_mine(ADAPTERS, "/adapter", "ListAdapters", "adapter"),
    Route(
        "POST",
        "/subnet/{subnetId}/adapter",
        "CreateAdapter",
        "subnet adapter",
        _create_adapter,
        who=Allow.SUPER_ADMIN,
        body=Adapter,
        answer=Adapter,
        query=(_ASSIGN_IP,),
    ),
    list_below(
        ADAPTERS.list_children_ids,
        SUBNETS,
        "/subnet/{subnetId}/adapters",
        "ListSubnetAdapters",
        "subnet adapter",
        who=Allow.SUPER_ADMIN,
    ),
    read(ADAPTERS, _ADAPTER, "ReadAdapter", "adapter", who=Allow.PROJECT_MEMBER),
    Route(
        "PUT",
        _ADAPTER,
        "UpdateAdapter",
        "adapter",
        _update_adapter,
        who=Allow.SUPER_ADMIN,
        body=Adapter,
        answer=Adapter,
    ),
    Route("DELETE", _ADAPTER, "DeleteAdapter", "adapter", _delete_adapter, who=Allow.SUPER_ADMIN),
)
