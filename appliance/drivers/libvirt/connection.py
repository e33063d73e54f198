"""One connection to libvirtd, which comes back by itself; the only way to call libvirt.

Every call runs in a small pool of threads with a deadline, and keepalive messages end the calls
of a connection whose libvirtd is gone or frozen.
"""

import asyncio
from collections.abc import Awaitable, Callable
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
# another thread waits for an answer of its own.
_KEEPALIVE_INTERVAL_S: Final = 1
_KEEPALIVE_COUNT: Final = 20
_WORKERS: Final = 8


class Connection:
    """Holds the connection, and opens it again whenever it is lost.

    Args:
        uri: of the hypervisor, such as `qemu:///system`.
        on_connected: called with each new connection, before anybody else may use it.
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
        self._clock = clock
        self._on_connected = on_connected
        self._on_lifecycle = on_lifecycle
        self._pool = BlockingPool("libvirt", _WORKERS)
        self._sweeper = BlockingPool("libvirt-sweep", 1)
        # Alone, so that attempts at a frozen libvirtd do not use up the threads of the calls.
        self._opener = BlockingPool("libvirt-open", 1)
        self._events = EventThread()
        self._tried = asyncio.Event()
        self._calls: Calls | None = None

    async def run(self) -> NoReturn:
        """Keep the connection until cancelled."""
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
        self._sweeper.close()
        self._pool.close()
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
        """Open the connection and return once it is lost."""
        lost = asyncio.Event()
        connection = await self._open()
        calls = Calls(connection, self._pool, self._sweeper, lost)
        try:
            await calls.call(_prepare, self._lifecycle_callback(), _close_callback(lost))
            await self._on_connected(calls)
            self._calls = calls
            self._tried.set()
            _log.info("libvirt_connected", uri=self._uri)
            await lost.wait()
            _log.warning("libvirt_lost", uri=self._uri)
        finally:
            self._calls = None
            await self._close(connection)

    async def _open(self) -> libvirt.virConnect:
        abandoned = False

        def open_connection() -> libvirt.virConnect:
            connection = libvirt.open(self._uri)
            if abandoned:
                connection.close()
            return connection

        try:
            return await self._opener.run(_OPEN_LIMIT_S, open_connection)
        except libvirt.libvirtError as error:
            raise Unavailable(f"cannot connect to libvirt: {error}") from error
        finally:
            abandoned = True

    async def _close(self, connection: libvirt.virConnect) -> None:
        try:
            await self._pool.run(_OPEN_LIMIT_S, _release, connection)
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
    """Calls libvirt over one connection."""

    def __init__(
        self,
        connection: libvirt.virConnect,
        pool: BlockingPool,
        sweeper: BlockingPool,
        lost: asyncio.Event,
    ) -> None:
        self._connection = connection
        self._pool = pool
        self._sweeper = sweeper
        self._lost = lost

    async def call(
        self,
        function: Callable[Concatenate[libvirt.virConnect, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Call `function(connection, *args)` in a thread.

        Raises:
            Unavailable: libvirtd went away.
            DeadlineExceeded: it does not answer; what was asked may still happen.
            NotFound, Conflict, DriverError: what libvirt said.
        """
        return await self._run(self._pool, _CALL_LIMIT_S, function, *args, **kwargs)

    async def call_all_domains(self, function: Callable[[libvirt.virConnect], R]) -> R:
        """Do the same with a call that asks every QEMU, and hangs while any of them does.

        It has a thread of its own, so that it holds up only its kind.
        """
        return await self._run(self._sweeper, _SWEEP_LIMIT_S, function)

    async def _run(
        self,
        pool: BlockingPool,
        limit_s: float,
        function: Callable[Concatenate[libvirt.virConnect, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        try:
            return await pool.run(limit_s, function, self._connection, *args, **kwargs)
        except libvirt.libvirtError as error:
            if is_away(error) and not await self._pool.run(None, _is_alive, self._connection):
                self._lost.set()
            raise translate(error) from error


def _prepare(
    connection: libvirt.virConnect,
    on_event: LifecycleCallback,
    on_close: CloseCallback,
) -> None:
    try:
        connection.setKeepAlive(_KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT)
        connection.registerCloseCallback(on_close, None)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # a driver inside this process
            raise
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, on_event, None)


def _is_alive(connection: libvirt.virConnect) -> bool:
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:  # closed meanwhile
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
