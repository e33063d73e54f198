"""A Kahuna, and a hundred simulated nodes in processes of their own: each of them can be killed.

All is made through the REST API, and the agents dial over real sockets.
"""

import asyncio
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from appliance.core import crypto
from appliance.core.ids import new_id
from appliance.drivers.fake.world import World
from tests.chaos.nodes_process import Rack

EXT: Final = "/api/ext/v1"
V1: Final = "/api/v1"
GIB: Final = 1024**3
MACHINE: Final = {"memory": GIB, "vcpus": 1, "disk": 2 * GIB}
# Of the project: what the users hold at most fits in.
QUOTA: Final = 48
_WAIT_S: Final = 120.0
_LOOK_S: Final = 0.05
_TROUBLE_S: Final = 2.0
_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_REST_LOOK_S: Final = 0.5


class Killable:
    """A process that is started again and again."""

    def __init__(self, name: str, directory: Path, command: Callable[[], Sequence[str]]) -> None:
        self.log: Final = directory / f"{name}.log"
        self.kills = 0
        self.freezes = 0
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.is_running
        command = [sys.executable, *self._command()]
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)

    def kill(self) -> None:
        """End it as `kill -9` does, and return once it is gone."""
        self.kills += 1
        self._end(signal.SIGKILL)

    async def freeze(self, seconds: float) -> None:
        """Stop it in the middle of whatever it does, and let it go on there."""
        assert self._process is not None
        self.freezes += 1
        self._process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(60)


class Nodes(Killable):
    """One process of nodes; killed, its machines may lose their power too."""

    def __init__(self, directory: Path, number: int, rack: Rack) -> None:
        self._rack = rack
        self._file = directory / f"rack{number}.json"
        self.lose_power = False
        super().__init__(f"rack{number}", directory, self._configure)

    def _configure(self) -> Sequence[str]:
        boot_id = new_id() if self.lose_power else self._rack.boot_id
        self._rack = msgspec.structs.replace(
            self._rack,
            boot_id=boot_id,
            lost_power=self.lose_power,
            trouble_s=_TROUBLE_S if self.kills else 0,  # not while the crowd is being furnished
        )
        self.lose_power = False
        self._file.write_bytes(msgspec.json.encode(self._rack))
        return ("-m", "tests.chaos.nodes_process", str(self._file))


@dataclass(slots=True)
class Crowd:
    directory: Path
    kahuna: Killable
    url: str
    nodes: list[Nodes] = field(default_factory=list[Nodes])
    project: str = ""
    zones: list[str] = field(default_factory=list[str])
    _asking: httpx.AsyncClient | None = None

    async def close(self) -> None:
        if self._asking is not None:
            await self._asking.aclose()
        for process in (*self.nodes, self.kahuna):
            process.stop()

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def world(self) -> Path:
        return self.directory / "world.db"

    @property
    def told(self) -> Path:
        """Return where Kahuna tells its tasks and objects."""
        return self.directory / "told"

    def client(self, connections: int = 16) -> httpx.AsyncClient:
        key = (self.state / "master.key").read_text(encoding="ascii").strip()
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"x-api-key": key},
            timeout=_WAIT_S,
            trust_env=False,
            limits=httpx.Limits(max_connections=connections),
        )

    async def answers(self) -> None:
        """Return once Kahuna answers requests."""
        end = time.monotonic() + _WAIT_S
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            while True:
                try:
                    if (await client.get("/healthz")).is_success:
                        return
                except httpx.HTTPError:
                    assert self.kahuna.is_running, self.kahuna.log.read_text()[-4000:]
                assert time.monotonic() < end, self.kahuna.log.read_text()[-4000:]
                await asyncio.sleep(_LOOK_S)

    async def ask(self, method: str, path: str, **body: Any) -> Any:  # noqa: ANN401 - JSON
        """Ask something that must be answered well."""
        self._asking = self._asking or self.client()
        answer = await self._asking.request(method, path, json=body or None)
        assert answer.is_success, (method, path, answer.text)
        return answer.json() if answer.content else None

    async def persist(self, method: str, path: str, **body: Any) -> int:  # noqa: ANN401 - JSON
        """Ask until no trouble of the moment is in the way; return the status."""
        self._asking = self._asking or self.client()
        while True:
            answer = await self._asking.request(method, path, json=body or None)
            if answer.status_code not in (500, 503, 504):
                return answer.status_code
            await asyncio.sleep(_LOOK_S)

    async def machines(self) -> list[dict[str, Any]]:
        """Return all Komputes as they are shown."""
        ids = await self.ask("GET", f"{V1}/kompute")
        return [await self.ask("GET", f"{V1}/kompute/{each}") for each in ids]

    async def until_all_are_connected(self, nodes: int) -> None:
        end = time.monotonic() + _WAIT_S
        while True:
            agents = await self.ask("GET", f"{EXT}/agents")
            if sum(bool(agent["sessions"]) for agent in agents) == nodes:
                return
            assert time.monotonic() < end, "not all agents came back"
            await asyncio.sleep(_REST_LOOK_S)

    async def come_to_rest(self, timeout_s: float) -> list[str]:
        """Let all work end; return what is left that should not be."""
        end = time.monotonic() + timeout_s
        while True:
            unfinished = await self.ask("GET", f"{EXT}/operations?unfinished=true&limit=1000")
            left = [f"unfinished: {each}" for each in unfinished]
            if not left:
                left = (await self.ask("POST", f"{EXT}/state/verify"))["findings"]
            if not left or time.monotonic() > end:
                return left
            await asyncio.sleep(_REST_LOOK_S)


@asynccontextmanager
async def open_crowd(directory: Path, *, nodes: int, processes: int) -> AsyncGenerator[Crowd]:
    """Run `nodes` nodes in `processes` processes, with a project to make machines in."""
    port = _free_port()
    told = directory / "told"
    state = directory / "state"
    kahuna = Killable(
        "kahuna",
        directory,
        lambda: ("-m", "tests.chaos.kahuna_process", str(state), str(port), str(told)),
    )
    crowd = Crowd(directory, kahuna, f"http://127.0.0.1:{port}")
    World(crowd.world).close()  # before several make it at once
    (directory / "fences").mkdir()
    try:
        kahuna.start()
        await crowd.answers()
        await _furnish(crowd, nodes, processes, port)
        yield crowd
    finally:
        await crowd.close()


async def _furnish(crowd: Crowd, nodes: int, processes: int, port: int) -> None:
    async def make(path: str, **body: object) -> str:
        made: str = (await crowd.ask("POST", V1 + path, **body))["id"]
        return made

    region = await make("/region", name="eu", domain="eu.example.org")
    crowd.zones = [await make(f"/region/{region}/zone", name=f"eu-{each}") for each in "ab"]
    keys: dict[str, bytes] = {}
    hosts: list[str] = []
    for number in range(nodes):
        key = crypto.generate_signing_key()
        public = crypto.to_base64(crypto.signing_public_key(key))
        name = f"node-{number:03}"
        agent = await crowd.ask(
            "POST", f"{EXT}/agents", name=name, type="Kaktus", public_key=public
        )
        keys[agent["id"]] = key
        zone = crowd.zones[number % len(crowd.zones)]
        hosts.append(await make(f"/zone/{zone}/kaktus", name=name, agents=[agent["id"]]))
    _rack_up(crowd, keys, processes, port)
    vnet = await make(f"/region/{region}/vnet", name="inside", vlan=100, interface="br100")
    subnet = await make(
        f"/vnet/{vnet}/subnet", name="inside", cidr="10.0.0.0/26", gateway="10.0.0.1"
    )
    await crowd.ask("PATCH", f"{V1}/vnet/{vnet}/subnet/{subnet}/default")
    pool = await make(
        f"/region/{region}/pool", name="ssd", pool="rbd", ceph_address="ceph.example",
        agents=list(keys),
    )  # fmt: skip
    await crowd.ask("PATCH", f"{V1}/region/{region}/pool/{pool}/default")
    await _until_seen(crowd, hosts)
    source = "https://images.example/debian.qcow2"
    template = await make(f"/pool/{pool}/template", name="debian", source=source)
    await crowd.ask("PATCH", f"{V1}/pool/{pool}/template/{template}/default")
    team = await make("/team", name="people", users=[])
    crowd.project = await make(
        "/project?subnetSize=26", name="acme", teams=[team], regions=[region],
        quotas={"instances": QUOTA},
    )  # fmt: skip


def _rack_up(crowd: Crowd, keys: dict[str, bytes], processes: int, port: int) -> None:
    agents = list(keys)
    for number in range(processes):
        mine = {each: keys[each] for each in agents[number::processes]}
        rack = Rack(
            f"ws://127.0.0.1:{port}", str(crowd.world), str(crowd.directory / "fences"), mine,
            new_id(), lost_power=False,
        )  # fmt: skip
        crowd.nodes.append(Nodes(crowd.directory, number, rack))
        crowd.nodes[-1].start()


async def _until_seen(crowd: Crowd, hosts: list[str]) -> None:
    """Wait until every node has told what it has."""
    end = time.monotonic() + _WAIT_S
    for host in hosts:
        while not (await crowd.ask("GET", f"{V1}/kaktus/{host}/caps"))["memory"]:
            assert time.monotonic() < end, f"{host} is not seen"
            await asyncio.sleep(_LOOK_S)


def _free_port() -> int:
    """Return a port that no connection takes for its own end while nobody listens there."""
    first = int(_EPHEMERAL.read_text().split()[0])
    while True:
        port = random.randrange(first - 10_000, first)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
