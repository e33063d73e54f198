"""What a method is. The methods themselves: `methods.py`, and one module per driver."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Literal, TypeVar

import msgspec

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


class TimeoutClass(float, Enum):
    """Seconds until the caller gives up. Choose by what the answer waits for.

    All but the first leave room for a network that takes 5 s each way.
    """

    PROMPT = 2.0  # memory only: is anybody there?
    FAST = 30.0  # a local read, one round trip to a daemon
    NORMAL = 60.0  # one bounded change: define, attach, reload
    SLOW = 240.0  # moves data or waits for a guest; stays under a client's five minutes
    DOWNLOAD = 1740.0  # from anywhere on the Internet; stays under a client's half hour


@dataclass(frozen=True, slots=True)
class Method(Generic[P, R]):
    """One method: `effectful` ones need a Command and pass the fence before they run.

    One that `gives_way` is ended by a newer command about its target, instead of holding it up: it
    takes long, undoes or keeps what it began when it is cancelled, and a repeat goes on.
    """

    name: str
    params: type[P]
    result: type[R]
    timeout_s: float
    effectful: bool
    answered_by: Literal["agent", "kahuna", "both"]
    about: str
    gives_way: bool = False


# Any: tables mix methods of every parameter type; each user names its own method.
AnyMethod = Method[Any, Any]


class Nothing(msgspec.Struct, frozen=True):
    """No parameters, or no result beyond "done"."""
