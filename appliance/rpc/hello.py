"""The first two round trips of a session: who is there, and the proof of it.

    agent                                Kahuna
    session.hello {claims, nonce}  ->
                                   <-    {nonce, protocol}
    session.prove {proof}          ->    verify, then ask the hub whether it may come in
                                   <-    {Kahuna's proof}

A refusal is an error whose `context["reason"]` is the name of a CloseCode in lower case; the
socket is then closed with that code. Until the proof is good, an unknown agent, a revoked one and
a bad proof look the same. Afterwards the transport belongs to a Peer.
"""

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from appliance.core.clock import Clock, rfc3339
from appliance.core.errors import Forbidden, KowabungaError, Unauthenticated
from appliance.model.agent import AgentIdentity, AgentType
from appliance.rpc.directory import AgentDirectory
from appliance.rpc.messages import (
    Frame,
    Malformed,
    decode_frame,
    decode_result,
    encode_call,
    encode_problem,
    encode_result,
    rebuild_error,
)
from appliance.rpc.method import Method
from appliance.rpc.methods import (
    SESSION_HELLO,
    SESSION_PROVE,
    Challenge,
    Hello,
    Proof,
)
from appliance.rpc.proof import AgentCredential, check_agent, prove_kahuna, transcript_of
from appliance.rpc.transport import CloseCode, Transport

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

PROTOCOL_MIN: Final = 1
PROTOCOL_MAX: Final = 1
HELLO_TIMEOUT_S: Final = 30.0  # two round trips and a half, of up to 10 s
_NONCE_BYTES: Final = 32
_MAX_FRAME_BYTES: Final = 8192
_REMEMBERED_NONCES: Final = 16384


class Refused(Exception):
    """The hello was refused, by either end."""

    def __init__(self, code: CloseCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail

    def to_error(self) -> KowabungaError:
        if self.code in {CloseCode.UNAUTHENTICATED, CloseCode.BAD_HELLO}:
            return Unauthenticated(self.detail, reason=self.code.name.lower())
        return Forbidden(self.detail, reason=self.code.name.lower())


@dataclass(frozen=True, slots=True)
class ProtocolRange:
    """The versions that this process speaks."""

    lowest: int = PROTOCOL_MIN
    highest: int = PROTOCOL_MAX

    def choose(self, lowest: int, highest: int) -> int | None:
        """Return the highest version common with the other side's range."""
        best = min(self.highest, highest)
        return best if best >= max(self.lowest, lowest) else None


@dataclass(frozen=True, slots=True)
class Proven:
    """What Kahuna knows of an agent after its proof; `hello` holds its claims, now believed."""

    identity: AgentIdentity
    hello: Hello
    protocol: int


@dataclass(frozen=True, slots=True)
class Greeting:
    """What an agent says of itself."""

    agent_id: str
    type: AgentType
    credential: AgentCredential
    boot_id: str
    version: str
    protocols: ProtocolRange = ProtocolRange()


@dataclass(frozen=True, slots=True)
class Accepted:
    """What an agent learnt: the Kahuna process at the other end, and the version to speak."""

    kahuna: str
    protocol: int


class Gatekeeper:
    """Kahuna's end. Remembers the nonces of good hellos, so that a captured one is told apart.

    Replays fail without that memory too: each proof covers a fresh nonce of ours.
    """

    def __init__(
        self,
        directory: AgentDirectory,
        *,
        kahuna: str,
        clock: Clock,
        protocols: ProtocolRange | None = None,
    ) -> None:
        self._directory = directory
        self._kahuna = kahuna
        self._clock = clock
        self._protocols = protocols or ProtocolRange()
        self._nonces: OrderedDict[bytes, None] = OrderedDict()

    async def welcome(
        self, transport: Transport, admit: Callable[[Proven], Awaitable[None]]
    ) -> Proven:
        """Hear a hello out; `admit` may still raise Refused before the last answer is sent.

        The time limit is the caller's.

        Raises:
            Refused: answered already; close the transport with its code.
            TransportClosed: the other side left.
        """
        call_id = 0
        try:
            call_id, hello = await _hear(transport, SESSION_HELLO)
            challenge = self._challenge(hello)
            await transport.send(encode_result(call_id, challenge))
            call_id, proof = await _hear(transport, SESSION_PROVE)
            transcript = transcript_of(hello, challenge, transport.certificate_sha256)
            proven = await self._verify(hello, challenge, transcript, proof.proof)
            await admit(proven)
        except Refused as refused:
            await transport.send(encode_problem(call_id, refused.to_error()))
            raise
        answer = Proof(prove_kahuna(proven.identity, transcript))
        await transport.send(encode_result(call_id, answer))
        return proven

    def _challenge(self, hello: Hello) -> Challenge:
        if hello.nonce in self._nonces:
            raise Refused(CloseCode.REPLAYED, "this hello was used before")
        protocol = self._protocols.choose(hello.protocol_min, hello.protocol_max)
        if protocol is None:
            raise Refused(
                CloseCode.PROTOCOL_RANGE,
                f"this Kahuna speaks protocol {self._protocols.lowest} to "
                f"{self._protocols.highest}, the agent {hello.protocol_min} to "
                f"{hello.protocol_max}: upgrade the older one",
            )
        return Challenge(
            nonce=secrets.token_bytes(_NONCE_BYTES),
            protocol_min=self._protocols.lowest,
            protocol_max=self._protocols.highest,
            protocol=protocol,
            kahuna=self._kahuna,
        )

    async def _verify(
        self, hello: Hello, challenge: Challenge, transcript: bytes, proof: bytes
    ) -> Proven:
        identity = await self._directory.find(hello.agent_id)
        if not check_agent(identity, hello.credential, transcript, proof) or identity is None:
            raise Refused(CloseCode.UNAUTHENTICATED, "unknown agent or bad proof")
        if hello.nonce in self._nonces:
            raise Refused(CloseCode.REPLAYED, "this hello was used before")
        self._nonces[hello.nonce] = None
        if len(self._nonces) > _REMEMBERED_NONCES:
            self._nonces.popitem(last=False)
        if hello.type is not identity.type:
            raise Refused(
                CloseCode.WRONG_TYPE,
                f"agent {identity.id} is registered as {identity.type}, not {hello.type}",
            )
        now_ms = self._clock.now_ms()
        if identity.expires_at_ms is not None and identity.expires_at_ms <= now_ms:
            raise Refused(
                CloseCode.EXPIRED,
                f"the credential of agent {identity.id} has expired: it was good until"
                f" {rfc3339(identity.expires_at_ms)}, by Kahuna's clock it is {rfc3339(now_ms)}",
            )
        return Proven(identity, hello, challenge.protocol)


async def greet(
    transport: Transport,
    me: Greeting,
    *,
    is_connected: Callable[[str], bool] = lambda _kahuna: False,
) -> Accepted:
    """Say hello, prove it, and check Kahuna's proof.

    `is_connected` tells whether we hold a session with that Kahuna process already.

    Raises:
        Refused: by Kahuna, or by us: it could not prove itself, or is connected already.
        TransportClosed: the other side left.
    """
    hello = Hello(
        agent_id=me.agent_id,
        type=me.type,
        credential=me.credential.kind,
        nonce=secrets.token_bytes(_NONCE_BYTES),
        protocol_min=me.protocols.lowest,
        protocol_max=me.protocols.highest,
        boot_id=me.boot_id,
        version=me.version,
    )
    challenge = await _ask(transport, 0, SESSION_HELLO, hello)
    if is_connected(challenge.kahuna):
        raise Refused(CloseCode.REPLACED, "this address leads to a Kahuna we are connected to")
    # Both ranges are in the transcript: a lower choice than the best common one is a downgrade.
    if challenge.protocol != me.protocols.choose(challenge.protocol_min, challenge.protocol_max):
        raise Refused(CloseCode.PROTOCOL_RANGE, "Kahuna did not choose the best common protocol")
    transcript = transcript_of(hello, challenge, transport.certificate_sha256)
    answer = await _ask(transport, 1, SESSION_PROVE, Proof(me.credential.prove(transcript)))
    if not me.credential.accepts(transcript, answer.proof):
        raise Refused(CloseCode.UNAUTHENTICATED, "Kahuna could not prove itself")
    return Accepted(challenge.kahuna, challenge.protocol)


async def _hear(transport: Transport, method: Method[P, R]) -> tuple[int, P]:
    """Read the one call that may come now."""
    frame = await _read(transport)
    if frame.method != method.name or not isinstance(frame.id, int) or not frame.params:
        raise Refused(CloseCode.BAD_HELLO, f"expected {method.name}")
    try:
        return frame.id, msgspec.json.decode(frame.params.arguments, type=method.params)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as bad:
        raise Refused(CloseCode.BAD_HELLO, f"{method.name}: {str(bad)[:200]}") from bad


async def _ask(transport: Transport, call_id: int, method: Method[P, R], params: P) -> R:
    timeout_ms = round(HELLO_TIMEOUT_S * 1000)
    await transport.send(encode_call(call_id, method.name, params, deadline_ms=timeout_ms))
    frame = await _read(transport)
    if frame.id != call_id:
        raise Refused(CloseCode.BAD_HELLO, f"expected the answer to {method.name}")
    if isinstance(frame.result, msgspec.Raw):
        return _result(frame.result, method)
    if frame.error is msgspec.UNSET:
        raise Refused(CloseCode.BAD_HELLO, f"expected the answer to {method.name}")
    error = rebuild_error(frame.error)
    reason = str(error.context.get("reason", "")).upper()
    raise Refused(CloseCode.__members__.get(reason, CloseCode.BAD_HELLO), error.detail)


def _result(raw: msgspec.Raw, method: Method[P, R]) -> R:
    try:
        return decode_result(raw, method.result)
    except ValueError as bad:
        raise Refused(CloseCode.BAD_HELLO, f"{method.name}: {bad}") from bad


async def _read(transport: Transport) -> Frame:
    data = await transport.receive()
    if len(data) > _MAX_FRAME_BYTES:
        raise Refused(CloseCode.BAD_HELLO, f"a hello has at most {_MAX_FRAME_BYTES} bytes")
    try:
        return decode_frame(data)
    except Malformed as bad:
        raise Refused(CloseCode.BAD_HELLO, bad.detail) from bad
