import json
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.agent.identity import LocalKahuna, ensure_enrolled, read_credential_file
from appliance.api.asgi import Receive, Scope, Send
from appliance.api.listener import Limits, Listener, bind_local
from appliance.core.clock import SystemClock
from appliance.core.errors import Conflict, Corrupt, Forbidden, Invalid
from appliance.model.agent import AgentType, CredentialKind
from tests.unit.api.test_listener import serving


class _Kahuna:
    """The two routes that an agent asks, over a real Unix socket."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.enrolled: list[dict[str, str]] = []
        self.refusals: list[int] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        status, answer = (
            200,
            {"agent_url": "wss://127.0.0.1:1", "authorities": "PEM", "reason": "r"},
        )
        if self.refusals:
            status = self.refusals.pop(0)
        elif scope["method"] == "POST":
            self.enrolled.append(json.loads(body))
            answer = {"id": "a" * 24}
        content = json.dumps(answer).encode()
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@pytest_asyncio.fixture
async def kahuna(tmp_path: Path) -> AsyncGenerator[_Kahuna]:
    path = tmp_path / "run/api.sock"
    app = _Kahuna(path)
    async with serving(Listener(app, bind_local(path), limits=Limits())):
        yield app


def local(kahuna: _Kahuna) -> LocalKahuna:
    return LocalKahuna(kahuna.socket, SystemClock())


async def test_an_agent_enrols_once_with_a_key_that_stays_here(
    kahuna: _Kahuna, tmp_path: Path
) -> None:
    first = await ensure_enrolled(tmp_path, "n1-kaktus", AgentType.KAKTUS, local(kahuna))
    again = await ensure_enrolled(tmp_path, "n1-kaktus", AgentType.KAKTUS, local(kahuna))
    assert first.agent_id == again.agent_id == "a" * 24
    (sent,) = kahuna.enrolled
    assert (sent["name"], sent["type"]) == ("n1-kaktus", "Kaktus")
    key = tmp_path / "agent.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().strip() not in json.dumps(sent)


async def test_an_agent_that_died_after_enrolling_does_it_again_with_the_same_key(
    kahuna: _Kahuna, tmp_path: Path
) -> None:
    await ensure_enrolled(tmp_path, "n1", AgentType.KAKTUS, local(kahuna))
    (tmp_path / "agent.json").unlink()
    await ensure_enrolled(tmp_path, "n1", AgentType.KAKTUS, local(kahuna))
    assert kahuna.enrolled[0] == kahuna.enrolled[1]


async def test_a_taken_name_is_told(kahuna: _Kahuna, tmp_path: Path) -> None:
    kahuna.refusals = [409]
    with pytest.raises(Conflict):
        await ensure_enrolled(tmp_path, "n1", AgentType.KAKTUS, local(kahuna))


async def test_damaged_files_are_not_replaced(kahuna: _Kahuna, tmp_path: Path) -> None:
    await ensure_enrolled(tmp_path, "n1", AgentType.KAKTUS, local(kahuna))
    (tmp_path / "agent.json").write_text("{")
    with pytest.raises(Corrupt):
        await ensure_enrolled(tmp_path, "n1", AgentType.KAKTUS, local(kahuna))
    (tmp_path / "agent.key").write_text("nothing")
    with pytest.raises(Corrupt, match="is not a private key"):
        await ensure_enrolled(tmp_path, "n1", AgentType.KAKTUS, local(kahuna))


async def test_it_waits_for_a_kahuna_that_is_not_ready(kahuna: _Kahuna) -> None:
    kahuna.refusals = [503, 504]
    view = await local(kahuna).describe()
    assert (view.agent_url, view.authorities) == ("wss://127.0.0.1:1", "PEM")
    assert kahuna.refusals == []


def credential_file(path: Path, **changes: str) -> Path:
    content = {"agent_id": "b" * 24, "type": "Kiwi", "key": "kwb_" + "k" * 43, "authorities": "PEM"}
    path.write_text(json.dumps(content | changes))
    path.chmod(0o600)
    return path


def test_a_credential_file_gives_identity_and_trust(tmp_path: Path) -> None:
    file = credential_file(tmp_path / "c")
    identity, authorities = read_credential_file(file, AgentType.KIWI)
    assert (identity.agent_id, authorities) == ("b" * 24, "PEM")
    assert identity.credential.kind is CredentialKind.HMAC


def test_an_unusable_credential_file_is_refused_without_quoting_it(tmp_path: Path) -> None:
    file = credential_file(tmp_path / "c")
    with pytest.raises(Invalid, match="is the credential of a Kiwi"):
        read_credential_file(file, AgentType.KAKTUS)
    file.chmod(0o644)
    with pytest.raises(Forbidden):
        read_credential_file(file, AgentType.KIWI)
    with pytest.raises(Invalid, match="there is no credential file"):
        read_credential_file(tmp_path / "none", AgentType.KIWI)
    with pytest.raises(Invalid) as refused:
        read_credential_file(credential_file(tmp_path / "d", type="kwb_secret"), AgentType.KIWI)
    assert "kwb_" not in str(refused.value)
    assert refused.value.__cause__ is None
    file = credential_file(tmp_path / "e")
    file.write_bytes(file.read_bytes().replace(b"kkk", b"k\xffk", 1))
    with pytest.raises(Invalid, match="is not a credential file"):
        read_credential_file(file, AgentType.KIWI)
