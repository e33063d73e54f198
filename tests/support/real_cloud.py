"""A small cloud of real processes: a Kahuna and a Kaktus that can be killed, libvirtd and QEMU.

They have network, mounts and process ids of their own (`private_libvirtd`), so nothing of it meets
the machine that runs the tests, and all of it ends with the block. The Kaktus has a local pool and
a template of `small_guest`, and everything is made through the REST API.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from appliance.model.node import Acceleration, KahunaSection, KaktusSection, NodeConfig, Role
from appliance.roles.node import assignments
from tests.support.furnish import Api, Place, furnish_node
from tests.support.libvirtd import Libvirtd, private_libvirtd
from tests.support.node_remains import Existing, find_remains
from tests.support.role_process import LIMIT_S, RoleProcess
from tests.support.small_guest import make_bootable
from tests.support.wait import until_now

EXT: Final = "/api/ext/v1"
MIB: Final = 2**20
_IMAGES_PORT: Final = 8000
_OF_IMAGES: Final = ("instance", "volume", "template")


class RealCloud:
    """The processes and what they serve; `place` is there once `furnish` was called."""

    place: Place

    def __init__(self, libvirtd: Libvirtd, directory: Path) -> None:
        self.libvirtd = libvirtd
        self.directory = directory
        self.state = directory / "state"
        self.pool = self.state / "pools" / "local"
        node = NodeConfig(
            roles=(Role.KAHUNA, Role.KAKTUS),
            name="node",
            state=str(self.state),
            kahuna=KahunaSection(listen="127.0.0.1:8443"),
            kaktus=KaktusSection(libvirt_uri=libvirtd.uri, acceleration=Acceleration.TCG),
        )
        assigned = assignments(node)
        self.kahuna = RoleProcess(libvirtd, directory, assigned[Role.KAHUNA])
        self.kaktus = RoleProcess(libvirtd, directory, assigned[Role.KAKTUS])

    # --- asking

    def client(self, timeout_s: float = 300.0) -> httpx.Client:
        """Return a client on the local socket, which needs no key."""
        transport = httpx.HTTPTransport(uds=str(self.state / "run" / "api.sock"))
        return httpx.Client(
            transport=transport, base_url="http://localhost", timeout=timeout_s, trust_env=False
        )

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        with self.client() as client:
            return Api(client).get(path)

    def ext(self, path: str) -> Any:  # noqa: ANN401 - JSON
        with self.client() as client:
            answer = client.get(EXT + path)
        assert answer.is_success, (path, answer.text)
        return answer.json()

    def objects(self, kind: str) -> list[Any]:
        """Return all objects of a kind of the contract's API."""
        with self.client() as client:
            api = Api(client)
            return [api.get(f"/{kind}/{each}") for each in api.get(f"/{kind}")]

    # --- making

    @property
    def komputes_path(self) -> str:
        place = self.place
        return f"/project/{place.project}/zone/{place.zone}/kompute?public=false"

    def kompute(self, name: str, **fields: Any) -> str:  # noqa: ANN401 - JSON
        """Make a small machine that runs; return its id."""
        with self.client() as client:
            return Api(client).post(self.komputes_path, **self.machine(name, **fields))

    @staticmethod
    def machine(name: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        """Return the body of a request for a small machine."""
        return {"name": name, "vcpus": 1, "memory": 128 * MIB, "disk": 64 * MIB, **fields}

    def serve(self, directory: Path) -> str:
        """Have the files of a directory served where the Kaktus is; return the URL."""
        log = self.directory / "images.log"
        self.libvirtd.run(
            "sh", "-c",
            '"$1" -u -m http.server --bind 127.0.0.1 --directory "$2" "$3" >"$4" 2>&1 &'
            ' until grep -q Serving "$4"; do sleep 0.02; done',
            "sh", sys.executable, directory, str(_IMAGES_PORT), log,
        )  # fmt: skip
        return f"http://127.0.0.1:{_IMAGES_PORT}"

    def furnish(self) -> None:
        """Make a region, a project, a pool with a template, and all that belongs to them."""
        images = self.directory / "images"
        images.mkdir()
        image = images / "guest.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
        asyncio.run(make_bootable(image, "qcow2"))
        source = f"{self.serve(images)}/{image.name}"
        with self.client() as client:
            setting = f"{EXT}/settings/templates.allowed_sources"
            allowed = client.put(setting, json={"value": "127.0.0.1"})
            assert allowed.is_success, allowed.text
            self.place = furnish_node(Api(client), self.pool, source)

    # --- judging

    def settle(self) -> None:
        """Wait until the agent is connected and no operation is under way."""
        until_now(self._is_settled, "no operation is under way", timeout_s=LIMIT_S)

    def _is_settled(self) -> bool:
        return not self._unfinished() and all(agent["sessions"] for agent in self.ext("/agents"))

    def _unfinished(self) -> list[Any]:
        found: list[Any] = self.ext("/operations?unfinished=true")
        return found

    def verify(self) -> list[str]:
        """Return what `kowabunga state verify` finds."""
        with self.client() as client:
            answer = client.post(f"{EXT}/state/verify")
        assert answer.is_success, answer.text
        findings: list[str] = answer.json()["findings"]
        return findings

    def remains(self) -> list[str]:
        """Return what is on the node of objects that are no more, and unfinished files."""
        existing = Existing(
            ids={each for kind in _OF_IMAGES for each in self.get(f"/{kind}")},
            macs={adapter["mac"] for adapter in self.objects("adapter")},
            bridges={vnet["interface"] for vnet in self.objects("vnet")},
        )
        return find_remains(self.libvirtd, (self.pool, self.state / "consoles"), existing)

    def assert_sound(self) -> None:
        """Every row has its thing, every thing its row, and no work is stuck; soon, if not now."""
        self.settle()
        end = time.monotonic() + LIMIT_S
        while findings := [*self.verify(), *self.remains(), *map(str, self._unfinished())]:
            assert time.monotonic() < end, "\n".join(findings)
            time.sleep(0.1)
            self.settle()


@contextmanager
def real_cloud() -> Generator[RealCloud]:
    """Run one until the end of the block, furnished and at rest."""
    with private_libvirtd() as libvirtd, _short_directory() as directory:
        # What /sys shows is the network of who mounts it.
        libvirtd.run("mount", "-t", "sysfs", "sysfs", "/sys")
        cloud = RealCloud(libvirtd, directory)
        cloud.kahuna.start()
        cloud.kaktus.start()
        cloud.furnish()
        yield cloud


@contextmanager
def _short_directory() -> Generator[Path]:
    """Make a directory with a short name: the sockets of consoles lie below it."""
    directory = Path(tempfile.mkdtemp(prefix="kwrc"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
