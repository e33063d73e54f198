"""Durable work: what is under way, what became of it, and an operator's say in it."""

from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec
from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from appliance.api.guards import allow, role_of
from appliance.api.requests import ApiRequest
from appliance.api.services import Services
from appliance.api.streams import UntilStopped
from appliance.core.errors import Forbidden, NotFound
from appliance.model.access import Allow
from appliance.model.principal import Principal
from appliance.operations.operation import Abandoned, Operation
from appliance.resources.user import UserRole

_JSON_LINES = "application/x-ndjson"


class OperationId(msgspec.Struct, frozen=True):
    """The operation that does what was asked for."""

    operation: str


class OperationController(Controller):
    path = "/operations"
    tags = ("operation",)
    opt = allow(Allow.SUPER_ADMIN)

    @get(operation_id="ListOperations")
    async def list_operations(
        self,
        services: NamedDependency[Services],
        limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
        unfinished: Annotated[bool, QueryParameter(description="Only those under way.")] = False,  # noqa: FBT002
    ) -> list[Operation]:
        """Return operations, the newest first."""
        return list(await services.engine.list(unfinished=unfinished, limit=limit))

    @get("/{operation_id:str}", operation_id="GetOperation", opt=allow(Allow.AUTHENTICATED))
    async def get_operation(
        self,
        services: NamedDependency[Services],
        request: ApiRequest,
        operation_id: FromPath[str],
    ) -> Operation:
        """Return one operation; users see those that they have begun."""
        return await _read(services, request, operation_id)

    @get(
        "/{operation_id:str}/watch",
        operation_id="WatchOperation",
        media_type=_JSON_LINES,
        opt=allow(Allow.AUTHENTICATED),
    )
    async def watch_operation(
        self,
        services: NamedDependency[Services],
        request: ApiRequest,
        operation_id: FromPath[str],
    ) -> Stream:
        """Return the operation now and after each change, one JSON object a line, to its end."""
        await _read(services, request, operation_id)

        async def lines() -> AsyncGenerator[bytes]:
            async for operation in services.engine.watch(operation_id):
                yield msgspec.json.encode(operation) + b"\n"

        return Stream(UntilStopped(lines(), services.stopping), media_type=_JSON_LINES)

    @post("/{operation_id:str}/retry", operation_id="RetryOperation", status_code=202)
    async def retry_operation(
        self,
        services: NamedDependency[Services],
        principal: NamedDependency[Principal],
        operation_id: FromPath[str],
    ) -> OperationId:
        """Try again now; the answer names the operation that does, a new one if it had failed."""
        return OperationId(await services.engine.retry(operation_id, str(principal)))

    @post("/{operation_id:str}/abandon", operation_id="AbandonOperation", status_code=200)
    async def abandon_operation(
        self, services: NamedDependency[Services], operation_id: FromPath[str]
    ) -> Abandoned:
        """Let go of an unfinished operation; the answer lists what it leaves behind."""
        return await services.engine.abandon(operation_id)


async def _read(services: Services, request: ApiRequest, operation_id: str) -> Operation:
    """Return an operation that the caller may see.

    Raises:
        NotFound: there is none, and the caller may know.
        Forbidden: it is somebody else's, or there is none.
    """
    is_super = role_of(request.scope) is UserRole.SUPER_ADMIN
    try:
        operation = await services.engine.get(operation_id)
    except NotFound:
        if is_super:
            raise
        operation = None
    if operation is None or not (is_super or operation.principal == str(request.user)):
        raise Forbidden(f"{request.user} may not see this operation")
    return operation
