"""The hello: what is refused, how, and that no secret or replay helps."""

import asyncio
import base64
import dataclasses
import json

import pytest

from appliance.core.errors import Unavailable
from appliance.model.agent import AgentType, CredentialKind
from appliance.rpc.hello import Gatekeeper, ProtocolRange, Proven, Refused, greet
from appliance.rpc.memory import MemoryTransport
from appliance.rpc.proof import AgentCredential, Ed25519Credential, HmacCredential
from appliance.rpc.transport import CloseCode, TransportClosed
from tests.support.clock import ManualClock
from tests.support.rpc import AGENT, OTHER, Directory, Json, Wire, greeting


async def admit(_: Proven) -> None:
    return


class Door:
    """Kahuna's end of any number of hellos, one after the other."""

    def __init__(self, directory: Directory, *, protocols: ProtocolRange | None = None) -> None:
        self.clock = ManualClock()
        self.keeper = Gatekeeper(directory, kahuna="k1", clock=self.clock, protocols=protocols)

    async def try_with(
        self, credential: AgentCredential, *, tls: tuple[bytes, bytes] = (b"", b""), **more: Json
    ) -> Proven:
        """Say hello over a fresh socket; raise what the agent's side saw."""
        ours, theirs = MemoryTransport.pair()
        ours.certificate_sha256, theirs.certificate_sha256 = tls  # type: ignore[misc] # a MITM
        async with asyncio.TaskGroup() as tasks:
            welcoming = tasks.create_task(self.welcome(theirs))
            refused: Refused | None = None
            try:
                await greet(ours, greeting(credential, **more))
            except Refused as error:
                refused = error
            await ours.close(1000, "")
            proven = await welcoming
        if refused is not None:
            raise refused
        assert proven is not None
        return proven

    async def welcome(self, transport: MemoryTransport) -> Proven | None:
        try:
            return await self.keeper.welcome(transport, admit)
        except (Refused, TransportClosed):
            return None


@pytest.mark.parametrize("kind", [CredentialKind.HMAC, CredentialKind.ED25519])
async def test_an_agent_that_holds_its_credential_is_proven(kind: CredentialKind) -> None:
    directory = Directory()
    credential = directory.add(kind=kind)
    proven = await Door(directory).try_with(credential)
    assert proven.identity.id == AGENT
    assert proven.hello.boot_id == "boot-1"
    assert proven.protocol == 1


@pytest.mark.parametrize("kind", [CredentialKind.HMAC, CredentialKind.ED25519])
async def test_an_unknown_agent_a_revoked_one_and_a_bad_proof_look_the_same(
    kind: CredentialKind,
) -> None:
    directory = Directory()
    directory.add(kind=kind)
    revoked = directory.add(OTHER, kind=kind)
    directory.agents[OTHER] = dataclasses.replace(
        directory.agents[OTHER], credential=CredentialKind.NONE, verifier=None, public_key=None
    )
    wrong = (
        HmacCredential(b"w" * 32) if kind is CredentialKind.HMAC else Ed25519Credential(b"w" * 32)
    )
    door = Door(directory)
    refusals: list[tuple[CloseCode, str]] = []
    for credential, agent_id in ((wrong, AGENT), (revoked, OTHER), (wrong, "c" * 24)):
        with pytest.raises(Refused) as refused:
            await door.try_with(credential, agent_id=agent_id)
        refusals.append((refused.value.code, refused.value.detail))
    assert set(refusals) == {(CloseCode.UNAUTHENTICATED, "unknown agent or bad proof")}


async def test_a_credential_of_another_kind_proves_nothing() -> None:
    directory = Directory()
    directory.add(kind=CredentialKind.ED25519)
    with pytest.raises(Refused) as refused:
        await Door(directory).try_with(HmacCredential(b"\0" * 32))
    assert refused.value.code is CloseCode.UNAUTHENTICATED


async def test_a_withdrawn_credential_proves_nothing_even_while_its_key_is_still_stored() -> None:
    directory = Directory()
    credential = directory.add()
    directory.agents[AGENT] = dataclasses.replace(
        directory.agents[AGENT], credential=CredentialKind.NONE
    )
    with pytest.raises(Refused) as refused:
        await Door(directory).try_with(credential)
    assert refused.value.code is CloseCode.UNAUTHENTICATED


async def test_the_id_of_another_agent_cannot_be_claimed_with_ones_own_key() -> None:
    directory = Directory()
    credential = directory.add()
    directory.add(OTHER)
    with pytest.raises(Refused) as refused:
        await Door(directory).try_with(credential, agent_id=OTHER)
    assert refused.value.code is CloseCode.UNAUTHENTICATED


async def test_a_proven_agent_of_the_wrong_type_is_told_so() -> None:
    directory = Directory()
    credential = directory.add(agent_type=AgentType.KAKTUS)
    with pytest.raises(Refused) as refused:
        await Door(directory).try_with(credential, type=AgentType.KIWI)
    assert refused.value.code is CloseCode.WRONG_TYPE


async def test_the_type_of_an_agent_is_not_told_to_strangers() -> None:
    directory = Directory()
    directory.add(agent_type=AgentType.KAKTUS)
    with pytest.raises(Refused) as refused:
        await Door(directory).try_with(HmacCredential(b"w" * 32), type=AgentType.KIWI)
    assert refused.value.code is CloseCode.UNAUTHENTICATED


async def test_an_expired_credential_is_refused() -> None:
    directory = Directory()
    door = Door(directory)
    credential = directory.add(expires_at_ms=door.clock.now_ms() + 1000)
    await door.try_with(credential)
    await door.clock.advance(1)
    with pytest.raises(Refused) as refused:
        await door.try_with(credential)
    assert refused.value.code is CloseCode.EXPIRED


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [
        (ProtocolRange(1, 3), ProtocolRange(2, 5), 3),
        (ProtocolRange(1, 9), ProtocolRange(2, 5), 5),
        (ProtocolRange(1, 1), ProtocolRange(2, 5), None),
        (ProtocolRange(6, 7), ProtocolRange(2, 5), None),
    ],
)
async def test_the_highest_common_protocol_is_spoken_or_none(
    ours: ProtocolRange, theirs: ProtocolRange, chosen: int | None
) -> None:
    directory = Directory()
    credential = directory.add()
    door = Door(directory, protocols=theirs)
    if chosen is not None:
        assert (await door.try_with(credential, protocols=ours)).protocol == chosen
        return
    with pytest.raises(Refused) as refused:
        await door.try_with(credential, protocols=ours)
    assert refused.value.code is CloseCode.PROTOCOL_RANGE


async def test_a_hello_for_another_server_proves_nothing_here() -> None:
    """The machine in the middle has a certificate of its own."""
    directory = Directory()
    credential = directory.add()
    door = Door(directory)
    await door.try_with(credential, tls=(b"s" * 32, b"s" * 32))
    with pytest.raises(Refused) as refused:
        await door.try_with(credential, tls=(b"m" * 32, b"s" * 32))
    assert refused.value.code is CloseCode.UNAUTHENTICATED


class Tap:
    """A transport that keeps what passes and may change it."""

    def __init__(self, inner: MemoryTransport) -> None:
        self.inner = inner
        self.address = inner.address
        self.certificate_sha256 = inner.certificate_sha256
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self.change: dict[bytes, bytes] = {}

    async def send(self, frame: bytes) -> None:
        self.sent.append(frame)
        await self.inner.send(frame)

    async def receive(self) -> bytes:
        frame = await self.inner.receive()
        for old, new in self.change.items():
            frame = frame.replace(old, new)
        self.received.append(frame)
        return frame

    async def close(self, code: int, reason: str) -> None:
        await self.inner.close(code, reason)


async def captured(door: Door, credential: HmacCredential) -> Tap:
    ours, theirs = MemoryTransport.pair()
    tap = Tap(ours)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(door.welcome(theirs))
        await greet(tap, greeting(credential))
    return tap


async def test_a_captured_hello_is_refused_as_replayed() -> None:
    directory = Directory()
    credential = directory.add()
    assert isinstance(credential, HmacCredential)
    door = Door(directory)
    tap = await captured(door, credential)
    ours, theirs = MemoryTransport.pair()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(door.welcome(theirs))
        wire = Wire(ours)
        await wire.send(tap.sent[0])
        await wire.expect_error(0, -32000, "replayed")


async def test_a_captured_hello_is_worth_nothing_to_a_kahuna_that_never_saw_it() -> None:
    directory = Directory()
    credential = directory.add()
    assert isinstance(credential, HmacCredential)
    tap = await captured(Door(directory), credential)
    ours, theirs = MemoryTransport.pair()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Door(directory).welcome(theirs))
        wire = Wire(ours)
        await wire.send(tap.sent[0])
        await wire.expect_result(0)
        await wire.send(tap.sent[1])
        await wire.expect_error(1, -32000, "unauthenticated")


async def test_no_secret_crosses_the_wire() -> None:
    directory = Directory()
    credential = directory.add()
    assert isinstance(credential, HmacCredential)
    tap = await captured(Door(directory), credential)
    secret = directory.agents[AGENT].verifier
    assert secret is not None
    seen = b"".join(tap.sent + tap.received)
    for form in (secret, secret.hex().encode(), base64.b64encode(secret)[:40]):
        assert form not in seen


@pytest.mark.parametrize("reflected", [True, False])
async def test_a_proof_reflected_or_made_up_is_not_kahunas(reflected: bool) -> None:
    directory = Directory()
    credential = directory.add()
    ours, theirs = MemoryTransport.pair()
    challenge = {
        "nonce": base64.b64encode(b"n" * 32).decode(),
        "protocol_min": 1, "protocol_max": 1, "protocol": 1, "kahuna": "k",
    }  # fmt: skip
    async with asyncio.TaskGroup() as tasks:
        greeted = tasks.create_task(outcome(ours, credential))
        wire = Wire(theirs)
        await wire.next()
        await wire.send({"jsonrpc": "2.0", "id": 0, "result": challenge})
        proof = (await wire.next())["params"]["arguments"]["proof"]
        answer = proof if reflected else base64.b64encode(b"x" * 32).decode()
        await wire.send({"jsonrpc": "2.0", "id": 1, "result": {"proof": answer}})
        refused = await greeted
    assert isinstance(refused, Refused)
    assert refused.detail == "Kahuna could not prove itself"


async def outcome(transport: MemoryTransport, credential: AgentCredential) -> Refused | None:
    try:
        await greet(transport, greeting(credential))
    except Refused as refused:
        return refused
    return None


async def test_a_downgrade_is_noticed_by_the_agent() -> None:
    directory = Directory()
    credential = directory.add()
    ours, theirs = MemoryTransport.pair()
    tap = Tap(ours)
    tap.change = {b'"protocol":3': b'"protocol":1'}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Door(directory, protocols=ProtocolRange(1, 3)).welcome(theirs))
        with pytest.raises(Refused, match="best common protocol"):
            await greet(tap, greeting(credential, protocols=ProtocolRange(1, 3)))
        await ours.close(1000, "")


async def test_a_changed_range_breaks_the_proof() -> None:
    directory = Directory()
    credential = directory.add()
    ours, theirs = MemoryTransport.pair()
    tap = Tap(ours)
    tap.change = {b'"protocol":3': b'"protocol":1', b'"protocol_max":3': b'"protocol_max":1'}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Door(directory, protocols=ProtocolRange(1, 3)).welcome(theirs))
        with pytest.raises(Refused) as refused:
            await greet(tap, greeting(credential, protocols=ProtocolRange(1, 3)))
        await ours.close(1000, "")
    assert refused.value.code is CloseCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "frame",
    [
        b"{",
        b"x" * 9000,
        json.dumps({"jsonrpc": "2.0", "id": 0, "method": "agent.describe", "params": {}}).encode(),
        json.dumps({"jsonrpc": "2.0", "id": 0, "method": "session.hello", "params": {}}).encode(),
        json.dumps({"jsonrpc": "2.0", "id": 0, "result": {}}).encode(),
        json.dumps(
            {
                "jsonrpc": "2.0",
                "id": 0,
                "method": "session.hello",
                "params": {
                    "arguments": {
                        "agent_id": AGENT,
                        "type": "Kaktus",
                        "credential": "hmac",
                        "nonce": base64.b64encode(b"n" * 32).decode(),
                        "protocol_min": 1,
                        "protocol_max": 1,
                        "boot_id": "b",
                        "version": "1",
                    }
                },
            }
        ).encode()
        + b" " * 8192,
    ],
)
async def test_anything_but_a_hello_is_refused(frame: bytes) -> None:
    ours, theirs = MemoryTransport.pair()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Door(Directory()).welcome(theirs))
        wire = Wire(ours)
        await wire.send(frame)
        await wire.expect_error(0, -32000, "bad_hello")


async def test_a_store_that_cannot_answer_refuses_nobody_for_good() -> None:
    directory = Directory()
    credential = directory.add()
    directory.failure = Unavailable("no quorum")
    keeper = Gatekeeper(directory, kahuna="k1", clock=ManualClock())
    ours, theirs = MemoryTransport.pair()
    async with asyncio.TaskGroup() as tasks:
        greeted = tasks.create_task(closed_during(ours, credential))
        with pytest.raises(Unavailable):
            await keeper.welcome(theirs, admit)
        await theirs.close(CloseCode.INTERNAL, "")
        assert await greeted == CloseCode.INTERNAL


async def closed_during(transport: MemoryTransport, credential: AgentCredential) -> int:
    with pytest.raises(TransportClosed) as closed:
        await greet(transport, greeting(credential))
    return closed.value.code
