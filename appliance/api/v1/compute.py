"""Routes of templates, volumes, instances and komputes: requests whose work is an operation."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from appliance.api.console import console_url
from appliance.api.v1.route import Call, Method, Query, Route
from appliance.api.v1.standard import list_all, list_below, list_mine, read, set_default, update
from appliance.api.waiting import accepted, prefers_async
from appliance.model.access import Allow
from appliance.model.compute import ConsoleKind
from appliance.resources.instance import (
    INSTANCES,
    Instance,
    InstanceRemoteAccess,
    InstanceState,
    instances_of_project,
)
from appliance.resources.instance_work import PowerAction
from appliance.resources.kompute import KOMPUTES, Kompute, komputes_of_project
from appliance.resources.project import PROJECTS
from appliance.resources.region import REGIONS
from appliance.resources.storage_pool import STORAGE_POOLS
from appliance.resources.template import TEMPLATES, Template
from appliance.resources.volume import VOLUMES, Volume, volumes_of_project
from appliance.resources.zone import ZONES
from appliance.services.catalog import AnyView
from appliance.services.durable import Asked, Begun
from appliance.services.komputes import KomputeOptions
from appliance.store.base import Statement

Begin = Callable[[Call, Asked], Awaitable[Begun[Any]]]

_ADMIN: Final = Allow.SUPER_ADMIN
_MEMBER: Final = Allow.PROJECT_MEMBER
_OWNER: Final = Allow.PROJECT_ADMIN
_POOL: Final = "/pool/{poolId}"
_TEMPLATE: Final = "/template/{templateId}"
_VOLUME: Final = "/volume/{volumeId}"
_INSTANCE: Final = "/instance/{instanceId}"
_KOMPUTE: Final = "/kompute/{komputeId}"
_IN_REGION: Final = "/project/{projectId}/region/{regionId}"
_IN_ZONE: Final = "/project/{projectId}/zone/{zoneId}"

_POOL_ID: Final = Query("poolId", "string", "Storage pool; the region's default if left out.")
_TEMPLATE_ID: Final = Query("templateId", "string", "Template; the pool's default if left out.")
_PUBLIC: Final = Query("public", "boolean", "Whether it gets a public address too.")


async def asked_by(call: Call) -> Asked:
    """Tell who asks, and what makes a request the same as another one."""
    request = call.request
    parts = (
        str(call.principal),
        request.method,
        request.scope["path"],
        request.scope["query_string"].decode("latin-1"),
        hashlib.sha256(await request.body()).hexdigest(),
    )
    return Asked(str(call.principal), hashlib.sha256(msgspec.json.encode(parts)).hexdigest())


def _working(
    method: Method,
    path: str,
    operation_id: str,
    tags: str,
    begin: Begin,
    *,
    who: Allow,
    body: type[msgspec.Struct] | None = None,
    query: tuple[Query, ...] = (),
) -> Route:
    """Route a request that is answered when its work is done, or at once to who prefers that."""

    async def call(call: Call) -> object:
        begun = await begin(call, await asked_by(call))
        if begun.operation_id is not None and prefers_async(call.request):
            return accepted(begun.operation_id)
        return await begun.outcome()

    return Route(
        method, path, operation_id, tags, call, who=who, body=body, answer=body, query=query
    )


def _list_of_project(
    below: Callable[[str, str], Statement],
    parent: AnyView,
    path: str,
    operation_id: str,
    tags: str,
) -> Route:
    async def call(call: Call) -> list[str]:
        project_id, parent_id = call.path.values()
        catalog = call.services.catalog
        await catalog.require(PROJECTS, project_id)
        return await catalog.list_below(
            lambda parent_id: below(project_id, parent_id), parent, parent_id
        )

    return Route("GET", path, operation_id, tags, call, who=_MEMBER, answer=list[str])


def _state(view: AnyView, path: str, operation_id: str) -> Route:
    async def call(call: Call) -> InstanceState:
        return await call.services.compute.machines.state(view, call.last_id)

    return Route(
        "GET", path + "/state", operation_id, view.kind, call, who=_MEMBER, answer=InstanceState
    )


def _power(view: AnyView, path: str, name: str) -> tuple[Route, ...]:
    def route(action: PowerAction) -> Route:
        async def begin(call: Call, asked: Asked) -> Begun[None]:
            return await call.services.compute.machines.act(asked, view, call.last_id, action)

        return _working(
            "PATCH", f"{path}/{action}", action.title() + name, view.kind, begin, who=_MEMBER
        )

    return tuple(route(action) for action in PowerAction)


async def _create_template(call: Call, asked: Asked) -> Begun[Template]:
    return await call.services.compute.templates.create(asked, call.last_id, call.body)


async def _delete_template(call: Call, asked: Asked) -> Begun[None]:
    return await call.services.compute.templates.delete(asked, call.last_id)


async def _create_volume(call: Call, asked: Asked) -> Begun[Volume]:
    project_id, region_id = call.path.values()
    return await call.services.compute.volumes.create(
        asked,
        project_id,
        region_id,
        call.body,
        pool_id=call.text("poolId"),
        template_id=call.text("templateId"),
    )


async def _update_volume(call: Call, asked: Asked) -> Begun[Volume]:
    return await call.services.compute.volumes.update(asked, call.last_id, call.body)


async def _delete_volume(call: Call, asked: Asked) -> Begun[None]:
    return await call.services.compute.volumes.delete(asked, call.last_id)


async def _create_instance(call: Call, asked: Asked) -> Begun[Instance]:
    project_id, zone_id = call.path.values()
    return await call.services.compute.instances.create(asked, project_id, zone_id, call.body)


async def _update_instance(call: Call, asked: Asked) -> Begun[Instance]:
    return await call.services.compute.instances.update(asked, call.last_id, call.body)


async def _delete_instance(call: Call, asked: Asked) -> Begun[None]:
    return await call.services.compute.instances.delete(asked, call.last_id)


async def _connect_instance(call: Call) -> InstanceRemoteAccess:
    services = call.services
    grant = await services.compute.consoles.grant(
        INSTANCES, call.last_id, ConsoleKind.VNC, call.principal
    )
    return InstanceRemoteAccess(url=await console_url(services, call.request, grant.token))


async def _create_kompute(call: Call, asked: Asked) -> Begun[Kompute]:
    project_id, zone_id = call.path.values()
    options = KomputeOptions(
        pool_id=call.text("poolId"),
        template_id=call.text("templateId"),
        public=call.flag("public"),
    )
    return await call.services.compute.komputes.create(
        asked, project_id, zone_id, call.body, options
    )


async def _update_kompute(call: Call, asked: Asked) -> Begun[Kompute]:
    return await call.services.compute.komputes.update(asked, call.last_id, call.body)


async def _delete_kompute(call: Call, asked: Asked) -> Begun[None]:
    return await call.services.compute.komputes.delete(asked, call.last_id)


_TEMPLATES: Final = (
    list_all(TEMPLATES, "/template", "ListTemplates", "template", who=_ADMIN),
    _working(
        "POST",
        _POOL + "/template",
        "CreateTemplate",
        "pool template",
        _create_template,
        who=_ADMIN,
        body=Template,
    ),
    list_below(
        TEMPLATES.list_children_ids,
        STORAGE_POOLS,
        _POOL + "/templates",
        "ListStoragePoolTemplates",
        "pool template",
        who=_ADMIN,
    ),
    set_default(
        TEMPLATES,
        STORAGE_POOLS,
        _POOL + "/template/{templateId}/default",
        "SetStoragePoolDefaultTemplate",
        "pool template",
        who=_ADMIN,
    ),
    read(TEMPLATES, _TEMPLATE, "ReadTemplate", "template", who=_ADMIN),
    update(TEMPLATES, _TEMPLATE, "UpdateTemplate", "template", who=_ADMIN),
    _working("DELETE", _TEMPLATE, "DeleteTemplate", "template", _delete_template, who=_ADMIN),
)
_VOLUMES: Final = (
    list_mine(VOLUMES, "/volume", "ListVolumes", "volume"),
    _working(
        "POST",
        _IN_REGION + "/volume",
        "CreateProjectRegionVolume",
        "project region volume",
        _create_volume,
        who=_OWNER,
        body=Volume,
        query=(_POOL_ID, _TEMPLATE_ID),
    ),
    _list_of_project(
        volumes_of_project,
        REGIONS,
        _IN_REGION + "/volumes",
        "ListProjectRegionVolumes",
        "project region volume",
    ),
    read(VOLUMES, _VOLUME, "ReadVolume", "volume", who=_MEMBER),
    _working("PUT", _VOLUME, "UpdateVolume", "volume", _update_volume, who=_OWNER, body=Volume),
    _working("DELETE", _VOLUME, "DeleteVolume", "volume", _delete_volume, who=_OWNER),
)
_INSTANCES: Final = (
    list_mine(INSTANCES, "/instance", "ListInstances", "instance"),
    _working(
        "POST",
        _IN_ZONE + "/instance",
        "CreateProjectZoneInstance",
        "project zone instance",
        _create_instance,
        who=_OWNER,
        body=Instance,
    ),
    _list_of_project(
        instances_of_project,
        ZONES,
        _IN_ZONE + "/instances",
        "ListProjectZoneInstances",
        "project zone instance",
    ),
    read(INSTANCES, _INSTANCE, "ReadInstance", "instance", who=_MEMBER),
    _working(
        "PUT", _INSTANCE, "UpdateInstance", "instance", _update_instance, who=_OWNER, body=Instance
    ),
    _working("DELETE", _INSTANCE, "DeleteInstance", "instance", _delete_instance, who=_OWNER),
    _state(INSTANCES, _INSTANCE, "ReadInstanceState"),
    Route(
        "GET",
        _INSTANCE + "/connect",
        "ReadInstanceRemoteConnection",
        "instance",
        _connect_instance,
        who=_MEMBER,
        answer=InstanceRemoteAccess,
    ),
    *_power(INSTANCES, _INSTANCE, "Instance"),
)
_KOMPUTES: Final = (
    list_mine(KOMPUTES, "/kompute", "ListKomputes", "kompute"),
    _working(
        "POST",
        _IN_ZONE + "/kompute",
        "CreateProjectZoneKompute",
        "project zone kompute",
        _create_kompute,
        who=_OWNER,
        body=Kompute,
        query=(_POOL_ID, _TEMPLATE_ID, _PUBLIC),
    ),
    _list_of_project(
        komputes_of_project,
        ZONES,
        _IN_ZONE + "/komputes",
        "ListProjectZoneKomputes",
        "project zone kompute",
    ),
    read(KOMPUTES, _KOMPUTE, "ReadKompute", "kompute", who=_MEMBER),
    _working(
        "PUT", _KOMPUTE, "UpdateKompute", "kompute", _update_kompute, who=_OWNER, body=Kompute
    ),
    _working("DELETE", _KOMPUTE, "DeleteKompute", "kompute", _delete_kompute, who=_OWNER),
    _state(KOMPUTES, _KOMPUTE, "ReadKomputeState"),
    *_power(KOMPUTES, _KOMPUTE, "Kompute"),
)
COMPUTE_ROUTES: Final[tuple[Route, ...]] = (*_TEMPLATES, *_VOLUMES, *_INSTANCES, *_KOMPUTES)
