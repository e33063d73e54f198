"""A real Kahuna and a real Kaktus with a local pool, and no libvirt: for what concerns disks.

They have a network of their own, with loopback alone. The pool's root and the agent's own directory
are small disks.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from appliance.drivers.local_pool.known_pools import MARK
from appliance.model.node import Acceleration, KahunaSection, KaktusSection, NodeConfig, Role
from appliance.model.node_status import RoleState
from tests.support.furnish import Api
from tests.support.needs import need
from tests.support.netns import private_network
from tests.support.role_run import RoleRun, run_role
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.wait import until_now

EXT: Final = "/api/ext/v1"
_ALLOWED: Final = "127.0.0.1"  # where templates come from; the rest of loopback is refused


@dataclass(frozen=True, slots=True)
class StorageNode:
    """`disk` is where the pool lies; `volumes` is a path of the API."""

    directory: Path
    disk: SmallDisk
    agent_disk: SmallDisk
    restart_kaktus: Callable[[], None]
    pool_id: str
    volumes: str

    @property
    def pool_directory(self) -> Path:
        return self.disk.path / "a"

    @property
    def socket(self) -> Path:
        return self.directory / "state" / "run" / "api.sock"

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self.socket)),
            base_url="http://localhost",
            timeout=300,
            trust_env=False,
        )

    def ask(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """Get what an extension tells."""
        with _client(self.socket) as client:
            answer = client.get(EXT + path).raise_for_status()
        return answer.json()

    def names(self) -> list[str]:
        """Return what lies in the pool, besides its mark."""
        return sorted(file.name for file in self.pool_directory.iterdir() if file.name != MARK)

    def unfinished(self) -> list[Any]:
        found: list[Any] = self.ask("/operations?unfinished=true")
        return found

    def assert_sound(self) -> None:
        """Every row has its thing and every thing its row, once no operation is under way."""
        until_now(lambda: not self.unfinished(), "all operations end", timeout_s=300)
        with _client(self.socket) as client:
            verdict = client.post(f"{EXT}/state/verify").raise_for_status().json()
        assert verdict["findings"] == []
        assert not [name for name in self.names() if name.startswith(".")]


@contextmanager
def storage_node(*, size: str = "24m") -> Generator[StorageNode]:
    """Run one for the life of the block, at rest and without a template."""
    with ExitStack() as stack:
        # Short: sockets lie below it.
        directory = Path(tempfile.mkdtemp(prefix="kwsn"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        disk = stack.enter_context(small_disk(directory / "pools", size))
        agent_disk = stack.enter_context(small_disk(directory / "state" / "agent", "8m"))
        stack.enter_context(private_network())
        subprocess.run([need("ip"), "link", "set", "lo", "up"], check=True)
        node = NodeConfig(
            roles=(Role.KAHUNA, Role.KAKTUS),
            name="node",
            state=str(directory / "state"),
            kahuna=KahunaSection(listen="127.0.0.1:0"),
            kaktus=KaktusSection(
                pool_roots=(str(disk.path),),
                libvirt_uri=f"qemu+unix:///system?socket={directory}/none",
                acceleration=Acceleration.TCG,
            ),
        )
        running: list[RoleRun] = []

        def restart_kaktus() -> None:
            for kaktus in running:
                kaktus.kill()
            kaktus = stack.enter_context(run_role(Role.KAKTUS, node, directory))
            running[:] = [kaktus]
            # Without libvirt, that is how it works.
            until_now(
                lambda: any(told.state is RoleState.DEGRADED for told in kaktus.told()),
                "the Kaktus is connected",
                timeout_s=120,
            )

        stack.enter_context(run_role(Role.KAHUNA, node, directory)).until_running()
        restart_kaktus()
        with _client(directory / "state" / "run" / "api.sock") as client:
            pool, volumes = _furnish(client, f"{disk.path}/a")
        yield StorageNode(directory, disk, agent_disk, restart_kaktus, pool, volumes)


def _client(socket: Path) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(socket))
    return httpx.Client(
        transport=transport, base_url="http://localhost", timeout=300, trust_env=False
    )


def _furnish(client: httpx.Client, directory: str) -> tuple[str, str]:
    api = Api(client)
    setting = f"{EXT}/settings/templates.allowed_sources"
    client.put(setting, json={"value": _ALLOWED}).raise_for_status()
    region = api.post("/region", name="eu", domain="eu.example.org")
    pool = api.post(
        f"/region/{region}/pool",
        name="local",
        pool="local",
        ceph_address=f"local://{directory}",
        agents=api.get("/agent"),
    )
    vnet = api.post(f"/region/{region}/vnet", name="vnet", vlan=0, interface="br0", private=True)
    subnet = api.post(f"/vnet/{vnet}/subnet", name="subnet", cidr="10.0.0.0/20", gateway="10.0.0.1")
    api.patch(f"/vnet/{vnet}/subnet/{subnet}/default")
    team = api.post("/team", name="ops", users=[])
    project = api.post(
        "/project?subnetSize=26",
        name="acme",
        description="",
        domain="acme.example.org",
        bootstrap_user="",
        bootstrap_pubkey="",
        tags=[],
        metadatas=[],
        teams=[team],
        regions=[region],
    )
    return pool, f"/api/v1/project/{project}/region/{region}/volume?poolId={pool}"
