"""From a method name and raw arguments to a handler, behind the fence.

The rule for effectful methods: take the target's lock, admit and store the fence, then act, all
inside the lock and never cut short, but for methods that say that they give way. So once a newer
command has been admitted, no older one is still acting: the newer waited for it to end.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

import msgspec
import structlog

from appliance.agent.fences import FenceBook
from appliance.core.errors import Cancelled, Invalid, NotFound, Unavailable
from appliance.model.target import Fence
from appliance.rpc.gateway import Command
from appliance.rpc.method import AnyMethod
from appliance.rpc.methods import METHODS

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)

# Any: each handler takes the params Struct of its own method; the dispatcher decodes to it.
Handler = Callable[[Any], Awaitable[msgspec.Struct]]
"""Serve one method. A handler of an effectful method must not return or raise before its effect
has ended or can no longer happen (a thread left behind would act outside the lock).
"""

_STORED_ANSWERS: Final = 1024
_WAITING: Final = 1024


@dataclass(slots=True)
class _Target:
    """The lock of one target, kept while somebody holds or awaits it.

    Attributes:
        gives_way: what acts now and would end for a command of its fence or a higher one.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    gives_way: "_GivesWay | None" = None

    def make_way(self, fence: Fence) -> None:
        """End what acts, if it may be ended; once, since it may need a moment to clean up."""
        acting = self.gives_way
        if acting is not None and fence >= acting.fence and not acting.is_ended:
            acting.is_ended = True
            acting.effect.cancel()


@dataclass(slots=True)
class _GivesWay:
    effect: "asyncio.Task[msgspec.Struct | Exception]"
    fence: Fence
    is_ended: bool = False


_Key = tuple[str, str, str, Fence]


class Dispatcher:
    """Serve calls of every Kahuna; one per agent process. Use as an async context manager.

    Leaving the block cancels effects that still run: only the end of the process does that.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        fences: FenceBook,
        *,
        methods: Mapping[str, AnyMethod] = METHODS,
    ) -> None:
        self._handlers = dict(handlers)
        self._fences = fences
        self._methods = methods
        self._targets: dict[str, _Target] = {}
        self._in_flight: dict[_Key, asyncio.Task[msgspec.Struct | Exception]] = {}
        self._answers: OrderedDict[_Key, msgspec.Struct] = OrderedDict()
        self._effects = asyncio.TaskGroup()

    async def __aenter__(self) -> "Dispatcher":
        await self._effects.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for effect in self._in_flight.values():
            effect.cancel()
        await self._effects.__aexit__(kind, error, trace)

    async def handle(
        self, method_name: str, params_raw: msgspec.Raw | bytes, command: Command | None
    ) -> msgspec.Struct:
        """Run the method's handler and return its result.

        A cancelled caller only stops waiting: an effect runs to its end. A repeat of a command
        joins it, or gets the stored answer. Errors are not stored: a repeat tries again.

        Raises:
            NotFound: no such method here.
            Invalid: the arguments do not fit, or the command is missing.
            Stale: a higher fence is known for the target.
            KowabungaError: the handler's own.
        """
        method = self._methods.get(method_name)
        handler = self._handlers.get(method_name)
        if method is None or handler is None:
            raise NotFound(f"this agent does not serve {method_name!r}", reason="unknown_method")
        try:
            params = msgspec.json.decode(params_raw, type=method.params)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as bad:
            raise Invalid(f"{method_name}: {bad}", reason="bad_params") from bad
        if not method.effectful:
            return await handler(params)
        if command is None:
            raise Invalid(f"{method_name} changes things and needs a command", field="command")
        return await self._join_or_start(method, handler, params, command)

    async def _join_or_start(
        self, method: AnyMethod, handler: Handler, params: msgspec.Struct, command: Command
    ) -> msgspec.Struct:
        key = (method.name, command.request_id, command.target, command.fence)
        effect = self._in_flight.get(key)
        if effect is None:
            if len(self._in_flight) >= _WAITING:
                raise Unavailable(f"{_WAITING} commands wait here already")
            effect = self._effects.create_task(
                self._outcome(method, handler, params, command, key),
                name=f"{method.name} {command.target}",
            )
            self._in_flight[key] = effect
            effect.add_done_callback(lambda _: self._in_flight.pop(key, None))
        outcome = await asyncio.shield(effect)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _outcome(
        self,
        method: AnyMethod,
        handler: Handler,
        params: msgspec.Struct,
        command: Command,
        key: _Key,
    ) -> msgspec.Struct | Exception:
        """Return an error instead of raising it, which would end every other effect."""
        target = self._targets.setdefault(command.target, _Target())
        target.users += 1
        target.make_way(command.fence)
        try:
            async with target.lock:
                await self._fences.admit(command.target, command.fence)
                stored = self._answers.get(key)
                if stored is not None:
                    return stored
                if method.gives_way:
                    result = await self._act_until_another(target, handler, params, key)
                else:
                    result = await handler(params)
                _log.info("command_done", method=key[0], target=command.target)
                self._answers[key] = result
                if len(self._answers) > _STORED_ANSWERS:
                    self._answers.popitem(last=False)
                return result
        except Exception as error:
            _log.warning("command_failed", method=key[0], target=command.target, error=str(error))
            return error
        finally:
            target.users -= 1
            if not target.users:
                del self._targets[command.target]

    async def _act_until_another(
        self, target: _Target, handler: Handler, params: msgspec.Struct, key: _Key
    ) -> msgspec.Struct:
        """Run a handler that gives way; raises Cancelled when it did."""
        _, _, about, fence = key
        effect = self._in_flight[key]
        target.gives_way = acting = _GivesWay(effect, fence)
        try:
            return await handler(params)
        except asyncio.CancelledError:
            # The end of the process cancels, too, and goes on.
            if not acting.is_ended or effect.uncancel() > 0:
                raise
            raise Cancelled(f"a newer command for {about} took its place") from None
        finally:
            target.gives_way = None
