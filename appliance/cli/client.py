"""The CLI's way to a Kahuna: the local socket of this node, or HTTPS with a key.

A thin HTTP client. It never sends a key where somebody could read it, follows no redirect and
uses no proxy.
"""

import socket
import ssl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import click
import httpx
import msgspec

from appliance.cli.failure import NoAnswer, Refused
from appliance.core.errors import Invalid, NotFound, Unavailable
from appliance.core.files import read_private
from appliance.core.text import escape_controls
from appliance.core.tls import doubt_clock, find_mistrust
from appliance.model.node import is_loopback

EXT: Final = "/api/ext/v1"
V1: Final = "/api/v1"
DEFAULT_SOCKET: Final = Path("/var/lib/kowabunga/run/api.sock")

_NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Json = Any  # what a JSON text may hold: the API's objects are passed on unchanged


class _Body(msgspec.Struct):
    status: int
    error: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered to a request that it accepted; an empty body is None."""

    status: int
    body: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where to connect and as whom; without `url` it is the local socket, which needs no key."""

    url: str | None = None
    api_key_file: Path | None = None
    ca_file: Path | None = None
    socket: Path = DEFAULT_SOCKET
    timeout_s: float = 300.0
    debug: bool = False


class ApiClient:
    """One HTTP client for one command; the local socket is opened for the first request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._opened = None if connection.url is None else _remote(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            self._opened.close()

    @property
    def connection(self) -> Connection:
        """The way to the Kahuna, for what does not speak plain HTTP."""
        return self._connection

    @property
    def _http(self) -> httpx.Client:
        if self._opened is None:
            self._opened = _local(self._connection)
        return self._opened

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        """Send one request below `EXT` and return the decoded answer; None if it has no body.

        Raises:
            Refused: the server said no.
            NoAnswer: it did not answer in time.
            Unavailable: it was not reached.
        """
        return self.send(method, EXT + path, body=body, query=query, headers=headers).body

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request to a whole path, and return how it was answered.

        Raises as `call` does.
        """
        status, content = self._fetch(method, path, body, query, headers)
        try:
            return Answer(status, msgspec.json.decode(content) if content else None)
        except _NOT_JSON as odd:
            raise Unavailable(
                f"{self._where()} answers what no Kahuna would", hint="check the URL"
            ) from odd

    def call_raw(self, method: str, path: str, *, body: Json = None) -> bytes:
        """Do as `call` does, and return the answer as it came."""
        _, content = self._fetch(method, EXT + path, body, None, None)
        return content

    def _fetch(
        self,
        method: str,
        path: str,
        body: Json,
        query: Mapping[str, str | int] | None,
        headers: Mapping[str, str] | None,
    ) -> tuple[int, bytes]:
        sent = {"content-type": "application/json"} if body is not None else {}
        with self._stream(
            method, path, content=body, query=query, headers={**sent, **(headers or {})}
        ) as response:
            return response.status_code, response.read()

    def lines(self, path: str, query: Mapping[str, str | int] | None = None) -> Generator[bytes]:
        """Yield the lines of a streamed answer as they come; raises as `call` does."""
        with self._stream("GET", EXT + path, query=query, endless=True) as response:
            rest = b""
            for chunk in response.iter_bytes():
                *whole, rest = (rest + chunk).split(b"\n")
                yield from whole
            if rest:
                yield rest

    @contextmanager
    def _stream(
        self,
        method: str,
        path: str,
        *,
        content: Json = None,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        endless: bool = False,
    ) -> Generator[httpx.Response]:
        limit = self._connection.timeout_s
        read = None if endless else limit
        timeout = httpx.Timeout(limit, connect=min(limit, 10.0), read=read)
        try:
            with self._http.stream(
                method,
                path,
                params=dict(query or {}),
                headers=dict(headers or {}),
                content=None if content is None else msgspec.json.encode(content),
                timeout=timeout,
            ) as response:
                if self._connection.debug:
                    request_id = response.headers.get("x-request-id", "unknown")
                    told = f"debug: {method} {path}: request {request_id}"
                    click.echo(escape_controls(told), err=True)
                if response.status_code >= httpx.codes.MULTIPLE_CHOICES:
                    raise _refusal(response)
                yield response
        except httpx.ReadTimeout as late:
            raise NoAnswer(
                f"no answer within {limit:g} s; what was asked for may still go on"
            ) from late
        except httpx.TransportError as lost:
            raise Unavailable(
                f"cannot reach {self._where()}: {lost}", hint=self._hint(lost)
            ) from lost

    def _where(self) -> str:
        return self._connection.url or str(self._connection.socket)

    def _hint(self, lost: httpx.TransportError) -> str:
        mistrust = find_mistrust(lost)
        if mistrust is not None:
            if doubt := doubt_clock(mistrust):
                return doubt
            return "pass the cluster's certificate with --ca-file, and check the name in --url"
        return "check the URL, and that the Kahuna is running"


def segment(text: str) -> str:
    """Return `text` as one segment of a path, whatever it holds.

    Raises:
        Invalid: it is empty, or would walk the path.
    """
    if text in ("", ".", ".."):
        raise Invalid(f"{text!r} is not an id or a name")
    return quote(text, safe="")


def tls_of(connection: Connection) -> ssl.SSLContext:
    """Return how the server is verified: by the given certificates, or by the system's."""
    if connection.ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    return ssl.create_default_context(cafile=connection.ca_file)


def _local(connection: Connection) -> httpx.Client:
    if connection.api_key_file is not None or connection.ca_file is not None:
        raise Invalid("--api-key-file and --ca-file go with --url", field="url")
    with socket.socket(socket.AF_UNIX) as probe:  # httpx leaks its own when nobody listens
        try:
            probe.connect(str(connection.socket))
        except OSError as nobody:
            raise Unavailable(
                f"cannot reach {connection.socket}: {nobody.strerror}",
                hint="is a Kahuna running on this node? Elsewhere use --url and --api-key-file",
            ) from nobody
    transport = httpx.HTTPTransport(uds=str(connection.socket))
    return httpx.Client(transport=transport, base_url="http://localhost", trust_env=False)


def _remote(connection: Connection) -> httpx.Client:
    url = httpx.URL(connection.url or "")
    if url.scheme not in ("http", "https") or not url.host or url.path not in ("", "/"):
        raise Invalid(
            f"{connection.url!r} is not the URL of a Kahuna",
            hint="write https://host[:port]",
            field="url",
        )
    if url.scheme == "http" and not is_loopback(url.host):
        raise Invalid(
            f"a key is never sent in clear text to {url.host}", hint="use https://", field="url"
        )
    if connection.api_key_file is None:
        raise Invalid("--url needs --api-key-file", field="api-key-file")
    try:
        key = read_private(connection.api_key_file).decode("ascii").strip()
    except FileNotFoundError as missing:
        raise NotFound(f"there is no key file {connection.api_key_file}") from missing
    except UnicodeDecodeError as odd:
        raise Invalid(f"{connection.api_key_file} does not hold a key") from odd
    return httpx.Client(
        base_url=url, headers={"x-api-key": key}, verify=tls_of(connection), trust_env=False
    )


def _refusal(response: httpx.Response) -> Refused:
    try:
        return Refused(
            response.status_code, msgspec.json.decode(response.read(), type=_Body).reason
        )
    except _NOT_JSON:
        return Refused(response.status_code, f"the server answered {response.status_code}")
