"""One connection, seen from either end: many calls in flight in both directions.

One task reads, one writes, one listens for silence; each incoming call has a task of its own. The
reader never waits for anybody else: what it cannot queue, it refuses, and a peer that sends without
reading is cut off. One that tells too much is read slowly, so that it costs nobody else's time.
Must not know who is at the other end: see `hub.py` and `agent/client.py`.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol, TypeVar

import msgspec
import structlog
from msgspec import UNSET

from appliance.core.clock import Clock
from appliance.core.errors import (
    Cancelled,
    Corrupt,
    DeadlineExceeded,
    KowabungaError,
    Unavailable,
)
from appliance.core.logs import bound
from appliance.rpc.gateway import Command
from appliance.rpc.messages import (
    CallParams,
    Frame,
    Malformed,
    decode_frame,
    decode_result,
    encode_call,
    encode_problem,
    encode_refusal,
    encode_result,
    rebuild_error,
)
from appliance.rpc.method import AnyMethod, Method, Nothing
from appliance.rpc.methods import (
    SESSION_CANCEL,
    SESSION_PING,
    SESSION_REPLACED,
    Cancel,
    Replaced,
)
from appliance.rpc.outbox import Outbox, Outgoing
from appliance.rpc.transport import CloseCode, Transport, TransportClosed

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_CLOSING_S: Final = 2.0
_QUIET_POLL_S: Final = 0.05
_NO_PARAMS: Final = CallParams()
_PING: Final = encode_call(None, SESSION_PING.name, Nothing())


class Service(Protocol):
    """What serves the other side's calls."""

    async def handle(
        self, method_name: str, params_raw: msgspec.Raw, command: Command | None
    ) -> msgspec.Struct: ...

    def on_notification(self, method_name: str, params_raw: msgspec.Raw) -> None:
        """Take a notification; must neither wait nor trust it."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost.

    Attributes:
        queued_frames: frames that wait to be sent.
        queued_bytes: their bytes; a single larger frame still goes through an empty queue.
        incoming: calls of the other side that run at once.
        told_per_s: notifications that are read; what comes beyond waits at the other side.
        heartbeat_s: pause between our signs of life.
        silence_s: hearing nothing, or getting nothing sent, for this long ends the connection.
    """

    queued_frames: int = 4096
    queued_bytes: int = 8 << 20
    incoming: int = 1024
    told_per_s: int = 1024
    heartbeat_s: float = 5.0
    silence_s: float = 15.0


@dataclass(slots=True)
class Counters:
    """What was ignored or refused, for metrics and tests."""

    malformed: int = 0
    duplicate_calls: int = 0
    late_answers: int = 0
    refused_calls: int = 0
    dropped_notifications: int = 0


@dataclass(slots=True)
class _Pending:
    answer: asyncio.Future[Frame]
    outgoing: Outgoing


class Peer:
    """Correlates calls and answers over one transport; lives as long as `run`."""

    def __init__(
        self, transport: Transport, service: Service, *, name: str, clock: Clock,
        limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self.name: Final = name
        self.counters: Final = Counters()
        self._transport = transport
        self._service = service
        self._clock = clock
        self._limits = limits or Limits()
        self._outbox = Outbox(
            transport,
            clock=clock,
            max_frames=self._limits.queued_frames,
            max_bytes=self._limits.queued_bytes,
        )
        self._pending: dict[int, _Pending] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._ids = itertools.count(1)
        self._last_incoming_id = -1
        self._heard = clock.monotonic()
        self._refusing: str | None = None
        self._ended: asyncio.Future[TransportClosed] = asyncio.get_running_loop().create_future()
        self._tasks: asyncio.TaskGroup | None = None

    # Our side: calls, notifications, the end.

    async def call(
        self,
        method: Method[P, R],
        params: P,
        *,
        timeout_s: float | None = None,
        command: Command | None = None,
    ) -> R:
        """Call the other side and return its result.

        Cancelling the wait tells the other side; an effect that began there still ends by itself.

        Raises:
            Unavailable: the call never left; nothing happened there.
            DeadlineExceeded: it left and no answer came; the outcome is unknown.
            Invalid: the arguments do not fit into one message.
            KowabungaError: the other side's own error.
        """
        limit_s = method.timeout_s if timeout_s is None else timeout_s
        call_id = next(self._ids)
        frame = encode_call(
            call_id, method.name, params, deadline_ms=max(round(limit_s * 1000), 0), command=command
        )
        pending = self._enqueue(method, frame)
        self._pending[call_id] = pending
        try:
            async with self._clock.timeout(limit_s):
                await self._send_now(pending.outgoing)
                answer = await pending.answer
        except TimeoutError as late:
            raise self._no_answer(
                pending.outgoing, f"{method.name}: no answer from {self.name} within {limit_s:g} s"
            ) from late
        finally:
            del self._pending[call_id]
            if not pending.answer.done() or pending.answer.cancelled():
                self._withdraw(call_id, pending.outgoing)
        return self._result(method, answer)

    def notify(self, method: Method[P, Nothing], params: P) -> bool:
        """Send a notification, or drop and count it if it cannot be queued now."""
        if self._refusing is None and self._outbox.offer(encode_call(None, method.name, params)):
            return True
        self.counters.dropped_notifications += 1
        return False

    def close(self, code: int, reason: str) -> None:
        """End the connection now; calls in flight fail."""
        self._finish(TransportClosed(code, reason))

    def retire(self, grace_s: float) -> None:
        """Tell the other side that it was replaced; take its last answers for a grace period."""
        self.notify(SESSION_REPLACED, Replaced(grace_ms=round(grace_s * 1000)))
        self._begin_end("a newer session took over", self._close_after(grace_s))

    def drain(self, grace_s: float) -> None:
        """Begin nothing new; close as soon as everything begun has been answered."""
        self._begin_end("the session is ending", self._close_when_quiet(grace_s))

    async def run(self) -> TransportClosed:
        """Serve until the connection ends, and return why. Cancel it to go away."""
        why = TransportClosed(CloseCode.GOING_AWAY, "this process ends")
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._until_closed(self._read), name=f"read {self.name}")
                tasks.create_task(self._until_closed(self._outbox.run), name=f"write {self.name}")
                tasks.create_task(self._watch(), name=f"watch {self.name}")
                try:
                    why = await self._ended
                finally:
                    self._finish(why)
                _leave()
        except* _Ended:
            pass
        finally:
            self._fail_pending(why)
            await self._close_transport(why)
        _go_if_cancelled()
        return why

    # The tasks.

    async def _read(self) -> None:
        told, since = 0, self._heard
        while True:
            data = await self._transport.receive()
            self._heard = now = self._clock.monotonic()
            try:
                frame = decode_frame(data)
            except Malformed as refused:
                self._do_malformed(refused)
                continue
            if frame.method is UNSET:
                self._do_answer(frame)
            elif frame.id is UNSET:
                self._do_notification(frame.method, frame.params or _NO_PARAMS)
                if now - since >= 1:
                    told, since = 0, now
                told += 1
                if told > self._limits.told_per_s:
                    await self._clock.sleep(since + 1 - now)
            else:
                self._do_call(frame.id, frame.method, frame.params or _NO_PARAMS)

    async def _watch(self) -> None:
        while True:
            now = self._clock.monotonic()
            silent_s = now - self._heard
            if silent_s >= self._limits.silence_s:
                self.close(CloseCode.LOST, f"nothing received for {silent_s:.0f} s")
            stuck_s = self._outbox.stuck_s
            if stuck_s >= self._limits.silence_s:
                self.close(CloseCode.OVERLOADED, f"nothing read for {stuck_s:.0f} s")
            self._outbox.offer(_PING)
            left_s = self._limits.silence_s - max(silent_s, stuck_s)
            await self._clock.sleep(min(self._limits.heartbeat_s, max(left_s, 0.1)))

    async def _until_closed(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except TransportClosed as closed:
            self._finish(closed)

    async def _close_after(self, grace_s: float) -> None:
        await self._clock.sleep(grace_s)
        self.close(CloseCode.REPLACED, "a newer session took over")

    async def _close_when_quiet(self, grace_s: float) -> None:
        try:
            async with self._clock.timeout(grace_s):
                while self._serving or self._pending or not self._outbox.idle:
                    await self._clock.sleep(_QUIET_POLL_S)
        except TimeoutError:
            pass
        self.close(CloseCode.NORMAL, "replaced")

    # Frames that arrived.

    def _do_call(self, call_id: int | None, method: str, params: CallParams) -> None:
        if call_id is None or call_id <= self._last_incoming_id:
            # Ids rise, so this one was answered before or is being served: that answer counts.
            self.counters.duplicate_calls += 1
            return
        self._last_incoming_id = call_id
        if method == SESSION_PING.name:
            self._answer_now(encode_result(call_id, Nothing()))
        elif len(self._serving) >= self._limits.incoming:
            self.counters.refused_calls += 1
            busy = Unavailable(f"{self._limits.incoming} calls run here already", reason="busy")
            self._answer_now(encode_problem(call_id, busy))
        else:
            serving = self._spawn(self._serve(call_id, method, params))
            self._serving[call_id] = serving

    def _do_answer(self, frame: Frame) -> None:
        pending = None if frame.id is UNSET or frame.id is None else self._pending.get(frame.id)
        if pending is None or pending.answer.done() or not pending.outgoing.sent:
            self.counters.late_answers += 1
            return
        pending.answer.set_result(frame)

    def _do_notification(self, method: str, params: CallParams) -> None:
        if method == SESSION_CANCEL.name:
            self._do_cancel(params)
        elif method != SESSION_PING.name:
            self._service.on_notification(method, params.arguments)

    def _do_cancel(self, params: CallParams) -> None:
        try:
            call_id = msgspec.json.decode(params.arguments, type=Cancel).id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.counters.malformed += 1
            return
        serving = self._serving.pop(call_id, None)
        if serving is not None:
            serving.cancel()
            self._answer_now(encode_problem(call_id, Cancelled("withdrawn by the caller")))

    def _do_malformed(self, refused: Malformed) -> None:
        self.counters.malformed += 1
        if not refused.is_answer:
            self._answer_now(encode_refusal(refused))
            return
        pending = self._pending.get(-1 if refused.call_id is None else refused.call_id)
        if pending is not None and pending.outgoing.sent and not pending.answer.done():
            pending.answer.set_exception(
                Corrupt(f"the answer of {self.name} cannot be read: {refused.detail}")
            )

    # Serving.

    async def _serve(self, call_id: int, method: str, params: CallParams) -> None:
        try:
            with _named_in_logs(params.command):
                answer = await self._answer(call_id, method, params)
            await self._outbox.put(answer)
        except TransportClosed as closed:
            self._finish(closed)
        finally:
            self._serving.pop(call_id, None)

    async def _answer(self, call_id: int, method: str, params: CallParams) -> bytes:
        limit_s = params.deadline_ms / 1000
        try:
            async with self._clock.timeout(limit_s):
                result = await self._service.handle(method, params.arguments, params.command)
            return encode_result(call_id, result)
        except TimeoutError:
            late = DeadlineExceeded(f"{method} did not end within {limit_s:g} s")
            return encode_problem(call_id, late)
        except KowabungaError as error:
            return encode_problem(call_id, error)
        except Exception:
            _log.exception("rpc_handler_failed", method=method, peer=self.name, call_id=call_id)
            bug = KowabungaError(f"{method} failed for a reason that only the log of the node has")
            return encode_problem(call_id, bug)

    def _answer_now(self, frame: bytes) -> None:
        """Queue an answer of the reader, which never waits."""
        if self._outbox.offer(frame) is None:
            self.close(CloseCode.OVERLOADED, "answers are not read")

    # Small parts.

    async def _send_now(self, outgoing: Outgoing) -> None:
        try:
            await self._outbox.send(outgoing)
        except TransportClosed as closed:
            self._finish(closed)

    def _enqueue(self, method: AnyMethod, frame: bytes) -> _Pending:
        if self._refusing is not None:
            raise Unavailable(f"{method.name}: no connection to {self.name}: {self._refusing}")
        outgoing = self._outbox.append(frame)
        if outgoing is None:
            raise Unavailable(f"{method.name}: {self.name} does not keep up, its queue is full")
        return _Pending(asyncio.get_running_loop().create_future(), outgoing)

    def _result(self, method: Method[P, R], answer: Frame) -> R:
        if answer.error is not UNSET:
            raise rebuild_error(answer.error)
        assert answer.result is not UNSET
        try:
            return decode_result(answer.result, method.result)
        except ValueError as bad:
            raise Corrupt(f"{method.name}: {self.name} answered nonsense: {bad}") from bad

    def _withdraw(self, call_id: int, outgoing: Outgoing) -> None:
        """Nobody waits any more: take the call back, or tell the other side."""
        if not outgoing.sent:
            outgoing.withdrawn = True
        elif self._refusing is None:
            self._outbox.offer(encode_call(None, SESSION_CANCEL.name, Cancel(call_id)))

    def _no_answer(self, outgoing: Outgoing, detail: str) -> KowabungaError:
        if outgoing.sent:
            return DeadlineExceeded(f"{detail}; the outcome is unknown", reason="unknown_outcome")
        return Unavailable(f"{detail}; it was never sent", reason="not_sent")

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        assert self._tasks is not None, "only a running peer serves"
        return self._tasks.create_task(work)

    def _begin_end(self, why: str, work: Coroutine[None, None, None]) -> None:
        if self._refusing is None:
            self._refusing = why
            self._spawn(work)
        else:
            work.close()

    def _finish(self, why: TransportClosed) -> None:
        self._refusing = str(why)
        if not self._ended.done():
            self._ended.set_result(why)

    def _fail_pending(self, why: TransportClosed) -> None:
        for pending in self._pending.values():
            if not pending.answer.done():
                detail = f"the connection to {self.name} ended ({why})"
                pending.answer.set_exception(self._no_answer(pending.outgoing, detail))

    async def _close_transport(self, why: TransportClosed) -> None:
        try:
            async with self._clock.timeout(_CLOSING_S):
                await self._transport.close(why.code, why.reason)
        except TimeoutError:
            _log.info("rpc_close_timed_out", peer=self.name)


class _Ended(Exception):
    """Leaves the task group of `Peer.run`, which then cancels its tasks and waits for them."""


def _leave() -> NoReturn:
    raise _Ended


def _go_if_cancelled() -> None:
    """Pass on a cancellation that came while the task group ended by itself.

    Python 3.11 and 3.12 then raise the group's own errors only, and the cancellation is lost.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _named_in_logs(command: Command | None) -> AbstractContextManager[None]:
    """Make whatever is logged about a command name the work that it belongs to."""
    if command is None:
        return nullcontext()
    return bound(operation_id=command.operation_id, command=command.request_id)
