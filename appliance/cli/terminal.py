"""Standard input and output at the console of a machine; a terminal in raw mode.

What a guest sends reaches the terminal as it is, control sequences included: that is what a console
is. So a guest can do to a terminal whatever a host can that one logs in to.
"""

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import click
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from appliance.cli.client import Connection, tls_of
from appliance.cli.exit_code import ExitCode
from appliance.cli.failure import Failed, Refused
from appliance.core.errors import Unavailable
from appliance.core.text import escape_controls
from appliance.rpc.transport import CloseCode

_ESCAPE: Final = b"\x1d"  # Ctrl-], as telnet and virsh have it
_CHUNK_BYTES: Final = 64 * 1024
_CLOSING_S: Final = 2.0
_PING_S: Final = 20.0
_PONG_S: Final = 60.0


async def sit(connection: Connection, url: str, what: str, linger_s: float) -> None:
    """Join standard input and output to the console until either ends.

    Raises:
        Failed: the console broke off.
        Unavailable: it could not be opened.
    """
    _end_in_order()
    source, sink = sys.stdin.fileno(), sys.stdout.fileno()
    async with await _dial(connection, url) as socket:
        with _raw(source) as is_terminal:
            leave = "; leave with Ctrl-]" if is_terminal else ""
            click.echo(f"The serial line of {escape_controls(what)}{leave}.\r", err=True)
            terminal = _Terminal(socket, source, sink)
            why = await terminal.run(is_terminal=is_terminal, linger_s=linger_s)
        click.echo(err=True)
        if why is not None and socket.close_code != CloseCode.NORMAL:
            raise Failed(f"the console broke off: {escape_controls(why)}", ExitCode.UNREACHABLE)
        if why is not None:
            click.echo(escape_controls(why), err=True)


def _end_in_order() -> None:
    """Let the signals that would end the process here and now leave the terminal as it was."""
    task = asyncio.current_task()
    assert task is not None
    for signal_number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signal_number, task.cancel)


async def _dial(connection: Connection, url: str) -> ClientConnection:
    """Open the socket by the way that the command has to its Kahuna, whatever host the URL names.

    Any Kahuna honours the token, and this way is known to work, also through a tunnel.
    """
    path = urlsplit(url).path
    own = urlsplit(connection.url or "http://localhost")
    tls = tls_of(connection) if own.scheme == "https" else None
    uri = f"{'ws' if tls is None else 'wss'}://{own.netloc}{path}"
    dial = connect if connection.url else partial(unix_connect, str(connection.socket))
    try:
        return await dial(
            uri,
            ssl=tls,
            proxy=None,
            compression=None,
            close_timeout=_CLOSING_S,
            ping_interval=_PING_S,
            ping_timeout=_PONG_S,
        )
    except InvalidStatus as refused:
        raise Refused(refused.response.status_code, "the console was not opened") from refused
    except (OSError, WebSocketException) as lost:
        raise Unavailable(f"the console cannot be reached: {lost}") from lost


@contextmanager
def _raw(fd: int) -> Generator[bool]:
    """Pass every key on, for the life of the block; yields whether this is a terminal at all."""
    if not os.isatty(fd):
        yield False
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield True
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class _Terminal:
    """Joins a source and a sink of bytes to a socket, until either side ends."""

    def __init__(self, socket: ClientConnection, source: int, sink: int) -> None:
        self._socket = socket
        self._source = source
        self._sink = sink
        self._last_s = 0.0  # when something came from the other side

    async def run(self, *, is_terminal: bool, linger_s: float) -> str | None:
        """Carry bytes, and return why the other side has ended, if it was that.

        Who sits at a terminal leaves by the escape. Any other source ends; then what still comes
        is taken until nothing came for `linger_s`.
        """
        async with asyncio.TaskGroup() as group:
            printing = group.create_task(self._print())
            typing = group.create_task(self._type(is_terminal=is_terminal))
            await asyncio.wait({printing, typing}, return_when=asyncio.FIRST_COMPLETED)
            if not is_terminal:
                await self._linger(printing, linger_s)
            typing.cancel()
            has_ended = not printing.cancel()
        return printing.result() if has_ended else None

    async def _type(self, *, is_terminal: bool) -> None:
        try:
            while data := await _read(self._source):
                before, escape, _ = data.partition(_ESCAPE) if is_terminal else (data, b"", b"")
                if before:
                    await self._socket.send(before)
                if escape:
                    return
        except (ConnectionClosed, OSError):
            return  # why is for `_print` to tell; a terminal that hangs up is an end like others

    async def _print(self) -> str | None:
        try:
            while True:
                data = await self._socket.recv(decode=False)
                self._last_s = asyncio.get_running_loop().time()
                while data:
                    data = data[os.write(self._sink, data) :]
        except ConnectionClosed:
            return self._socket.close_reason or f"code {self._socket.close_code}"
        except OSError:
            return None  # nobody reads our output any more

    async def _linger(self, printing: "asyncio.Task[str | None]", linger_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._last_s = loop.time()
        while not printing.done() and (left_s := self._last_s + linger_s - loop.time()) > 0:
            await asyncio.wait({printing}, timeout=left_s)


async def _read(fd: int) -> bytes:
    """Return the next bytes of a file, a pipe or a terminal; b"" at its end."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:
        pass  # a file on disk, or /dev/null: always ready, and epoll does not take it
    else:
        try:
            await ready.wait()
        finally:
            loop.remove_reader(fd)
    return os.read(fd, _CHUNK_BYTES)
