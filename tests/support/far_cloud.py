"""A Kahuna and its agents as processes, each in a network of its own, with wires that break.

Each agent has a wire of its own to Kahuna (a veth pair), and a region of its own with all that a
Kompute needs, so that a test troubles one and the others are witnesses. The agents' drivers are
simulated; everything between is real: processes, TLS, TCP, the kernel's packets.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from tests.support.far_role import PORT, FarKahuna, FarKaktus
from tests.support.furnish import Api
from tests.support.needs import need
from tests.support.netns import private_network
from tests.support.wait import until_now

EXT: Final = "/api/ext/v1"
MIB: Final = 2**20
_LIMIT_S: Final = 120.0
_NAME: Final = "kahuna.test"
_HOLDER: Final = """
set -e
ip link set lo up
mount --bind "$1" /etc/hosts
echo 'hosts: files' > /run/nsswitch.far
mount --bind /run/nsswitch.far /etc/nsswitch.conf
echo up
exec cat
"""
_TOP: Final = Path(__file__).parents[2]


class Network:
    """A network, and a process that keeps it."""

    def __init__(self, holder: subprocess.Popen[bytes]) -> None:
        self.holder = holder

    def enter(self, *argv: str | Path) -> list[str]:
        """Return the command line that runs a command inside."""
        return ["nsenter", f"--target={self.holder.pid}", "--net", "--mount", "--", *map(str, argv)]

    def run(self, *argv: str | Path) -> str:
        done = subprocess.run(
            self.enter(*argv), check=False, capture_output=True, text=True, timeout=_LIMIT_S
        )
        assert done.returncode == 0, (argv, done.stderr)
        return done.stdout

    def nft(self, rules: str) -> None:
        done = subprocess.run(
            self.enter("nft", "-f", "-"),
            input=rules,
            check=False,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
        )
        assert done.returncode == 0, (rules, done.stderr)


@contextmanager
def network(hosts: Path) -> Generator[Network]:
    """Make one with a loopback until the end of the block; names are those of a file alone."""
    hosts.touch()
    with private_network():
        holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _HOLDER, "sh", hosts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    with holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"up\n"
            yield Network(holder)
        finally:
            holder.kill()


class Process:
    """A process in a network, and its log."""

    def __init__(self, inside: Network, log: Path, role: str, settings: msgspec.Struct) -> None:
        self.log = log
        argv = inside.enter(
            sys.executable, "-m", "tests.support.far_role", role, msgspec.json.encode(settings)
            .decode(),
        )  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(_TOP)}
        with log.open("ab") as out:
            self.running = subprocess.Popen(argv, stdout=out, stderr=out, env=environment)

    @property
    def pid(self) -> int:
        return self.running.pid

    def until_ready(self) -> None:
        until_now(
            lambda: "ready\n" in self.told() or self.running.poll() is not None,
            f"{self.log} tells that it is ready",
            timeout_s=_LIMIT_S,
        )
        assert self.running.poll() is None, self.told()

    def told(self) -> str:
        return self.log.read_text(errors="replace")

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def end(self) -> None:
        self.running.kill()
        self.running.wait()


@dataclass(frozen=True, slots=True)
class Far:
    """One agent, its wire and its region."""

    number: int
    id: str
    network: Network
    hosts: Path
    process: Process
    zone: str
    project: str
    kaktus: str
    pool: str

    @property
    def port_of_kahuna(self) -> str:
        """The name of Kahuna's end of the wire."""
        return f"k{self.number}"

    def effects(self) -> Counter[tuple[str, str]]:
        """Count by method and request what it did, as its log tells."""
        done: Counter[tuple[str, str]] = Counter()
        for line in self.process.told().splitlines():
            if '"command_done"' in line:
                event = json.loads(line)
                done[event["method"], event["command"]] += 1
        return done


@dataclass
class FarCloud:
    directory: Path
    network: Network
    kahuna: Process
    agents: list[Far] = field(default_factory=list)
    _troubles: int = 0

    # --- asking

    def client(self, timeout_s: float = 300.0) -> httpx.Client:
        """Return a client on the local socket, which no trouble of the network concerns."""
        transport = httpx.HTTPTransport(uds=str(self.directory / "kahuna" / "run" / "api.sock"))
        return httpx.Client(
            transport=transport, base_url="http://localhost", timeout=timeout_s, trust_env=False
        )

    def ext(self, path: str) -> Any:  # noqa: ANN401 - JSON
        with self.client() as client:
            answer = client.get(EXT + path)
        assert answer.is_success, (path, answer.text)
        return answer.json()

    def sessions(self, far: Far) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ext(f"/agents/{far.id}")["sessions"]
        return found

    def until_connected(self, far: Far, *, but_not: str = "") -> str:
        """Wait for a session, other than the one from an address; return its address."""
        addresses: list[str] = []

        def is_connected() -> bool:
            addresses[:] = [str(one["address"]) for one in self.sessions(far)]
            return bool(addresses) and addresses != [but_not]

        until_now(is_connected, f"agent {far.number} is connected", timeout_s=_LIMIT_S)
        return addresses[0]

    def until_away(self, far: Far, address: str = "") -> None:
        """Wait until the session (from that address) is gone."""
        until_now(
            lambda: all(address and one["address"] != address for one in self.sessions(far)),
            f"agent {far.number} is away",
            timeout_s=_LIMIT_S,
        )

    def unfinished(self) -> list[Any]:
        found: list[Any] = self.ext("/operations?unfinished=true")
        return found

    def count_tasks(self) -> int:
        written = self.directory / "kahuna" / "tasks"
        written.unlink(missing_ok=True)
        self.kahuna.running.send_signal(10)  # SIGUSR1
        until_now(lambda: written.exists() and bool(written.read_text()), "Kahuna counts its tasks")
        return int(written.read_text())

    # --- working

    def create(self, far: Far, name: str) -> str:
        """Make a Kompute on that agent's node; return its id."""
        path = f"/project/{far.project}/zone/{far.zone}/kompute?public=false"
        with self.client() as client:
            return Api(client).post(path, name=name, vcpus=1, memory=128 * MIB, disk=2048 * MIB)

    def delete(self, kompute: str) -> None:
        with self.client() as client:
            Api(client).delete(f"/kompute/{kompute}")

    # --- troubling

    @contextmanager
    def trouble(self, *rules: str) -> Generator[None]:
        """Add rules of nftables to the chains `input` and `output` until the end of the block."""
        self._troubles += 1
        table = f"inet trouble{self._troubles}"
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0; policy accept; }}\n"
            for hook in ("input", "output")
        )
        added = "".join(f"add rule {table} {rule}\n" for rule in rules)
        self.network.nft(f"table {table} {{\n{chains}}}\n{added}")
        try:
            yield
        finally:
            self.network.nft(f"delete table {table}")

    def reset_connections(self, far: Far) -> None:
        """Have the kernel end what Kahuna holds of that wire, and tell the other end."""
        self.network.run("ss", "-4", "-K", "dst", f"10.99.{far.number}.2")

    # --- judging

    def settle(self, agents: Sequence[Far] = ()) -> None:
        """Wait until these agents (all) are connected and no operation is under way."""
        for far in agents or self.agents:
            self.until_connected(far)
        until_now(lambda: not self.unfinished(), "no work is under way", timeout_s=_LIMIT_S)

    def assert_sound(self) -> None:
        """No work left, every row has its thing and every thing its row; nothing done twice."""
        self.settle()
        end = time.monotonic() + _LIMIT_S
        while findings := self._findings():
            assert time.monotonic() < end, findings
            time.sleep(0.1)
            self.settle()
        for far in self.agents:
            twice = {key: times for key, times in far.effects().items() if times > 1}
            assert not twice, twice

    def _findings(self) -> list[str]:
        with self.client() as client:
            answer = client.post(f"{EXT}/state/verify")
        assert answer.is_success, answer.text
        findings: list[str] = answer.json()["findings"]
        return findings


class Meanwhile:
    """Runs something in a thread while a test goes on; `result` waits for it."""

    def __init__(self, work: Any, *arguments: Any) -> None:  # noqa: ANN401 - any function
        self._found: list[Any] = []
        self._failed: list[BaseException] = []

        def run() -> None:
            try:
                self._found.append(work(*arguments))
            except BaseException as error:
                self._failed.append(error)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:  # noqa: ANN401 - what the function returns
        self._thread.join(_LIMIT_S)
        assert self.is_over, "it goes on and on"
        if self._failed:
            raise self._failed[0]
        return self._found[0]


@contextmanager
def far_cloud(directory: Path, agents: int, *, latency_s: float = 0.1) -> Generator[FarCloud]:
    """Run one until the end of the block, furnished and at rest."""
    for tool in ("ip", "nft", "nsenter", "ss", "unshare"):
        need(tool)
    with ExitStack() as stack:
        place = stack.enter_context(network(directory / "hosts"))
        kahuna = Process(
            place,
            directory / "kahuna.log",
            "kahuna",
            FarKahuna(state=str(directory / "kahuna"), names=(_NAME,)),
        )
        stack.callback(kahuna.end)
        kahuna.until_ready()
        cloud = FarCloud(directory, place, kahuna)
        for number in range(1, agents + 1):
            own = stack.enter_context(network(directory / f"hosts-{number}"))
            far = _add_agent(cloud, own, number, latency_s)
            stack.callback(far.process.end)
            cloud.agents.append(far)
        cloud.settle()
        for far in cloud.agents:
            _until_known(cloud, far)
        yield cloud


def _add_agent(cloud: FarCloud, place: Network, number: int, latency_s: float) -> Far:
    wire(cloud.network, place, number)
    hosts = cloud.directory / f"hosts-{number}"
    name_kahuna(hosts, f"10.99.{number}.1")
    with cloud.client() as client:
        agent = _ext(client, "/agents", {"name": f"far-{number}", "type": "Kaktus"})["id"]
        _ext(client, f"/agents/{agent}/key")
        credential = cloud.directory / f"credential-{number}.json"
        credential.touch(0o600)
        credential.write_text(json.dumps(_ext(client, f"/agents/{agent}/credential")))
        furniture = _furnish(Api(client), agent, number)
    process = Process(
        place,
        cloud.directory / f"kaktus-{number}.log",
        "kaktus",
        FarKaktus(
            state=str(cloud.directory / f"kaktus-{number}"),
            credential=str(credential),
            url=f"wss://{_NAME}:{PORT}",
            latency_s=latency_s,
        ),
    )
    return Far(number, agent, place, hosts, process, *furniture)


def wire(kahuna: Network, other: Network, number: int) -> None:
    """Join two networks: Kahuna is 10.99.NUMBER.1, the other 10.99.NUMBER.2."""
    kahuna.run(
        "ip", "link", "add", f"k{number}", "type", "veth",
        "peer", "name", "k0", "netns", str(other.holder.pid),
    )  # fmt: skip
    for side, end, address in ((kahuna, f"k{number}", 1), (other, "k0", 2)):
        side.run("ip", "address", "add", f"10.99.{number}.{address}/24", "dev", end)
        side.run("ip", "link", "set", end, "up")


def name_kahuna(hosts: Path, address: str) -> None:
    """Let the name of Kahuna lead to an address; "": nowhere."""
    hosts.write_text(f"127.0.0.1 localhost\n{address} {_NAME}\n" if address else "")


def _ext(client: httpx.Client, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
    answer = client.post(EXT + path, json=body)
    assert answer.is_success, (path, answer.text)
    return answer.json()


def _furnish(api: Api, agent: str, number: int) -> tuple[str, str, str, str]:
    """Make a region and what belongs to it; return zone, project, host and pool."""
    region = api.post("/region", name=f"r{number}", domain=f"r{number}.example.org")
    zone = api.post(f"/region/{region}/zone", name=f"z{number}")
    kaktus = api.post(f"/zone/{zone}/kaktus", name=f"host-{number}", agents=[agent])
    vnet = api.post(
        f"/region/{region}/vnet", name=f"vnet-{number}", vlan=0, interface="br0", private=True
    )
    subnet = api.post(
        f"/vnet/{vnet}/subnet",
        name=f"subnet-{number}",
        cidr=f"10.{number}.0.0/20",
        gateway=f"10.{number}.0.1",
    )
    api.patch(f"/vnet/{vnet}/subnet/{subnet}/default")
    pool = api.post(
        f"/region/{region}/pool", name=f"ssd-{number}", pool="rbd", agents=[agent],
        ceph_address=f"ceph-{number}.example", ceph_secret_uuid="",
    )  # fmt: skip
    api.patch(f"/region/{region}/pool/{pool}/default")
    team = api.post("/team", name=f"ops-{number}", users=[])
    project = api.post(
        "/project?subnetSize=22", name=f"acme-{number}", description="",
        domain=f"acme{number}.example", bootstrap_user="", bootstrap_pubkey="",
        tags=[], metadatas=[], teams=[team], regions=[region],
    )  # fmt: skip
    return zone, project, kaktus, pool


def _until_known(cloud: FarCloud, far: Far) -> None:
    """Wait until the node has told what it has, and give it a template."""
    with cloud.client() as client:
        api = Api(client)
        until_now(
            lambda: bool(api.get(f"/kaktus/{far.kaktus}/caps")["memory"]),
            "the node has told what it has",
            timeout_s=_LIMIT_S,
        )
        template = api.post(
            f"/pool/{far.pool}/template",
            name="debian",
            source="https://images.example/debian.qcow2",
        )
        api.patch(f"/pool/{far.pool}/template/{template}/default")
