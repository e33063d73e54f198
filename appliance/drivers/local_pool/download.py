"""Download a file so that an interruption costs little: what came is kept and not asked for again.

A repeat asks for the rest (Range), but only of the same version of the source (If-Range): one that
changed since is downloaded anew.
"""

import ssl
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import httpcore

from appliance.core.clock import Clock
from appliance.core.errors import InsufficientResource, Invalid, Unavailable
from appliance.core.tls import doubt_clock, find_mistrust
from appliance.drivers.local_pool.connect import CheckedBackend, Resolve
from appliance.drivers.local_pool.kept_file import KeptFile, Note
from appliance.drivers.local_pool.response import Answer, read_answer
from appliance.drivers.local_pool.source_policy import SourcePolicy
from appliance.drivers.local_pool.threads import Threads
from appliance.model.storage import ImportProgress, ProgressListener, TemplateSource

_MAX_REDIRECTS: Final = 5
_CHUNK_BYTES: Final = 2**20
_KEEP_S: Final = 5.0  # how much of a download a power cut may cost
_PROGRESS_S: Final = 1.0
_BROKEN: Final = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class Download:
    """The download of one template, to a file that only this object writes."""

    def __init__(
        self,
        source: TemplateSource,
        path: Path,
        *,
        room_bytes: int,
        room: Callable[[], int],
        progress: ProgressListener,
        threads: Threads,
        clock: Clock,
        resolve: Resolve,
        tls: ssl.SSLContext,
        stall_s: float,
    ) -> None:
        self.path: Final = path
        self._source = source
        self._policy = SourcePolicy(source)
        self._room_bytes = room_bytes
        self._room = room
        self._progress = progress
        self._threads = threads
        self._clock = clock
        self._resolve = resolve
        self._tls = tls
        self._stall_s = stall_s
        self._told_at: float | None = None

    async def run(self) -> str:
        """Bring the file to the disk whole and return its SHA-256.

        Raises:
            Invalid: the source is not there, or may not be asked.
            InsufficientResource: it is larger than the room for it.
            Unavailable: the source does not answer, or broke off; what came is kept.
        """
        file = await self._threads.run(KeptFile, self.path, self._source.url)
        try:
            sha256 = file.note.sha256 or await self._download(file)
        finally:
            await self._threads.run(file.close)
        self._tell(file.done_bytes, file.done_bytes)
        return sha256

    async def _download(self, file: KeptFile) -> str:
        await self._threads.run_until(file.rehash)
        async with self._ask(file.note) as (answer, response):
            self._check_room(answer.total_bytes or 0)
            await self._threads.run(file.begin, answer.offset, answer.validator)
            try:
                await self._store(file, answer.total_bytes, response)
            except BaseException:
                await self._threads.run(file.keep)
                raise
        return await self._threads.run(file.finish)

    async def _store(
        self, file: KeptFile, total_bytes: int | None, response: httpcore.Response
    ) -> None:
        kept_at: float | None = None
        async with aclosing(_chunks(response)) as chunks:
            async for chunk in chunks:
                self._check_room(file.done_bytes + len(chunk))
                await self._threads.run(self._take, file, chunk)
                self._tell_sometimes(file.done_bytes, total_bytes)
                now = self._clock.monotonic()
                if kept_at is None or now - kept_at >= _KEEP_S:
                    await self._threads.run(file.keep)
                    kept_at = now
        if total_bytes not in (None, file.done_bytes):
            raise Unavailable(f"{self._source.url} ended early")

    @asynccontextmanager
    async def _ask(self, note: Note) -> AsyncGenerator[tuple[Answer, httpcore.Response]]:
        """Ask for the rest of the file, or for all of it if the rest cannot be had."""
        url = self._policy.check_url(self._source.url)
        redirects = 0
        async with AsyncExitStack() as stack:
            stack.enter_context(_told_as_ours(url, self._stall_s))
            pool = await stack.enter_async_context(
                httpcore.AsyncConnectionPool(
                    ssl_context=self._tls,
                    network_backend=CheckedBackend(self._policy, self._resolve),
                )
            )
            while True:
                response = await stack.enter_async_context(
                    pool.stream("GET", url, headers=_headers(note), extensions=self._limits())
                )
                if response.status in _REDIRECTS:
                    redirects += 1
                    url = self._policy.follow(url, _location(response))
                    if redirects > _MAX_REDIRECTS:
                        raise Invalid(f"{url}: more than {redirects - 1} redirects", field="url")
                    continue
                answer = read_answer(
                    url,
                    response,
                    offset=note.done_bytes,
                    validator=note.validator,
                    trusted=self._source.sha256 is not None,
                )
                if answer is not None:
                    yield answer, response
                    return
                note = Note(url=note.url)

    def _take(self, file: KeptFile, chunk: bytes) -> None:
        if len(chunk) > self._room():
            raise InsufficientResource(
                f"{self._source.url} filled the pool before it came to its end, together with"
                " what else is written there",
                hint="delete templates that are no longer used, or add storage",
            )
        file.take(chunk)

    def _limits(self) -> dict[str, object]:
        limits = dict.fromkeys(("connect", "read", "write", "pool"), self._stall_s)
        return {"timeout": limits}

    def _check_room(self, size_bytes: int) -> None:
        if size_bytes > self._room_bytes:
            raise InsufficientResource(
                f"{self._source.url} has {size_bytes} bytes or more, and the pool has room for"
                f" {self._room_bytes}",
                hint="delete templates that are no longer used, or add storage",
            )

    def _tell_sometimes(self, done_bytes: int, total_bytes: int | None) -> None:
        now = self._clock.monotonic()
        if self._told_at is None or now - self._told_at >= _PROGRESS_S:
            self._told_at = now
            self._tell(done_bytes, total_bytes)

    def _tell(self, done_bytes: int, total_bytes: int | None) -> None:
        self._progress(
            ImportProgress(
                template_id=self._source.template_id,
                done_bytes=done_bytes,
                total_bytes=total_bytes,
            )
        )


async def _chunks(response: httpcore.Response) -> AsyncGenerator[bytes]:
    """Yield the body in pieces that are worth a change of thread."""
    chunk = bytearray()
    try:
        async for part in response.aiter_stream():
            chunk += part
            if len(chunk) >= _CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
    except _BROKEN:
        yield bytes(chunk)  # it came, and counts
        raise
    yield bytes(chunk)


def _headers(note: Note) -> list[tuple[str, str]]:
    headers = [("User-Agent", "kowabunga"), ("Accept", "*/*"), ("Accept-Encoding", "identity")]
    if note.done_bytes and note.validator:
        headers += [("Range", f"bytes={note.done_bytes}-"), ("If-Range", note.validator)]
    return headers


def _location(response: httpcore.Response) -> str:
    for name, value in response.headers:
        if name.lower() == b"location":
            return value.decode("latin-1")
    return ""


@contextmanager
def _told_as_ours(url: str, stall_s: float) -> Generator[None]:
    """Turn what httpcore raises into our own errors."""
    try:
        yield
    except httpcore.TimeoutException as late:
        raise Unavailable(
            f"{url} sent nothing for {stall_s:g} s", hint="a repeat goes on from there"
        ) from late
    except (httpcore.NetworkError, httpcore.ProtocolError) as broken:
        mistrust = find_mistrust(broken)
        if mistrust is not None:
            raise Invalid(
                f"the certificate of {url} is not trusted: {mistrust.verify_message}",
                hint=doubt_clock(mistrust),
                field="url",
            ) from broken
        raise Unavailable(
            f"the download of {url} broke off: {broken}", hint="a repeat goes on from there"
        ) from broken
