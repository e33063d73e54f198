"""No secret that was handed out shows anywhere but in the file it was handed out in."""

import base64
import json
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.kahuna.conftest import Place

pytestmark = pytest.mark.timeout(600)

_PASSWORD = "hunter2-correct-horse"
_PASSPHRASE = "battery staple and so on"


def private_file(path: Path, content: str) -> Path:
    path.write_text(content + "\n")
    path.chmod(0o600)
    return path


def everything_seen(place: Place) -> dict[str, bytes]:
    """Return what an onlooker sees: logs, command lines, environments, and the database."""
    seen = {path.name: path.read_bytes() for path in place.directory.glob("*.log")}
    seen |= {path.name: path.read_bytes() for path in place.state.glob("state.db*")}
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                seen[f"{process.name} {name}"] = (process / name).read_bytes()
            except OSError:
                continue  # it has ended, or is not ours to read
    return seen


def forms_of(secret: bytes) -> list[bytes]:
    """Return the secret as it stands, and the ways in which it might be written."""
    forms = [secret, base64.b64encode(secret), secret.hex().encode()]
    with suppress(ValueError):
        forms.append(base64.b64decode(secret + b"=" * (-len(secret) % 4), validate=True))
    return [form for form in forms if len(form) >= 12]


def test_a_whole_run_shows_no_secret(place: Place) -> None:
    kahuna = place.kahuna()
    agent = place.agent("Kaktus")
    agent.until("agent is up")
    files = place.directory / "handed-out"
    files.mkdir()
    password = private_file(files / "password", _PASSWORD)
    phrase = private_file(files / "phrase", _PASSPHRASE)
    first_key = (place.state / "master.key").read_text().strip()
    url = place.directory.joinpath("0.log").read_text().split("ready ")[1].split()[0]
    by_key = ("--url", url, "--ca-file", place.state / "tls/ca.pem", "--api-key-file")
    place.cli("agent", "list", *by_key, place.state / "master.key", "--debug")
    place.cli("settings", "set", "smtp.password", "--from-file", password)
    kiwi = place.ask("agent", "enrol", "kiwi-1", "--type", "Kiwi")["id"]
    place.cli("agent", "credential", kiwi, "--output", files / "kiwi.json")
    waiting = place.ask("agent", "enrol", "kiwi-2", "--type", "Kiwi")["id"]
    other = place.agent("Kiwi", credential=files / "kiwi.json", url=url.replace("https", "wss"))
    other.until("agent is up")
    place.cli("secret", "export", "--output", files / "recovery", "--passphrase-file", phrase)
    place.cli("secret", "rotate", "--wait")
    place.cli("master-key", "rotate", "--output", files / "new.key")
    place.cli("agent", "list", *by_key, files / "new.key")
    place.cli("agent", "list", *by_key, place.state / "master.key", code=4)
    place.cli("agent", "log", kiwi)

    secrets = [
        first_key.encode(),
        (files / "new.key").read_bytes().strip(),
        json.loads((files / "kiwi.json").read_text())["key"].encode(),
        _PASSWORD.encode(),
        _PASSPHRASE.encode(),
        (place.state / "agent/kaktus/agent.key").read_bytes().strip(),
        *(path.read_bytes().strip() for path in (place.state / "keys/data").glob("*.key")),
    ]
    node = json.loads((place.state / "keys/node.key").read_text())
    secrets += [node["signing_key"].encode(), node["sealing_key"].encode()]
    seen = everything_seen(place)
    assert len(secrets) >= 9
    assert any("agent_connected" in text.decode(errors="replace") for text in seen.values())
    found = [
        (where, index)
        for where, text in seen.items()
        for index, secret in enumerate(secrets)
        for form in forms_of(secret)
        if form in text
    ]
    assert found == []
    for where, text in seen.items():
        assert b"PRIVATE KEY" not in text, where
        if where.endswith(".log"):
            assert b"kwb_" not in text, where
    place.cli("agent", "credential", waiting, "--output", files / "kiwi-2.json")
    late = json.loads((files / "kiwi-2.json").read_text())["key"].encode()
    assert not any(late in text for text in everything_seen(place).values())
    for daemon in (agent, other, kahuna):
        assert daemon.stop() == 0


def test_every_file_that_holds_a_secret_is_its_owners_alone(place: Place) -> None:
    place.kahuna()
    place.agent("Kaktus").until("agent is up")
    open_to_others = [
        path for path in place.state.rglob("*") if not path.is_dir() and path.stat().st_mode & 0o077
    ]
    assert place.state.stat().st_mode & 0o077 == 0
    secret = {path.name for path in open_to_others if path.suffix in (".key", ".pem", ".sock")}
    assert secret <= {"ca.pem"}
