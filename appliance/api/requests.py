"""Requests within limits: how large, how deep, how slow, and of which type a body may be."""

import asyncio
from typing import Any, Final

from litestar.connection import Request
from litestar.datastructures import State
from litestar.exceptions import HTTPException, InternalServerException

from appliance.api.problems import Malformed
from appliance.model.principal import Principal

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 64
BODY_S: Final = 60.0

Json = Any  # what a JSON text may hold


class ApiRequest(Request[Principal, None, State]):
    """Litestar's request; the framework itself bounds the size (`request_max_body_size`)."""

    async def body(self) -> bytes:
        """Return the whole body.

        Raises:
            Malformed: it did not arrive whole, or not within `BODY_S`.
        """
        try:
            async with asyncio.timeout(BODY_S):
                return await super().body()
        except TimeoutError as late:
            raise Malformed(f"the body did not arrive within {BODY_S:g} s") from late
        except InternalServerException as gone:
            raise Malformed("the body did not arrive whole") from gone

    async def json(self) -> Json:
        """Return the decoded body.

        Raises:
            Malformed: nested deeper than `MAX_DEPTH`.
            HTTPException: 415, the body does not say that it is JSON.
        """
        body = await self.body()
        if body and self.headers.get("content-type", "").partition(";")[0].strip().lower() != (
            "application/json"
        ):
            raise HTTPException(status_code=415, detail="send the body as application/json")
        try:
            value = await super().json()
        except RecursionError as deep:
            raise Malformed(f"the body is nested deeper than {MAX_DEPTH} levels") from deep
        # Few brackets cannot nest deeply: almost every body is spared the walk.
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
            raise Malformed(f"the body is nested deeper than {MAX_DEPTH} levels")
        return value


def _depth_exceeds(value: Json, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            member
            for container in level
            if isinstance(container, dict | list)
            for member in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return False
    return any(isinstance(member, dict | list) for member in level)
