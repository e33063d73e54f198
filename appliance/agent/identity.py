"""Who this agent is: the credential file that an owner brought, or a key pair born here.

The private key never leaves the node. An identity that was revoked is not enrolled again by
itself: its owner removes the directory first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import httpx
import msgspec
import structlog

from appliance.core import crypto
from appliance.core.aio import Backoff
from appliance.core.clock import Clock
from appliance.core.errors import Conflict, Corrupt, Invalid, KowabungaError, Unavailable
from appliance.core.files import create_private, read_private, write_atomic
from appliance.model.agent import AgentType
from appliance.rpc.proof import AgentCredential, Ed25519Credential, HmacCredential

T = TypeVar("T", bound=msgspec.Struct)

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
_KEY: Final = "agent.key"
_IDENTITY: Final = "agent.json"
_API: Final = "/api/ext/v1"
_LOCAL_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Identity:
    agent_id: str
    credential: AgentCredential


class CredentialFile(msgspec.Struct, frozen=True):
    """What `kowabunga agent credential` writes."""

    agent_id: str
    type: AgentType
    key: str
    authorities: str

    def __repr__(self) -> str:
        return f"CredentialFile({self.agent_id}, ***)"


class LocalView(msgspec.Struct, frozen=True):
    """What the Kahuna of this node says about itself."""

    agent_url: str
    authorities: str


class _Enrolled(msgspec.Struct, frozen=True):
    id: str


_NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Refusal(msgspec.Struct, frozen=True):
    reason: str


def read_credential_file(path: Path, agent_type: AgentType) -> tuple[Identity, str]:
    """Return the identity in a credential file, and the authorities (PEM) to trust.

    Raises:
        Invalid: it is not there, not such a file, or of an agent of another type.
        Forbidden: others may read it.
    """
    try:
        file = msgspec.json.decode(read_private(path), type=CredentialFile)
    except FileNotFoundError as missing:
        raise Invalid(f"there is no credential file {path}", field="credential_file") from missing
    except _NOT_JSON:  # not chained: it may quote what it read
        raise Invalid(
            f"{path} is not a credential file",
            hint="write one: kowabunga agent credential ID --output FILE",
            field="credential_file",
        ) from None
    if file.type is not agent_type:
        raise Invalid(
            f"{path} is the credential of a {file.type}, this node is a {agent_type}",
            field="credential_file",
        )
    return Identity(file.agent_id, HmacCredential(crypto.derive_verifier(file.key))), (
        file.authorities
    )


class LocalKahuna:
    """The Kahuna of this node, over the socket that needs no key."""

    def __init__(self, socket: Path, clock: Clock) -> None:
        self._socket = socket
        self._clock = clock

    async def describe(self) -> LocalView:
        """Ask where and how to connect, waiting until that Kahuna runs."""
        return await self._patiently("GET", "/kahuna", LocalView)

    async def enrol(self, name: str, agent_type: AgentType, public_key: bytes) -> str:
        """Make this agent known and return its id; repeating it is harmless.

        Raises:
            Conflict: the name is another agent's.
        """
        body = {"name": name, "type": agent_type, "public_key": crypto.to_base64(public_key)}
        return (await self._patiently("POST", "/agents", _Enrolled, body)).id

    async def _patiently(
        self, method: str, path: str, kind: type[T], body: Mapping[str, str] | None = None
    ) -> T:
        pauses, failures = Backoff(max_s=5.0), 0
        while True:
            try:
                return await self._ask(method, path, kind, body)
            except Unavailable as error:
                failures += 1
                _log.info("local_kahuna_not_ready", error=str(error))
                await self._clock.sleep(pauses.delay_s(failures))

    async def _ask(
        self, method: str, path: str, kind: type[T], body: Mapping[str, str] | None
    ) -> T:
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost", timeout=_LOCAL_TIMEOUT_S
            ) as client:
                response = await client.request(method, _API + path, json=body)
        except httpx.TransportError as lost:
            raise Unavailable(f"no answer on {self._socket}: {lost}") from lost
        if response.is_success:
            return msgspec.json.decode(response.content, type=kind)
        raise _refused(response)


async def ensure_enrolled(
    directory: Path, name: str, agent_type: AgentType, local: LocalKahuna
) -> Identity:
    """Return the identity in `directory`, made and enrolled on the first start.

    The key is durable before it is enrolled, and enrolling it again is harmless: a crash in
    between costs nothing.

    Raises:
        Conflict: another agent has the name.
        Corrupt: the files in `directory` are not ours.
    """
    key = _ensure_key(directory / _KEY)
    credential = Ed25519Credential(key)
    try:
        known = (directory / _IDENTITY).read_bytes()
    except FileNotFoundError:
        agent_id = await local.enrol(name, agent_type, crypto.signing_public_key(key))
        write_atomic(directory / _IDENTITY, msgspec.json.encode(_Enrolled(agent_id)))
        _log.info("agent_enrolled", agent=agent_id, name=name)
        return Identity(agent_id, credential)
    try:
        return Identity(msgspec.json.decode(known, type=_Enrolled).id, credential)
    except _NOT_JSON as bad:
        raise Corrupt(
            f"{directory / _IDENTITY} is damaged",
            hint=f"remove {directory} and enrol this node under another name",
        ) from bad


def _ensure_key(path: Path) -> bytes:
    if not path.exists():
        create_private(path, crypto.to_base64(crypto.generate_signing_key()).encode() + b"\n")
    try:
        key = crypto.from_base64(read_private(path).decode("ascii").strip())
        crypto.signing_public_key(key)
    except (Corrupt, ValueError):
        raise Corrupt(f"{path} is not a private key of ours") from None
    return key


def _refused(response: httpx.Response) -> KowabungaError:
    try:
        reason = msgspec.json.decode(response.content, type=_Refusal).reason
    except _NOT_JSON:
        reason = f"the local Kahuna answered {response.status_code}"
    if response.status_code in (503, 504):
        return Unavailable(reason)
    if response.status_code == 409:
        return Conflict(reason, hint="give this node another name, or remove that agent")
    return Invalid(reason)
