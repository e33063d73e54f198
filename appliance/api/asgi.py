"""The ASGI types as plain callables: what lies outside the framework speaks only these.

Source: ASGI specification 3.0, "HTTP & WebSocket protocol".
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

# Any: a scope and a message are dictionaries of mixed types by specification.
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
