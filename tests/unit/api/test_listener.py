"""Real sockets: what a listener grants to strangers, and how it stops."""

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from appliance.api.asgi import Receive, Scope, Send
from appliance.api.listener import (
    PEER_UID,
    Limits,
    Listener,
    bind_local,
    bind_tcp,
    load_certificate,
    server_tls,
)
from appliance.core import x509
from appliance.core.errors import Conflict, Invalid
from tests.support.faults import What, Where, breaks
from tests.support.wait import until

_GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
_UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def show_peer(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the peer's uid, once the body has come."""
    while (await receive()).get("more_body"):
        pass
    body = str(scope["state"].get(PEER_UID)).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def say(send: Send, words: bytes) -> None:
    await send({"type": "websocket.send", "bytes": words})


@asynccontextmanager
async def serving(listener: Listener) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(listener.serve())
        await listener.listening.wait()
        try:
            yield
        finally:
            task.cancel()


@asynccontextmanager
async def connected(
    port: int, tls: ssl.SSLContext | None = None, *, source: str = "127.0.0.1"
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        port,
        ssl=tls,
        server_hostname="localhost" if tls else None,
        local_addr=(source, 0),
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def status_of(reader: asyncio.StreamReader) -> bytes:
    return (await asyncio.wait_for(reader.readline(), 60)).split(b" ")[1]


def authority_and_pair(directory: Path, name: str) -> tuple[Path, Path]:
    """Write a certificate with its key, and the authority to trust; return both paths."""
    authority = x509.make_authority(name)
    made = x509.issue_server_certificate(authority, ["localhost"], 1_800_000_000_000)
    pair = directory / f"{name}.pem"
    pair.write_bytes(made.key_pem.reveal() + made.certificate_pem.encode())
    ca = directory / f"{name}-ca.pem"
    ca.write_text(authority.certificate_pem)
    return ca, pair


async def test_a_request_is_answered_and_the_connection_kept() -> None:
    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with (
        serving(Listener(show_peer, sock, limits=Limits())),
        connected(port) as (
            reader,
            writer,
        ),
    ):
        for _ in range(2):
            writer.write(_GET)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            assert head.startswith(b"HTTP/1.1 200")
            assert b"server:" not in head.lower()
            assert await reader.readexactly(4) == b"None"


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nx: y\r\n", b"\r\n"])
async def test_whoever_dawdles_over_the_head_is_cut_off(sent: bytes) -> None:
    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with (
        serving(Listener(show_peer, sock, limits=Limits(head_s=0.2))),
        connected(port) as (
            reader,
            writer,
        ),
    ):
        writer.write(sent)
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 60) == b""


@breaks(
    What.INPUT,
    "a head that comes a byte at a time, or has no end",
    expected="the connection is cut",
    where=Where.HOST,
)
async def test_a_drop_at_a_time_does_not_keep_a_connection_open() -> None:
    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with (
        serving(Listener(show_peer, sock, limits=Limits(head_s=0.3))),
        connected(port) as (
            reader,
            writer,
        ),
    ):
        writer.write(b"GET / HTTP/1.1\r\n")
        ended = asyncio.ensure_future(reader.read())
        while not ended.done():
            with suppress(ConnectionError):
                writer.write(b"x: y\r\n")
                await writer.drain()
            await asyncio.wait({ended}, timeout=0.05)
        with suppress(ConnectionResetError):
            assert ended.result() == b""


@breaks(
    What.INPUT,
    "a head that comes a byte at a time, or has no end",
    expected="the connection is cut",
    where=Where.HOST,
)
async def test_a_head_without_end_is_cut_off_by_size() -> None:
    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with (
        serving(Listener(show_peer, sock, limits=Limits(head_bytes=4096))),
        connected(port) as (reader, writer),
    ):
        writer.write(b"GET / HTTP/1.1\r\n")
        with suppress(ConnectionError):
            for _ in range(1000):
                writer.write(b"x: " + b"y" * 1000 + b"\r\n")
                await writer.drain()
            assert await asyncio.wait_for(reader.read(), 60) == b""


async def test_a_large_body_is_not_taken_for_a_head() -> None:
    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with (
        serving(Listener(show_peer, sock, limits=Limits(head_bytes=4096))),
        connected(port) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n")
        writer.write(b"b" * 200_000)
        assert await status_of(reader) == b"200"


async def test_one_connection_too_many_is_told_to_come_back_while_all_are_at_work() -> None:
    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with (
        serving(Listener(show_peer, sock, limits=Limits(connections=1))),
        connected(port) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n")
        writer.write(b"content-length: 1\r\n\r\n")
        assert await status_of(reader) == b"100"
        async with connected(port) as (second, _):
            assert await status_of(second) == b"503"
        writer.write(b"x")
        await asyncio.wait_for(reader.readline(), 60)
        assert await status_of(reader) == b"200"


async def test_one_connection_too_many_ends_an_idle_one_of_the_address_with_most() -> None:
    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            serving(Listener(show_peer, sock, limits=Limits(connections=3)))
        )
        pairs = [
            await stack.enter_async_context(connected(port, source=source))
            for source in ("127.0.0.2", "127.0.0.3", "127.0.0.3")
        ]
        for reader, writer in pairs:
            writer.write(_GET)
            assert await status_of(reader) == b"200"
            await asyncio.wait_for(reader.readuntil(b"None"), 60)
        reader, writer = await stack.enter_async_context(connected(port, source="127.0.0.4"))
        writer.write(_GET)
        assert await status_of(reader) == b"200"
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(pairs[1][0].read(), 60) == b""
        for reader, writer in (pairs[0], pairs[2]):
            writer.write(_GET)
            assert await status_of(reader) == b"200"


async def test_websockets_that_never_say_goodbye_make_room() -> None:
    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await show_peer(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        await send({"type": "websocket.close", "code": 1000, "reason": ""})

    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            serving(Listener(leave, sock, limits=Limits(connections=2)))
        )
        for _ in range(10):
            reader, writer = await stack.enter_async_context(connected(port))
            writer.write(_UPGRADE)
            assert await status_of(reader) == b"101"
            await asyncio.wait_for(reader.readuntil(b"\x88\x02\x03\xe8"), 60)
        reader, writer = await stack.enter_async_context(connected(port))
        writer.write(_GET)
        assert await status_of(reader) == b"200"


async def test_the_local_socket_is_for_its_owner_and_tells_who_asks(tmp_path: Path) -> None:
    path = tmp_path / "run/api.sock"
    path.parent.mkdir()
    path.touch(0o600)  # of a process that died
    sock = bind_local(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    async with serving(Listener(show_peer, sock, limits=Limits())):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(_GET)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(str(os.geteuid()))) == str(os.geteuid()).encode()
        writer.close()


async def test_a_taken_address_is_a_conflict_and_a_foreign_one_invalid() -> None:
    with bind_tcp("127.0.0.1", 0) as sock:
        sock.listen()
        with pytest.raises(Conflict, match="cannot listen on 127"):
            bind_tcp("127.0.0.1", sock.getsockname()[1])
    with pytest.raises(Invalid):
        bind_tcp("192.0.2.1", 0)


async def test_tls_is_served_from_version_1_2_on(tmp_path: Path) -> None:
    ca, pair = authority_and_pair(tmp_path, "one")
    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with serving(Listener(show_peer, sock, limits=Limits(), tls=server_tls(pair, pair))):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=str(ca))
            context.minimum_version = context.maximum_version = version
            async with connected(port, context) as (reader, writer):
                writer.write(_GET)
                assert await status_of(reader) == b"200"
        assert server_tls(pair, pair).minimum_version is ssl.TLSVersion.TLSv1_2


async def test_a_silent_tls_handshake_is_cut_off(tmp_path: Path) -> None:
    _, pair = authority_and_pair(tmp_path, "one")
    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    listener = Listener(show_peer, sock, limits=Limits(head_s=0.2), tls=server_tls(pair, pair))
    async with serving(listener), connected(port) as (reader, _):
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 60) == b""


async def test_silent_tls_handshakes_are_bounded_and_the_oldest_makes_room(tmp_path: Path) -> None:
    ca, pair = authority_and_pair(tmp_path, "one")
    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    limits = Limits(handshakes=2, connections=1, head_s=600)
    async with (
        serving(Listener(show_peer, sock, limits=limits, tls=server_tls(pair, pair))),
        connected(port) as (oldest, _),
        connected(port) as (silent, _),
        connected(port, ssl.create_default_context(cafile=str(ca))) as (reader, writer),
    ):
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(oldest.read(), 60) == b""
        writer.write(_GET)
        assert await status_of(reader) == b"200"
        assert not silent.at_eof()


async def test_a_new_certificate_serves_new_connections_and_a_bad_one_is_refused(
    tmp_path: Path,
) -> None:
    ca, pair = authority_and_pair(tmp_path, "one")
    new_ca, new_pair = authority_and_pair(tmp_path, "two")
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    tls = server_tls(pair, pair)
    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    old_trust = ssl.create_default_context(cafile=str(ca))
    async with (
        serving(Listener(show_peer, sock, limits=Limits(), tls=tls)),
        connected(port, old_trust) as (reader, writer),
    ):
        with pytest.raises(Invalid):
            load_certificate(tls, bad, bad)
        with pytest.raises(Invalid):
            load_certificate(tls, new_pair, pair)
        async with connected(port, old_trust):
            pass
        load_certificate(tls, new_pair, new_pair)
        async with connected(port, ssl.create_default_context(cafile=str(new_ca))):
            pass
        writer.write(_GET)
        assert await status_of(reader) == b"200"


async def test_stopping_lets_a_request_end_and_frees_the_port() -> None:
    started, finish = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        await finish.wait()
        await show_peer(scope, receive, send)

    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Listener(slow, sock, limits=Limits()).serve())
        while not started.is_set():
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(_GET)
                await started.wait()
        task.cancel()
        await asyncio.sleep(0)
        finish.set()
        assert await status_of(reader) == b"200"
        writer.close()
    bind_tcp("127.0.0.1", port).close()


async def test_stopping_does_not_wait_for_ever() -> None:
    started = asyncio.Event()

    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send
        started.set()
        await asyncio.Event().wait()

    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    listener = Listener(stuck, sock, limits=Limits(graceful_stop_s=1))
    async with asyncio.timeout(60):
        async with serving(listener):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_GET)
            await started.wait()
    await reader.read()
    writer.close()


async def test_stopping_while_a_websocket_says_goodbye_is_no_failure() -> None:
    sock = bind_tcp("127.0.0.1", 0)
    port: int = sock.getsockname()[1]
    heard = asyncio.Event()

    async def talk(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        # More than the kernel takes: the connection lingers although both said goodbye.
        async with asyncio.TaskGroup() as group:
            speech = group.create_task(say(send, b"x" * 2**25))
            while (await receive())["type"] != "websocket.disconnect":
                pass
            heard.set()
            speech.cancel()

    with socket.socket() as peer:
        async with serving(Listener(talk, sock, limits=Limits(graceful_stop_s=1))):
            peer.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(peer, ("127.0.0.1", port))
            await loop.sock_sendall(
                peer,
                b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n",
            )
            assert b"101" in await loop.sock_recv(peer, 32)
            # A masked close frame with code 1000 (RFC 6455, 5.5.1); it is not read any further.
            await loop.sock_sendall(peer, b"\x88\x82\0\0\0\0" + (1000).to_bytes(2))
            await asyncio.wait_for(heard.wait(), 60)


@breaks(
    What.INPUT,
    "trailers without an end",
    expected="bounded like a head, and no headers",
    where=Where.HOST,
)
async def test_trailers_are_bounded_like_a_head_and_are_no_headers() -> None:
    scopes: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await show_peer(scope, receive, send)

    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    async with serving(Listener(note, sock, limits=Limits(head_bytes=4096))):
        async with connected(port) as (reader, writer):
            writer.write(head + b"1\r\na\r\n" * 2000 + b"0\r\nx-api-key: k\r\n\r\n")
            assert await status_of(reader) == b"200"
            assert [name for name, _ in scopes[0]["headers"]] == [b"host", b"transfer-encoding"]
        async with connected(port) as (reader, writer):
            writer.write(head + b"0\r\n")
            with suppress(ConnectionError):
                for _ in range(1000):
                    writer.write(b"x: " + b"y" * 1000 + b"\r\n")
                    await writer.drain()
                assert await asyncio.wait_for(reader.read(), 60) == b""


async def test_a_second_head_is_bounded_while_the_first_request_is_under_way() -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, send
        while (await receive())["type"] != "http.disconnect":
            pass

    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with (
        serving(Listener(never, sock, limits=Limits(head_bytes=4096))),
        connected(port) as (reader, writer),
    ):
        writer.write(_GET + b"GET / HTTP/1.1\r\n")
        with suppress(ConnectionError):
            for _ in range(1000):
                writer.write(b"x: " + b"y" * 1000 + b"\r\n")
                await writer.drain()
            assert await asyncio.wait_for(reader.read(), 60) == b""


async def test_whoever_does_not_read_an_answer_is_cut_off() -> None:
    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": True})
            if not listener.server_state.connections:
                return

    sock = bind_tcp("127.0.0.1", 0)
    listener = Listener(talk, sock, limits=Limits(unread_s=1))
    async with serving(listener), not_reading(sock.getsockname()[1], _GET):
        connections = listener.server_state.connections
        await until(lambda: bool(connections), "it is served")
        await until(lambda: not connections, "it is cut off")


async def test_whoever_reads_slowly_is_not_cut_off() -> None:
    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 2**22})

    sock = bind_tcp("127.0.0.1", 0)
    listener = Listener(talk, sock, limits=Limits(unread_s=1))
    async with serving(listener), not_reading(sock.getsockname()[1], _GET) as peer:
        received = 0
        async with asyncio.timeout(20):
            while received < 2**22:
                received += len(await asyncio.get_running_loop().sock_recv(peer, 2**16))
                await asyncio.sleep(0.002)


@breaks(
    What.INPUT,
    "pings of one who reads no pongs",
    expected="none pile up",
    where=Where.HOST,
)
async def test_pings_without_reading_pile_up_no_pongs_and_do_not_outlive_the_close() -> None:
    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await receive()
        await send({"type": "websocket.accept"})
        await finish.wait()
        await send({"type": "websocket.close", "code": 4408, "reason": ""})

    finish = asyncio.Event()
    sock = bind_tcp("127.0.0.1", 0)
    listener = Listener(leave, sock, limits=Limits(unread_s=1))
    upgrade = (
        b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    async with serving(listener), not_reading(sock.getsockname()[1], upgrade) as peer:
        loop = asyncio.get_running_loop()
        connections = listener.server_state.connections
        await until(lambda: bool(connections), "it is served")
        waiting = 0
        with suppress(ConnectionError):
            for _ in range(200):  # 125 bytes each, masked with zeros (RFC 6455, 5.5.2)
                await loop.sock_sendall(peer, (b"\x89\xfd\0\0\0\0" + b"p" * 125) * 1000)
                waiting = max(
                    [waiting, *(one.transport.get_write_buffer_size() for one in connections)]
                )
        assert 0 < waiting < 2**20
        finish.set()
        await until(lambda: not connections, "it is cut off")


@asynccontextmanager
async def not_reading(port: int, sent: bytes) -> AsyncGenerator[socket.socket]:
    """Connect with as little room for answers as the kernel allows."""
    loop = asyncio.get_running_loop()
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.setblocking(False)
        await loop.sock_connect(peer, ("127.0.0.1", port))
        await loop.sock_sendall(peer, sent)
        yield peer
