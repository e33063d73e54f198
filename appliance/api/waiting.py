"""Answers to requests whose work is an operation: when it is done, or at once if so preferred.

A client that leaves does not stop the work.
"""

import asyncio
import re
from typing import Any, Final

import msgspec
from litestar import Response
from litestar.connection import Request

from appliance.api.services import Services
from appliance.core.errors import DeadlineExceeded, KowabungaError, from_problem
from appliance.operations.operation import Operation, State
from appliance.services.durable import CHANGE_S

_RESPOND_ASYNC: Final = re.compile(r"(?:^|,)\s*respond-async\s*(?:;|,|$)", re.IGNORECASE)


class Answered(msgspec.Struct, frozen=True):
    """The operation behind the request, and how it stands."""

    operation: str
    state: State


async def respond(
    services: Services, request: Request[Any, Any, Any], operation_id: str
) -> Response[Answered]:
    """Wait and answer 200, or answer 202 with the operation's URL to who prefers that.

    Raises as `finish` does.
    """
    if prefers_async(request):
        return accepted(operation_id)
    operation = await finish(services, operation_id, CHANGE_S)
    return Response(Answered(operation.id, operation.state))


def prefers_async(request: Request[Any, Any, Any]) -> bool:
    """Tell whether the client wants the operation instead of its outcome (RFC 7240)."""
    return any(_RESPOND_ASYNC.search(value) for value in request.headers.getall("prefer", []))


def accepted(operation_id: str) -> Response[Answered]:
    """Return 202 with the URL to look at."""
    return Response(
        Answered(operation_id, State.RUNNING),
        status_code=202,
        headers={
            "Location": f"/api/ext/v1/operations/{operation_id}",
            "Preference-Applied": "respond-async",
        },
    )


async def _unless_stopping(services: Services, operation_id: str, timeout_s: float) -> Operation:
    async with asyncio.TaskGroup() as group:
        stop = group.create_task(services.stopping.wait())
        end = group.create_task(_outcome(services, operation_id, timeout_s))
        await asyncio.wait({stop, end}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        end.cancel()
    if end.cancelled():
        raise DeadlineExceeded("this server stops")
    outcome = end.result()
    if isinstance(outcome, KowabungaError):
        raise outcome
    return outcome


async def _outcome(
    services: Services, operation_id: str, timeout_s: float
) -> Operation | KowabungaError:
    """Return an error instead of raising it, which a task group would wrap."""
    try:
        return await services.engine.wait(operation_id, timeout_s)
    except KowabungaError as error:
        return error


async def finish(services: Services, operation_id: str, timeout_s: float) -> Operation:
    """Wait for an operation that must succeed.

    Raises:
        DeadlineExceeded: it goes on; the reason names it.
        KowabungaError: it failed; its own error.
    """
    try:
        operation = await _unless_stopping(services, operation_id, timeout_s)
    except DeadlineExceeded as late:
        raise DeadlineExceeded(
            f"operation {operation_id} is not finished and goes on: {late.detail}",
            hint=f"watch it: kowabunga operation watch {operation_id}",
            operation=operation_id,
        ) from late
    if operation.state is State.DONE:
        return operation
    if operation.problem is not None:
        raise from_problem(operation.problem)
    raise KowabungaError(f"operation {operation_id} ended as {operation.state}")
