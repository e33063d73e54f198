"""What carries frames: a protocol and its closing codes.

Its implementations: `agent/dial.py` (websockets), `api/agents.py` (ASGI), `memory.py`. A
transport knows nothing about JSON; it bounds the size of a frame and says who closed and why.
"""

from contextlib import AbstractAsyncContextManager
from enum import IntEnum
from typing import Final, Protocol

PATH: Final = "/ws"
STREAM_SUBPROTOCOL: Final = "kowabunga.stream.1"


class CloseCode(IntEnum):
    """Why a socket was closed. 1xxx: RFC 6455, section 7.4.1. 4xxx: ours, stable."""

    NORMAL = 1000
    GOING_AWAY = 1001  # the process ends
    UNSUPPORTED_DATA = 1003  # a binary frame on an RPC socket, or text on a stream
    ABNORMAL = 1006  # never sent: the connection broke
    MESSAGE_TOO_BIG = 1009
    INTERNAL = 1011  # our fault or our store's: try again later
    BAD_HELLO = 4400  # the first frames are not a hello
    UNAUTHENTICATED = 4401  # unknown agent, no credential or bad proof: not told apart
    WRONG_TYPE = 4403  # proven, but not the type it is registered as
    HELLO_TIMEOUT = 4408  # 30 s without a proven hello
    CLONED_IDENTITY = 4409  # proven, but another machine lives under this identity
    REPLACED = 4410  # a newer session of this agent took over
    REVOKED = 4411  # the credential was changed or withdrawn
    EXPIRED = 4412  # the credential's date has passed
    REPLAYED = 4413  # the nonce of this hello was seen before
    PROTOCOL_RANGE = 4426  # no common version
    OVERLOADED = 4429  # it sends, but does not read what is sent to it
    TOO_MANY = 4430  # too many sockets without a proven hello; before the upgrade it is HTTP 403
    LOST = 4504  # nothing received for 15 s


_NEVER_SENT: Final = frozenset({1005, CloseCode.ABNORMAL, 1015})


def closing_frame(code: int, reason: str) -> tuple[int, str]:
    """Return what may be put on the wire (RFC 6455, sections 5.5 and 7.4.1)."""
    clipped = reason.encode()[:123].decode(errors="ignore")
    return (CloseCode.GOING_AWAY if code in _NEVER_SENT else code), clipped


class TransportClosed(Exception):
    """The transport carries nothing any more."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed: {code} {reason}")
        self.code = code
        self.reason = reason


class Transport(Protocol):
    """One socket. `send` and `receive` are each used by one task at a time."""

    @property
    def address(self) -> str:
        """Return who is at the other end, for logs."""
        ...

    @property
    def certificate_sha256(self) -> bytes:
        """Return the hash of the server's certificate (DER); empty without TLS."""
        ...

    async def send(self, frame: bytes) -> None:
        """Return once the frame has left our memory limits; waits for a slow reader.

        Raises:
            TransportClosed
        """
        ...

    async def receive(self) -> bytes:
        """Wait for a frame. A larger one than MAX_MESSAGE_BYTES closes the socket with 1009.

        Raises:
            TransportClosed
        """
        ...

    async def close(self, code: int, reason: str) -> None:
        """Close for good; may be repeated. May wait for the other side: bound it."""
        ...


class Dialer(Protocol):
    """How an agent opens sockets to Kahunas."""

    def check(self, url: str) -> str:
        """Return the URL to dial.

        Raises:
            Invalid: it cannot be dialled securely.
        """
        ...

    def dial(self, url: str, *, stream: bool = False) -> AbstractAsyncContextManager[Transport]:
        """Hold an open socket for the life of the block; it is closed at its end.

        Raises:
            Unavailable: nobody there, or not to be trusted.
        """
        ...
