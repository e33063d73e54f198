"""What the largest and the worst requests cost a real Kahuna, and whom they keep waiting."""

import asyncio
import json
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.support.faults import What, Where, breaks
from tests.support.simulation import Simulated, simulation

MIB: Final = 2**20
MOST: Final = 1024 * 1024  # limits.request_bytes
CROWD: Final = 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Simulated]:
    with simulation(tmp_path_factory.mktemp("kahuna"), nodes=1) as server:
        yield server


class Client:
    """One connection, with bytes as they are."""

    def __init__(self, server: Simulated) -> None:
        self._host, port = server.url.removeprefix("http://").split(":")
        self._port = int(port)
        self._key = server.key_file.read_text(encoding="ascii").strip()

    async def __aenter__(self) -> "Client":
        self.reader, self.writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    def begin(self, method: str, path: str, *headers: str, known: bool = True) -> None:
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}", *headers]
        if known:
            lines.append(f"x-api-key: {self._key}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def post(self, length: int) -> None:
        self.begin(
            "POST", "/api/v1/team", "content-type: application/json", f"content-length: {length}"
        )

    def finish(self, data: bytes) -> None:
        """Send the last there is to send, if the server still listens."""
        self.writer.write(data)
        with suppress(OSError):
            self.writer.write_eof()

    async def status(self) -> int:
        """Return the status of the answer; 0: the connection was cut."""
        async with asyncio.timeout(100):
            try:
                line = await self.reader.readline()
            except OSError:
                return 0
        return int(line.split()[1]) if line else 0


def resident_bytes(server: Simulated) -> int:
    """Return the most memory that the process ever had."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def computed_s(server: Simulated) -> float:
    """Return the processor's time that the process has taken."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def filled(begin: bytes, unit: bytes, end: bytes) -> bytes:
    return begin + unit * ((MOST - len(begin) - len(end)) // len(unit)) + end


@breaks(
    What.INPUT,
    "200 requests with the largest body at once, each of them but for its last byte",
    expected="those that are small are served; memory grows by 100 MiB, not by all of them",
    where=Where.HOST,
)
async def test_large_bodies_take_turns(server: Simulated) -> None:
    body = filled(b'{"name":"', b"x", b'"}')
    before = resident_bytes(server)
    async with asyncio.TaskGroup() as group:
        sent, finish = asyncio.Semaphore(0), asyncio.Event()

        async def crawl() -> int:
            async with Client(server) as client:
                client.post(len(body))
                client.writer.write(body[:-1])
                sent.release()
                await finish.wait()
                client.writer.write(body[-1:])
                return await client.status()

        tasks = [group.create_task(crawl()) for _ in range(CROWD)]
        for _ in tasks:
            await sent.acquire()
        for _ in range(20):
            async with Client(server) as other:
                other.begin("GET", "/api/v1/team")
                assert await other.status() == 200
        finish.set()
    assert Counter(task.result() for task in tasks) == {422: CROWD}
    assert resident_bytes(server) - before < 130 * MIB


@breaks(
    What.INPUT,
    "a body of the largest size that is all brackets, objects, keys or texts",
    expected="refused before it costs a tenth of a second",
    where=Where.HOST,
)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(filled(b"[", b"[],", b"0]"), id="lists"),
        pytest.param(filled(b"[", b"[[[[[]]]]],", b"0]"), id="lists in lists"),
        pytest.param(filled(b"[", b'{"a":0},', b"0]"), id="objects"),
        pytest.param(b"[" * MOST, id="deep"),
        pytest.param(b'{"a":' * (MOST // 5), id="deep objects"),
        pytest.param(filled(b'{"name":"a","users":[', b'"",', b'""]}'), id="texts"),
        pytest.param(filled(b'{"name":"a","users":[', b"0,", b"0]}"), id="numbers"),
        pytest.param(filled(b"", b"9", b""), id="a number"),
        pytest.param(filled(b'{"name":"', b"\\u0001", b'"}'), id="escapes"),
        pytest.param(filled(b"{", b'"a":0,', b'"a":0}'), id="one key again and again"),
        pytest.param(filled(b'{"', b"x", b'":0}'), id="a key"),
        pytest.param(filled(b'{"name":"', b"\xff", b'"}'), id="not UTF-8"),
    ],
)
async def test_the_worst_bodies_are_refused_at_once(server: Simulated, body: bytes) -> None:
    before = computed_s(server)
    for _ in range(5):
        async with Client(server) as client:
            client.post(len(body))
            client.writer.write(body)
            assert await client.status() in (400, 422)
    # 0.05 s each; it were seconds each.
    assert computed_s(server) - before < 3


@breaks(
    What.INPUT,
    "a body without an end, in chunks; larger than it says; of a negative or a huge size",
    expected="413 or 400 at the limit, whatever was announced",
    where=Where.HOST,
)
async def test_a_body_ends_at_the_limit(server: Simulated) -> None:
    async with Client(server) as client:
        client.begin(
            "POST", "/api/v1/team", "transfer-encoding: chunked", "content-type: application/json"
        )
        answer = asyncio.ensure_future(client.status())
        with suppress(OSError):
            while not answer.done():
                client.writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                await client.writer.drain()
                await asyncio.sleep(0)
        assert await answer in (413, 0)  # 0: it was cut off while it still sent
    for length in ("1048577", str(2**63), "9" * 4000):
        async with Client(server) as client:
            client.begin("POST", "/api/v1/team", f"content-length: {length}")
            assert await client.status() in (413, 400)
    for length in ("-1", "+5", "0x10", "1e3", "5, 5", ""):
        async with Client(server) as client:
            client.begin("POST", "/api/v1/team", f"content-length: {length}")
            client.finish(b"{}")
            assert await client.status() in (400, 422, 0)


ODD_HEADS: Final = {
    "smuggled": b"POST /api/v1/team HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 4\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil\r\n\r\n",
    "foreign host": b"GET /healthz HTTP/1.1\r\nhost: evil.example\r\n\r\n",
    "odd version": b"GET /healthz HTTP/9.9\r\nhost: 127.0.0.1\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "blank in a name": b"GET /healthz HTTP/1.1\r\nhost : 127.0.0.1\r\n\r\n",
    "folded": b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx: a\r\n b\r\n\r\n",
    "nul": b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx: a\0b\r\n\r\n",
    "escape": b"GET /\x1b[2J HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "raw UTF-8": "GET /né HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode(),
    "raw bytes": b"GET /\xff\xfe HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "absolute": b"GET http://evil/healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "authority": b"CONNECT evil:80 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "bytes": bytes(range(256)) * 4,
    "path": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
    "query": b"GET /?" + b"a=b&" * 50_000 + b" HTTP/1.1\r\n\r\n",
    "header": b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 200_000,
    "headers": b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 50_000,
    "method": b"A" * 200_000,
}


@breaks(
    What.INPUT,
    "heads of requests that are no HTTP, too long, ambiguous, or full of control characters",
    expected="refused or cut off, never a 500; one line of JSON in the log for each at the most",
    where=Where.HOST,
)
async def test_odd_heads_are_refused_or_cut_off(server: Simulated) -> None:
    for name, head in ODD_HEADS.items():
        async with Client(server) as client:
            client.finish(head)
            status = await client.status()
            assert status < 500, name
            assert status != 200 or name in ("absolute", "folded", "odd version"), name
    async with Client(server) as client:
        client.begin("GET", "/healthz", known=False)
        assert await client.status() == 200
    told = server.log.read_bytes().decode("ascii").splitlines()
    events = [json.loads(line) for line in told if not line.startswith(("serving ", "simulating "))]
    assert {"request_failed"}.isdisjoint(event["event"] for event in events)
