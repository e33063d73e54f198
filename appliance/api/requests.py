"""Requests within limits: how large, how deep, how slow, and of which type a body may be."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import msgspec
from litestar.connection import Request
from litestar.datastructures import State
from litestar.exceptions import HTTPException, InternalServerException

from appliance.api.problems import Malformed
from appliance.core.errors import Invalid, Unavailable
from appliance.model.principal import Principal
from appliance.resources.fields import missing_field

T = TypeVar("T", bound=msgspec.Struct)

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 64
# A text of 64 KiB, the longest there is, may be nothing but brackets. A megabyte of them took
# seconds to read, and nobody else was served meanwhile.
MAX_CONTAINERS: Final = 100_000
BODY_S: Final = 60.0
LARGE_BYTES: Final = 64 * 1024
ROOM_BYTES: Final = 64 * 1024 * 1024  # for all large bodies that arrive at the same time
_ROOM: Final = "room_for_bodies"  # in the application's state

_NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError)

Json = Any  # what a JSON text may hold


class ApiRequest(Request[Principal, None, State]):
    """Litestar's request; the framework itself bounds the size (`request_max_body_size`)."""

    async def body(self) -> bytes:
        """Return the whole body; large ones wait their turn.

        Raises:
            Malformed: it did not arrive whole, or not within `BODY_S`.
            Unavailable: its turn did not come within `BODY_S`.
        """
        if self._is_small:
            return await self._read()
        async with self._turn():
            return await self._read()

    @property
    def _is_small(self) -> bool:
        length = self.content_length
        return "transfer-encoding" not in self.headers and (length or 0) <= LARGE_BYTES

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        most = self.route_handler.resolve_request_max_body_size() or ROOM_BYTES
        fresh = asyncio.Semaphore(max(ROOM_BYTES // most, 1))
        room: asyncio.Semaphore = self.app.state.setdefault(_ROOM, fresh)
        try:
            async with asyncio.timeout(BODY_S):
                await room.acquire()
        except TimeoutError as late:
            raise Unavailable("too many large requests came at the same time") from late
        try:
            yield
        finally:
            room.release()

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(BODY_S):
                return await super().body()
        except TimeoutError as late:
            raise Malformed(f"the body did not arrive within {BODY_S:g} s") from late
        except InternalServerException as gone:
            raise Malformed("the body did not arrive whole") from gone

    async def json(self) -> Json:
        """Return the body as what the route declares for it, decoded strictly.

        The framework's own conversion would take "1" for 1.

        Raises:
            Malformed: not JSON, of another shape, or nested deeper than `MAX_DEPTH`.
            Invalid: a required field is missing.
            HTTPException: 415, the body does not say that it is JSON.
        """
        body = await self.body()
        if body and self.headers.get("content-type", "").partition(";")[0].strip().lower() != (
            "application/json"
        ):
            raise HTTPException(status_code=415, detail="send the body as application/json")
        return decode_json(
            body, self.route_handler.parsed_fn_signature.parameters["data"].annotation
        )


def decode_json(body: bytes, kind: type[T]) -> T:
    """Decode a body strictly; raises as `ApiRequest.json` does."""
    containers = body.count(b"[") + body.count(b"{")
    if containers > MAX_CONTAINERS:
        raise Malformed(f"the body has more than {MAX_CONTAINERS} brackets")
    if containers > MAX_DEPTH:  # few brackets cannot nest deeply: most bodies are spared the walk
        _refuse_depth(_decode(body))
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as wrong:
        # A typed decoder stops at the first wrong field, in a body that may not even be JSON
        # after it.
        if (missing := missing_field(kind, _decode(body))) is not None:
            raise Invalid(f"the required field {missing} is missing", field=missing) from wrong
        raise Malformed(str(wrong)) from wrong
    except _NOT_JSON as broken:
        raise Malformed(f"the body is not JSON: {broken}") from broken


def _decode(body: bytes) -> Json:
    try:
        return msgspec.json.decode(body)
    except RecursionError as deep:
        raise Malformed(f"the body is nested deeper than {MAX_DEPTH} levels") from deep
    except _NOT_JSON as broken:
        raise Malformed(f"the body is not JSON: {broken}") from broken


def _refuse_depth(value: Json) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            member
            for container in level
            if isinstance(container, dict | list)
            for member in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return
    if any(isinstance(member, dict | list) for member in level):
        raise Malformed(f"the body is nested deeper than {MAX_DEPTH} levels")
