"""A Kompute made over REST on a real node, against the same machine made by hand, in turns.

By hand is what an administrator would type, in one shell: `qemu-img create` of a clone, a seed by
genisoimage, `virsh define` and `virsh start` of the definition that libvirt shows of ours, then
`virsh destroy` and `undefine`. The guest, of 128 bytes, boots after both have ended. Only ours has
quotas, placement, addresses, a filter of what guests send, and is on the disk when it is told done.
Both have a libvirtd, a network and processes of the bench's own.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from pycdlib.pycdlib import PyCdlib

from tests.bench.bench_memory import build
from tests.support.furnish import Api, furnish_node
from tests.support.libvirtd import Libvirtd, private_libvirtd
from tests.support.small_guest import make_bootable

_EXECUTABLE: Final = Path(__file__).resolve().parents[2] / "dist" / "kowabunga"
_MIB: Final = 2**20
_PAIRS: Final = 15
_SIZES: Final = {"vcpus": 1, "memory": 256 * _MIB, "disk": 2048 * _MIB}
_SEED: Final = ("meta-data", "network-config", "user-data")

_CREATE: Final = """
set -e
cd "$1"
qemu-img create -q -f qcow2 -b "$2" -F qcow2 hand.qcow2 "$3"
genisoimage -quiet -volid cidata -joliet -rock -o seed.iso seed
virsh -q -c "$4" define hand.xml
virsh -q -c "$4" start hand
"""
_DELETE: Final = """
set -e
cd "$1"
virsh -q -c "$2" destroy hand
virsh -q -c "$2" undefine hand
rm hand.qcow2 seed.iso
"""


def run() -> dict[str, float]:
    build()
    with private_libvirtd() as libvirtd, tempfile.TemporaryDirectory(prefix="kwb") as folder:
        place = _Place(libvirtd, Path(folder))
        place.start_node()
        try:
            with place.client() as client:
                return _measure(place, Api(client))
        finally:
            place.role("stop")


@dataclass(frozen=True, slots=True)
class _Place:
    """A node beside the libvirtd: in its network, its processes and its mounts."""

    libvirtd: Libvirtd
    directory: Path

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def pool(self) -> Path:
        return self.state / "pools" / "local"

    def start_node(self) -> None:
        # What /sys shows is the network of who mounts it.
        self.libvirtd.run("mount", "-t", "sysfs", "sysfs", "/sys")
        (self.directory / "node.yaml").write_text(
            f"state: {self.state}\nkahuna:\n  listen: 127.0.0.1:0\n"
            f"kaktus:\n  acceleration: tcg\n  libvirt_uri: {self.libvirtd.uri}\n"
        )
        self.role("set", "kahuna,kaktus")

    def role(self, *words: str) -> None:
        files = ("--config", self.directory / "node.yaml", "--runtime", self.directory / "run")
        unpacked = f"SHIV_ROOT={self.directory / 'unpacked'}"
        self.libvirtd.run("env", unpacked, _EXECUTABLE, "role", *words, *files)

    def client(self) -> httpx.Client:
        socket = self.state / "run" / "api.sock"
        transport = httpx.HTTPTransport(uds=str(socket))
        return httpx.Client(transport=transport, base_url="http://localhost", timeout=300)

    def serve(self, directory: Path) -> str:
        """Have the files of a directory served on the loopback, until libvirtd ends."""
        self.libvirtd.run(
            "sh", "-c",
            '"$3" -u -m http.server --bind 127.0.0.1 --directory "$1" 8000 >"$2" 2>&1 &'
            ' until grep -q Serving "$2"; do sleep 0.05; done',
            "sh", directory, self.directory / "http.log", sys.executable,
        )  # fmt: skip
        return "http://127.0.0.1:8000"


def _measure(place: _Place, api: Api) -> dict[str, float]:
    path, template = _furnish(place, api)
    # It goes on: a bridge that no Kompute needs would be removed below the one made by hand.
    api.post(path, name="pattern", **_SIZES)
    _prepare_by_hand(place)
    hand, uri = place.directory / "hand", place.libvirtd.uri
    times: dict[str, list[float]] = {}

    def took(name: str, since: float) -> None:
        times.setdefault(name, []).append(time.perf_counter() - since)

    for number in range(_PAIRS):  # in turns: the machine's mood meets both
        began = time.perf_counter()
        kompute = api.post(path, name=f"k{number}", **_SIZES)
        took("create", began)
        began = time.perf_counter()
        api.delete(f"/kompute/{kompute}")
        took("delete", began)
        began = time.perf_counter()
        place.libvirtd.run("sh", "-c", _CREATE, "sh", hand, template, str(_SIZES["disk"]), uri)
        took("create by hand", began)
        began = time.perf_counter()
        place.libvirtd.run("sh", "-c", _DELETE, "sh", hand, uri)
        took("delete by hand", began)
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {
        "create / by hand": medians["create"] / medians["create by hand"],
        "delete / by hand": medians["delete"] / medians["delete by hand"],
        **{f"{name} ms": seconds * 1e3 for name, seconds in medians.items()},
    }


def _furnish(place: _Place, api: Api) -> tuple[str, Path]:
    """Make what a Kompute needs; return the path to make one at, and the file of its template."""
    images = place.directory / "images"
    images.mkdir()
    image = images / "guest.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    asyncio.run(make_bootable(image, "qcow2"))
    source = f"{place.serve(images)}/{image.name}"
    allowed = api.client.put(
        "/api/ext/v1/settings/templates.allowed_sources", json={"value": "127.0.0.1"}
    )
    assert allowed.is_success, allowed.text

    made = furnish_node(api, place.pool, source)
    return (
        f"/project/{made.project}/zone/{made.zone}/kompute?public=false",
        place.pool / f"{made.template}.template.qcow2",
    )


def _prepare_by_hand(place: _Place) -> None:
    """Write the definition and the seed's files, as those of a Kompute that runs."""
    hand = place.directory / "hand"
    for made in (hand / "seed", hand / "sockets"):
        made.mkdir(parents=True)
    virsh = ("virsh", "-q", "-c", place.libvirtd.uri)
    (uuid,) = place.libvirtd.run(*virsh, "list", "--uuid").split()
    domain = ET.fromstring(place.libvirtd.run(*virsh, "dumpxml", "--inactive", uuid))
    for name in ("uuid", "metadata", "title", "description"):
        for child in domain.findall(name):
            domain.remove(child)
    for child in domain.findall("name"):
        child.text = "hand"
    for card in domain.iterfind("devices/interface"):
        _found(card, "target").set("dev", "hand0")
        _found(card, "mac").set("address", "52:54:00:00:00:01")
    for disk in domain.iterfind("devices/disk"):
        source = _found(disk, "source")
        seed = disk.get("device") == "cdrom" or source.get("file", "").endswith(".iso")
        if seed:
            _unpack_seed(Path(source.get("file", "")), hand / "seed")
        source.set("file", str(hand / ("seed.iso" if seed else "hand.qcow2")))
    definition = ET.tostring(domain, encoding="unicode")
    consoles = str(place.state / "consoles")
    (hand / "hand.xml").write_text(definition.replace(consoles, str(hand)))


def _found(parent: ET.Element, name: str) -> ET.Element:
    child = parent.find(name)
    assert child is not None
    return child


def _unpack_seed(medium: Path, directory: Path) -> None:
    iso = PyCdlib()
    iso.open(str(medium))
    for name in _SEED:
        with (directory / name).open("wb") as file:
            iso.get_file_from_iso_fp(file, joliet_path=f"/{name}")
    iso.close()
