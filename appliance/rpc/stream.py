"""Byte streams (consoles, log tails) on sockets of their own, never on the RPC socket.

Kahuna asks the agent by `stream.open` with a one-time token; the agent dials again with the
subprotocol `kowabunga.stream.1` and sends the token as its first frame; then both sides send tagged
binary frames. Back-pressure is TCP's: nobody reads ahead of the consumer. A stream ends at the
latest with the session that asked for it.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import Unavailable
from appliance.rpc.transport import CloseCode, Transport, TransportClosed

PAIRING_S: Final = 10.0
_CLOSING_S: Final = 2.0
_CHUNK_BYTES: Final = 64 * 1024
_DATA: Final = b"\0"
_END: Final = b"\1"


class StreamHello(msgspec.Struct, frozen=True):
    """The first frame of a stream socket."""

    agent_id: str
    token: str


class ByteStream:
    """Both directions of one stream; each side may end its own direction first."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._ended = asyncio.Event()
        self._code: int = CloseCode.NORMAL
        self._reason = ""
        self._at_end = False

    async def read(self) -> bytes:
        """Return the next bytes, or b"" once the other side has ended its direction.

        Raises:
            Unavailable: the stream broke off.
        """
        if self._at_end:
            return b""
        try:
            frame = await self._transport.receive()
        except TransportClosed as closed:
            raise _broken(closed) from closed
        if frame[:1] == _DATA and len(frame) > 1:
            return frame[1:]
        self._at_end = True
        if frame != _END:
            self.close(CloseCode.UNSUPPORTED_DATA, "not a stream frame")
            raise Unavailable("the other side sent something that is not a stream frame")
        return b""

    async def write(self, data: bytes) -> None:
        """Send the bytes; waits while the other side does not read.

        Raises:
            Unavailable: the stream broke off.
        """
        for start in range(0, len(data), _CHUNK_BYTES):
            await self._send(_DATA + data[start : start + _CHUNK_BYTES])

    async def write_eof(self) -> None:
        """End our direction; the other one goes on."""
        await self._send(_END)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """End both directions; whoever reads or writes sees the stream break off."""
        if not self._ended.is_set():
            self._code, self._reason = code, reason
            self._ended.set()

    async def run(self, clock: Clock) -> None:
        """Keep the socket until `close`, then close it."""
        try:
            await self._ended.wait()
        finally:
            self.close(CloseCode.GOING_AWAY, "this process ends")
            try:
                async with clock.timeout(_CLOSING_S):
                    await self._transport.close(self._code, self._reason)
            except TimeoutError:
                pass  # it does not read: the server cuts the connection

    async def _send(self, frame: bytes) -> None:
        try:
            await self._transport.send(frame)
        except TransportClosed as closed:
            raise _broken(closed) from closed


def _broken(closed: TransportClosed) -> Unavailable:
    return Unavailable(f"the stream broke off: {closed.reason or closed.code}")


class Expected:
    """A stream that an agent was asked to dial."""

    def __init__(self, agent_id: str) -> None:
        self.agent_id: Final = agent_id
        self.token: Final = secrets.token_urlsafe(32)
        self.arrival: Final[asyncio.Future[ByteStream]] = asyncio.get_running_loop().create_future()


class StreamDesk:
    """Pairs stream sockets with those who wait for them; each token is good once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expected: dict[bytes, Expected] = {}

    @contextmanager
    def expect(self, agent_id: str) -> Generator[Expected]:
        """Make a token that is good for the life of the block.

        What arrived for a block that failed is closed: nobody else would ever do it.
        """
        expected = Expected(agent_id)
        digest = _digest(expected.token)
        self._expected[digest] = expected
        try:
            yield expected
        except BaseException:
            if not expected.arrival.cancel() and not expected.arrival.cancelled():
                expected.arrival.result().close(CloseCode.GOING_AWAY, "nobody waits any more")
            raise
        finally:
            self._expected.pop(digest, None)

    def take(self, hello: StreamHello) -> Expected | None:
        """Return who still waits for this token, only for the agent that it was given to."""
        # Looked up by hash: the time of the search tells nothing about tokens.
        expected = self._expected.get(_digest(hello.token))
        if expected is None or expected.agent_id != hello.agent_id or expected.arrival.done():
            return None
        return expected

    async def identify(self, transport: Transport) -> Expected | None:
        """Read the first frame of a stream socket; None: nobody waits for it.

        Raises:
            TransportClosed: it left before saying anything.
        """
        frame = await transport.receive()
        try:
            hello = msgspec.json.decode(frame, type=StreamHello)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return self.take(hello)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
