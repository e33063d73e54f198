"""A client that costs little, so that what is measured is the server: HTTP/1.1 with keep-alive."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

_LIMIT: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class Connection:
    """One connection; one request at a time."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._head = head

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, key: str = "") -> AsyncGenerator[Self]:
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=_LIMIT)
        head = f"Host: {where.netloc}\r\n" + (f"X-API-Key: {key}\r\n" if key else "")
        try:
            yield cls(reader, writer, head)
        finally:
            writer.close()
            await writer.wait_closed()

    async def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self._writer.write(f"{method} {path} HTTP/1.1\r\n{self._head}{kind}\r\n".encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, found, rest = head.partition(b"content-length:")
        length = int(rest.partition(b"\r\n")[0]) if found else 0
        answer = Answer(int(head[9:12]), await self._reader.readexactly(length))
        assert answer.status < 300, (method, path, answer)
        return answer


async def gets_per_s(
    url: str, paths: Sequence[str], *, key: str = "", connections: int = 16, for_s: float = 2.0
) -> float:
    """Get the paths in turn, over and over, as fast as they are answered."""
    done = 0

    async def repeat(offset: int) -> None:
        nonlocal done
        async with Connection.open(url, key) as connection:
            turn = offset
            while time.perf_counter() < end:
                await connection.ask("GET", paths[turn % len(paths)])
                turn += 1
                done += 1

    began = time.perf_counter()
    end = began + for_s
    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(repeat(number * 7))
    return done / (time.perf_counter() - began)


def percentile(values: Sequence[float], per_cent: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * per_cent / 100))]
