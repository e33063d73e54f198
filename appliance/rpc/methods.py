"""The one table of what Kahuna and agents may ask each other.

Declares names, parameters, results and time limits. Must not hold any behaviour: handlers live in
`agent/`, the session's own methods in `hello.py` and `peer.py`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from appliance.core.ids import ID_PATTERN
from appliance.model.agent import AgentType, CredentialKind
from appliance.rpc.compute import COMPUTE_METHODS
from appliance.rpc.method import AnyMethod, Method, Nothing, TimeoutClass
from appliance.rpc.network import NETWORK_METHODS
from appliance.rpc.storage import STORAGE_METHODS

Nonce = Annotated[bytes, Meta(min_length=32, max_length=32)]
AgentId = Annotated[str, Meta(pattern=ID_PATTERN)]
ShortText = Annotated[str, Meta(max_length=200)]
EventValue = Annotated[str, Meta(max_length=4096)] | int
ProtocolVersion = Annotated[int, Meta(ge=1, le=65535)]


class Hello(msgspec.Struct, frozen=True):
    """An agent's first words; proven by `session.prove`."""

    agent_id: AgentId
    type: AgentType
    credential: CredentialKind
    nonce: Nonce
    protocol_min: ProtocolVersion
    protocol_max: ProtocolVersion
    boot_id: ShortText
    version: ShortText


class Challenge(msgspec.Struct, frozen=True):
    """Kahuna's half of the transcript.

    `kahuna` names the process, so that an agent notices two URLs that lead to the same one.
    """

    nonce: Nonce
    protocol_min: ProtocolVersion
    protocol_max: ProtocolVersion
    protocol: ProtocolVersion
    kahuna: ShortText


class Proof(msgspec.Struct, frozen=True):
    """HMAC or signature over the transcript; empty where TLS is the proof (`hello.py`)."""

    proof: Annotated[bytes, Meta(max_length=64)]


class Replaced(msgspec.Struct, frozen=True):
    """A newer session of the same agent and boot took over; answers may still use this one."""

    grace_ms: int


class Cancel(msgspec.Struct, frozen=True):
    id: int


class Event(msgspec.Struct, frozen=True):
    """Something an agent noticed about one of its own objects."""

    target: Annotated[str, Meta(max_length=80)]
    kind: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.]{0,63}$")]
    detail: Annotated[dict[ShortText, EventValue], Meta(max_length=32)] = {}


class AgentDescription(msgspec.Struct, frozen=True):
    """What a node is, as the kernel tells it."""

    agent_id: str
    type: AgentType
    version: str
    boot_id: str
    hostname: str
    architecture: str
    cpu_count: int
    memory_total_bytes: int
    memory_available_bytes: int
    uptime_s: float


class StreamOpen(msgspec.Struct, frozen=True):
    """Ask the agent to dial a byte stream; `token` is secret, good once and for 10 s."""

    token: Annotated[str, Meta(min_length=43, max_length=43)]
    kind: ShortText
    target: Annotated[str, Meta(max_length=80)]


SESSION_HELLO: Final = Method(
    "session.hello", Hello, Challenge, TimeoutClass.FAST, effectful=False, answered_by="kahuna",
    about="Begin a session: identity claimed, nonces and protocol ranges exchanged.",
)  # fmt: skip
SESSION_PROVE: Final = Method(
    "session.prove", Proof, Proof, TimeoutClass.FAST, effectful=False, answered_by="kahuna",
    about="Prove the identity over the transcript; the answer is Kahuna's own proof.",
)  # fmt: skip
SESSION_PING: Final = Method(
    "session.ping", Nothing, Nothing, TimeoutClass.PROMPT, effectful=False, answered_by="both",
    about="Answered by the connection itself; as a notification it is the heartbeat.",
)  # fmt: skip
SESSION_CANCEL: Final = Method(
    "session.cancel", Cancel, Nothing, TimeoutClass.PROMPT, effectful=False, answered_by="both",
    about="Notification: nobody waits for that call any more.",
)  # fmt: skip
SESSION_REPLACED: Final = Method(
    "session.replaced", Replaced, Nothing, TimeoutClass.PROMPT, effectful=False,
    answered_by="agent", about="Notification: a newer session of this agent took over.",
)  # fmt: skip
SESSION_EVENT: Final = Method(
    "session.event", Event, Nothing, TimeoutClass.PROMPT, effectful=False, answered_by="kahuna",
    about="Notification: an agent noticed something about one of its own objects.",
)  # fmt: skip
AGENT_PING: Final = Method(
    "agent.ping", Nothing, Nothing, TimeoutClass.PROMPT, effectful=False, answered_by="agent",
    about="Answered by the agent's dispatcher: the whole path works.",
)  # fmt: skip
AGENT_DESCRIBE: Final = Method(
    "agent.describe", Nothing, AgentDescription, TimeoutClass.FAST, effectful=False,
    answered_by="agent", about="Version, boot id, processor, memory and uptime of the node.",
)  # fmt: skip
STREAM_OPEN: Final = Method(
    "stream.open", StreamOpen, Nothing, TimeoutClass.FAST, effectful=False, answered_by="agent",
    about="Dial a byte stream of this kind with the one-time token.",
)  # fmt: skip

_SESSION_METHODS: Final[tuple[AnyMethod, ...]] = (
    SESSION_HELLO, SESSION_PROVE, SESSION_PING, SESSION_CANCEL, SESSION_REPLACED, SESSION_EVENT,
    AGENT_PING, AGENT_DESCRIBE, STREAM_OPEN,
)  # fmt: skip

_ALL: Final[tuple[AnyMethod, ...]] = (
    *_SESSION_METHODS,
    *COMPUTE_METHODS,
    *STORAGE_METHODS,
    *NETWORK_METHODS,
)

METHODS: Final[Mapping[str, AnyMethod]] = MappingProxyType({method.name: method for method in _ALL})
