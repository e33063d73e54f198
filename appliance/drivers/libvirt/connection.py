"""The connections to libvirtd, which come back by themselves; the only way to call libvirt.

Every call runs in a small pool of threads with a deadline, and keepalive messages end the calls
of a connection whose libvirtd is gone or frozen. Calls that wait for a QEMU have connections of
their own: one that hangs must hold up nobody who asks libvirtd alone.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Concatenate, Final, NoReturn, ParamSpec, TypeVar

import libvirt
import structlog

from appliance.core.aio import Backoff, BlockingPool
from appliance.core.clock import Clock
from appliance.core.errors import KowabungaError, Unavailable
from appliance.drivers.libvirt.events import EventThread
from appliance.drivers.libvirt.faults import is_away, translate

P = ParamSpec("P")
R = TypeVar("R")
CloseCallback = Callable[[libvirt.virConnect, int, object], None]
LifecycleCallback = Callable[[libvirt.virConnect, libvirt.virDomain, int, int, object], None]
LifecycleListener = Callable[[str, int, int], None]
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)

_OPEN_LIMIT_S: Final = 20.0
# Longer than libvirt waits by itself: 30 s for another job on the domain, 15 s for QEMU to die.
_CALL_LIMIT_S: Final = 60.0
_SWEEP_LIMIT_S: Final = 10.0
# Short: seen with libvirt 9.0, an answer may lie unread until the next keepalive message while
# another thread waits for an answer over the same connection.
_KEEPALIVE_INTERVAL_S: Final = 1
_KEEPALIVE_COUNT: Final = 20
# Threads to a connection, at most. At five calls in work (max_client_requests in libvirtd.conf)
# libvirtd reads nothing more of a connection, keepalive messages neither: it would break.
_WORKERS: Final = 4


@dataclass(frozen=True, slots=True)
class _Pools:
    """Threads by what their calls wait for; the last two kinds share a connection."""

    quick: BlockingPool
    long: BlockingPool
    sweep: BlockingPool
    end: BlockingPool

    def close(self) -> None:
        for pool in (self.quick, self.long, self.sweep, self.end):
            pool.close()


class _Link:
    """A connection that is closed once nobody is in a call: libvirt would crash."""

    def __init__(self, connection: libvirt.virConnect) -> None:
        self.connection: Final = connection
        self._lock = threading.Lock()
        self._calls = 0
        self._is_closing = False

    def call(self, function: Callable[[libvirt.virConnect], R]) -> R:
        with self._lock:
            if self._is_closing:
                raise Unavailable("the connection to libvirt was lost")
            self._calls += 1
        try:
            return function(self.connection)
        finally:
            with self._lock:
                self._calls -= 1
                is_over = self._is_over()
            if is_over:
                _release(self.connection)

    def close(self) -> None:
        with self._lock:
            self._is_closing = True
            is_over = self._is_over()
        if is_over:
            _release(self.connection)

    def _is_over(self) -> bool:
        return self._is_closing and self._calls == 0


@dataclass(frozen=True, slots=True)
class _Links:
    """The connections; all are lost when one is."""

    quick: _Link
    long: _Link
    rest: _Link


class Connection:
    """Holds the connections, and opens them again whenever one is lost.

    Args:
        uri: of the hypervisor, such as `qemu:///system`.
        on_connected: called with new connections, before anybody else may use them.
        on_lifecycle: called in the event loop with (name, event, detail) of each domain's change.
    """

    def __init__(
        self,
        uri: str,
        *,
        clock: Clock,
        on_connected: Callable[["Calls"], Awaitable[None]],
        on_lifecycle: LifecycleListener,
    ) -> None:
        self._uri = uri
        # libvirt's test driver is inside this process, and has a world for each connection.
        self._is_remote = not uri.startswith("test:")
        self._clock = clock
        self._on_connected = on_connected
        self._on_lifecycle = on_lifecycle
        self._pools = _Pools(
            quick=BlockingPool("libvirt", _WORKERS),
            long=BlockingPool("libvirt-long", _WORKERS),
            sweep=BlockingPool("libvirt-sweep", _WORKERS // 2),
            end=BlockingPool("libvirt-end", _WORKERS // 2),
        )
        # Alone, so that attempts at a frozen libvirtd do not use up the threads of the calls.
        self._opener = BlockingPool("libvirt-open", 1)
        self._events = EventThread()
        self._tried = asyncio.Event()
        self._calls: Calls | None = None

    async def run(self) -> NoReturn:
        """Keep the connections until cancelled."""
        backoff = Backoff(first_s=0.25, max_s=10)
        failures = 0
        while True:
            try:
                await self._hold()
                failures = 0
            except KowabungaError as error:
                failures += 1
                _log.warning("libvirt_unreachable", uri=self._uri, error=str(error))
            finally:
                self._tried.set()
            await self._clock.sleep(backoff.delay_s(max(failures, 1)))

    def start(self) -> None:
        """Make ready for `run`."""
        self._events.start()

    def close(self) -> None:
        """End the threads, once `run` has ended; does not wait for calls that still hang."""
        self._opener.close()
        self._pools.close()
        self._events.stop()

    async def tried(self) -> None:
        """Wait until the first attempt has succeeded or failed."""
        await self._tried.wait()

    def calls(self) -> "Calls":
        """Return the way to call libvirt.

        Raises:
            Unavailable: there is no connection now.
        """
        if self._calls is None:
            raise Unavailable(
                f"libvirt at {self._uri} is not connected", hint="is libvirtd running?"
            )
        return self._calls

    async def _hold(self) -> None:
        """Open the connections and return once one is lost."""
        lost = asyncio.Event()
        async with AsyncExitStack() as opened:
            calls = Calls(await self._open_all(opened, lost), self._pools, lost)
            await calls.call(_listen, self._lifecycle_callback())
            await self._on_connected(calls)
            self._calls = calls
            opened.callback(self._forget)
            self._tried.set()
            _log.info("libvirt_connected", uri=self._uri)
            await lost.wait()
            _log.warning("libvirt_lost", uri=self._uri)

    def _forget(self) -> None:
        self._calls = None

    async def _open_all(self, opened: AsyncExitStack, lost: asyncio.Event) -> _Links:
        quick = await self._open(opened, lost)
        if not self._is_remote:
            return _Links(quick, quick, quick)
        return _Links(quick, await self._open(opened, lost), await self._open(opened, lost))

    async def _open(self, opened: AsyncExitStack, lost: asyncio.Event) -> _Link:
        abandoned = False

        def open_connection() -> libvirt.virConnect:
            connection = libvirt.open(self._uri)
            if abandoned:
                connection.close()
            return connection

        try:
            connection = await self._opener.run(_OPEN_LIMIT_S, open_connection)
            link = _Link(connection)
            opened.push_async_callback(self._close, link)
            if self._is_remote:
                watch = partial(_watch, on_close=_close_callback(lost))
                await self._opener.run(_OPEN_LIMIT_S, link.call, watch)
        except libvirt.libvirtError as error:
            raise Unavailable(f"cannot connect to libvirt: {error}") from error
        finally:
            abandoned = True
        return link

    async def _close(self, link: _Link) -> None:
        try:
            await self._pools.quick.run(_OPEN_LIMIT_S, link.close)
        except KowabungaError as error:
            _log.warning("libvirt_close_failed", error=str(error))

    def _lifecycle_callback(self) -> LifecycleCallback:
        loop = asyncio.get_running_loop()

        def on_event(
            _connection: libvirt.virConnect,
            domain: libvirt.virDomain,
            event: int,
            detail: int,
            _opaque: object,
        ) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._on_lifecycle, domain.name(), event, detail)

        return on_event


class Calls:
    """Calls libvirt over a set of connections.

    Each way raises:
        Unavailable: libvirtd went away.
        DeadlineExceeded: it does not answer; what was asked may still happen.
        NotFound, Conflict, DriverError: what libvirt said.
    """

    def __init__(self, links: _Links, pools: _Pools, lost: asyncio.Event) -> None:
        self._links = links
        self._pools = pools
        self._lost = lost

    async def call(
        self,
        function: Callable[Concatenate[libvirt.virConnect, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Call `function(connection, *args)`, which libvirtd answers alone, in a thread."""
        link = self._links.quick
        return await self._run(self._pools.quick, link, _CALL_LIMIT_S, function, *args, **kwargs)

    async def call_long(
        self,
        function: Callable[Concatenate[libvirt.virConnect, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Do the same with a call that waits for a QEMU, for ever if that hangs."""
        link = self._links.long
        return await self._run(self._pools.long, link, _CALL_LIMIT_S, function, *args, **kwargs)

    async def call_end(
        self,
        function: Callable[Concatenate[libvirt.virConnect, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Do the same with one that ends a QEMU: what helps against those that hang."""
        link = self._links.rest
        return await self._run(self._pools.end, link, _CALL_LIMIT_S, function, *args, **kwargs)

    async def call_all_domains(self, function: Callable[[libvirt.virConnect], R]) -> R:
        """Do the same with one that asks every QEMU; a second one passes over what hangs."""
        return await self._run(self._pools.sweep, self._links.rest, _SWEEP_LIMIT_S, function)

    async def _run(
        self,
        pool: BlockingPool,
        link: _Link,
        limit_s: float,
        function: Callable[Concatenate[libvirt.virConnect, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        try:
            return await pool.run(
                limit_s, link.call, lambda connection: function(connection, *args, **kwargs)
            )
        except libvirt.libvirtError as error:
            if is_away(error) and not await self._pools.quick.run(None, _is_alive, link):
                self._lost.set()
            raise translate(error) from error


def _watch(connection: libvirt.virConnect, on_close: CloseCallback) -> None:
    connection.setKeepAlive(_KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT)
    connection.registerCloseCallback(on_close, None)


def _listen(connection: libvirt.virConnect, on_event: LifecycleCallback) -> None:
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, on_event, None)


def _is_alive(link: _Link) -> bool:
    try:
        return bool(link.call(libvirt.virConnect.isAlive))
    except (libvirt.libvirtError, Unavailable):  # closed meanwhile
        return False


def _release(connection: libvirt.virConnect) -> None:
    # Says how many references remain; a connection that broke says so once more.
    try:
        connection.close()
    except libvirt.libvirtError as error:
        _log.debug("libvirt_close", error=str(error))


def _close_callback(lost: asyncio.Event) -> CloseCallback:
    loop = asyncio.get_running_loop()

    def on_close(_connection: libvirt.virConnect, _reason: int, _opaque: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(lost.set)

    return on_close
