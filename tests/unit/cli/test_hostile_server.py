"""A server, or somebody in its place, that answers with what would take over a terminal."""

import json
import re
import socketserver
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from appliance.core.ids import ID_PATTERN
from appliance.roles.kahuna import Ready
from tests.support.faults import What, Where, breaks
from tests.unit.cli.conftest import Cli, Result
from tests.unit.cli.world import build_cloud, new, ok

Json = Any  # what a JSON text may hold

_ID: Final = re.compile(ID_PATTERN)
_CLOSED: Final = frozenset({"state", "type", "kind", "code", "id"})  # words that a client may know
HOSTILE: Final = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202e\u200b\u2028\x00\x7f\n"
# By id: whoever asks by name compares names.
COMMANDS: Final = [
    "region list", "zone list", "kaktus list", "agent list", "alarm list", "operation list",
    "region list -o wide", "region list -o name", "region list -q", "region list -o yaml",
    "project list -o wide", "kompute list -o wide", "agent list -o wide", "operation list -o wide",
    "settings list", "state verify", "region show {region}",
    "region set {region} --description x --plan", "region set {region} --description x",
    "project show {project}", "project spread {project}", "project spread {project} hard --plan",
    "kaktus show {kaktus}", "kaktus caps {kaktus}", "kaktus schedulable {kaktus}",
    "template show {template}", "agent show {agent}", "agent log {agent}",
    "kompute show {kompute}", "kompute state {kompute}",
    "kompute explain web --project {project} --zone {zone} --memory 1GiB --vcpus 1",

    "kompute stop {kompute}", "kompute console {kompute} --vnc", "kompute stop {kompute} --no-wait",
    "kompute delete {kompute} --plan", "kompute delete {kompute}", "region delete {region}",
    "region show nothing", "agent revoke {agent}", "team delete {team}",
]  # fmt: skip


class Mutator(socketserver.ThreadingUnixStreamServer):
    """Passes requests on, and adds to each text of each answer that is no id."""

    daemon_threads = True
    upstream: str
    keys = False
    says: bytes | None = None  # whatever is asked
    ids: dict[str, str]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that leave: it would stand among what commands say."""

    def mutated(self, value: Json, name: str = "") -> Json:
        match value:
            case dict():
                return {
                    key + (HOSTILE if self.keys else ""): self.mutated(each, key)
                    for key, each in value.items()
                }
            case list():
                return [self.mutated(each, name) for each in value]
            case str() if not _ID.fullmatch(value) and (self.keys or name not in _CLOSED):
                return value + HOSTILE
            case _:
                return value


class Handler(BaseHTTPRequestHandler):
    server: Mutator
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        transport = httpx.HTTPTransport(uds=self.server.upstream)
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=60) as client:
            kind = {"content-type": "application/json"} if length else {}
            got = client.request(
                self.command, self.path, content=self.rfile.read(length), headers=kind
            )
        lines = [json.loads(line) for line in got.content.splitlines()]
        content = self.server.says or b"\n".join(
            json.dumps(self.server.mutated(line)).encode() for line in lines
        )
        self.send_response(got.status_code)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 - the library's names

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mutator(
    cloud: Ready, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[Mutator]:
    build_cloud(cli)
    place = "--project shop --zone eu-a --memory 1GiB --vcpus 1 --disk 2GiB"
    new(cli, f"kompute web {place}")
    ok(cli("settings", "set", "smtp.host", "mail.example"))
    nouns = ("region", "zone", "kaktus", "agent", "project", "template", "team", "kompute")
    ids = {noun: ok(cli(noun, "list", "-q")).out.strip() for noun in nouns}
    with Mutator(str(tmp_path / "mutator.sock"), Handler) as server:
        server.upstream = str(cloud.local_socket)
        server.ids = ids
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setenv("KOWABUNGA_SOCKET", str(tmp_path / "mutator.sock"))
        yield server
        server.shutdown()
        thread.join(60)


@breaks(
    What.INPUT,
    "a server that puts escape sequences into every text of every answer, into keys, too",
    expected="no command lets one through to the terminal, nor a line that it did not write",
    where=Where.HOST,
)
def test_no_command_passes_on_what_takes_over_a_terminal(cli: Cli, mutator: Mutator) -> None:
    wrong: list[str] = []
    for command in COMMANDS:
        told = cli(*command.format(**mutator.ids).split())
        wrong += harmful(command, told)
        if told.code not in (0, 2, 3, 5, 6, 7, 8, 9, 11):
            wrong.append(f"{command}: code {told.code}: {told.err}")
    mutator.keys = True
    for command in ("region list", "region show {region} -o yaml", "kompute list -o name"):
        wrong += harmful(command, cli(*command.format(**mutator.ids).split()))
    assert wrong == []


def harmful(command: str, told: Result) -> list[str]:
    """Return the lines that do something else than being read."""
    lines = (told.out + told.err).split("\n")
    return [
        f"{command}: {line!r}"
        for line in lines
        if "Traceback" in line or line.startswith("\x1b") or not line.isprintable()
    ]


@breaks(
    What.INPUT,
    "an answer that is no JSON: a web page, broken UTF-8, a million brackets",
    expected="the command says that no Kahuna is there, and is no bug",
    where=Where.HOST,
)
def test_an_answer_that_is_no_json_is_no_bug(cli: Cli, mutator: Mutator) -> None:
    for says in (b"<html>\x1b[2J", b'{"reason": "\xff"}', b"[" * 1_000_000, b'"\\ud800"', b"\0"):
        mutator.says = says
        for command in ("region list", "settings list", "region show x"):
            told = cli(*command.split())
            assert told.code == 6, told
            assert harmful(command, told) == []
