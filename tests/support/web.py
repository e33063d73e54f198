"""A web server that tests tell how to misbehave: it stalls, lies, cuts, redirects and changes."""

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Page:
    """What a path answers.

    Attributes:
        validators: headers that tell the version of the content.
        ranges: whether it serves parts of the content.
        length: what it says its length is; None: the truth.
        framing: how the end of the body is told.
        stall_at, cut_at: after so many bytes of the body it sends no more, or hangs up.
    """

    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    validators: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    ranges: bool = True
    length: int | None = None
    framing: str = "length"
    stall_at: int | None = None
    cut_at: int | None = None


@dataclass
class Web:
    """Pages by path, and what was asked."""

    base: str = ""
    pages: dict[str, Page] = field(default_factory=dict[str, Page])
    asked: list[tuple[str, dict[str, str]]] = field(
        default_factory=list[tuple[str, dict[str, str]]]
    )
    stalled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def port(self) -> str:
        return self.base.rpartition(":")[2]

    def put(self, path: str, page: Page) -> str:
        """Serve a page and return its URL."""
        self.pages[path] = page
        return self.base + path

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            path = head[0].split()[1]
            headers = dict(re.split(r":\s*", line, maxsplit=1) for line in head[1:] if line)
            self.asked.append((path, {name.lower(): value for name, value in headers.items()}))
            await self._answer(self.pages.get(path, Page(status=404)), self.asked[-1][1], writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client hung up
        finally:
            writer.close()

    async def _answer(
        self, page: Page, asked: dict[str, str], writer: asyncio.StreamWriter
    ) -> None:
        status, body, headers = page.status, page.content, {**page.headers, **page.validators}
        wanted = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
        if wanted and page.ranges and asked.get("if-range") in page.validators.values():
            begin, whole = int(wanted[1]), len(body)
            status, body = 206, body[begin:]
            headers["Content-Range"] = f"bytes {begin}-{whole - 1}/{whole}"
        if page.framing == "length":
            headers["Content-Length"] = str(len(body) if page.length is None else page.length)
        elif page.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        lines = [f"HTTP/1.1 {status} So", *(f"{k}: {v}" for k, v in headers.items())]
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        for limit in (page.stall_at, page.cut_at):
            body = body if limit is None else body[:limit]
        writer.write(body)
        await writer.drain()
        if page.stall_at is not None:
            self.stalled.set()
            await asyncio.Event().wait()


@asynccontextmanager
async def open_web(
    *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncGenerator[Web]:
    web = Web()
    clients: set[asyncio.Task[None]] = set()

    def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(web.serve(reader, writer))
        clients.add(task)
        task.add_done_callback(clients.discard)

    server = await asyncio.start_server(client, host, 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    web.base = f"{'https' if tls else 'http'}://{'localhost' if tls else host}:{port}"
    try:
        yield web
    finally:
        server.close()
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
