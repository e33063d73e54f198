"""A machine on disks without room: its disk, its seed and its definition, with real libvirt."""

from collections.abc import Generator

import httpx
import pytest

from tests.support.faults import What, Where, breaks
from tests.support.furnish import Api
from tests.support.real_cloud import RealCloud, real_cloud

pytestmark = pytest.mark.timeout(600)
FULL = breaks(
    What.DISK,
    "disk of a node full while a Kompute is made: before its disk, before its seed, before its"
    " definition",
    expected="refused as out of room, or with what libvirt says; nothing is left of it, machines"
    " that run go on; once there is space it is made",
    where=Where.NAMESPACE,
)


TOLD = {
    "disk": "qemu-img create: the pool has no room for it (delete templates",
    "seed": "the pool is full",
    "definition": "No space left on device (free",
}


@pytest.fixture(scope="module")
def cloud() -> Generator[RealCloud]:
    with real_cloud() as running:
        lay_on_small_disk(running, str(running.pool))
        lay_on_small_disk(running, "/etc/libvirt/qemu")
        yield running


def lay_on_small_disk(cloud: RealCloud, directory: str) -> None:
    """Move what is in a directory, for the node alone, to a small disk."""
    cloud.libvirtd.run(
        "sh", "-c",
        'mkdir -p "$1" && cp -a "$1" "$1.was" && mount -t tmpfs -o size=96m,mode=711 small "$1"'
        ' && cp -a "$1.was/." "$1" && rm -r "$1.was"',
        "sh", directory,
    )  # fmt: skip


def fill(cloud: RealCloud, directory: str, but: int = 0) -> None:
    cloud.libvirtd.run(
        "sh", "-c",
        'cat /dev/zero > "$1/hog" 2>/dev/null || :; truncate -s "-$2" "$1/hog"',
        "sh", directory, str(but),
    )  # fmt: skip


def relieve(cloud: RealCloud, directory: str) -> None:
    cloud.libvirtd.run("rm", f"{directory}/hog")


@FULL
@pytest.mark.parametrize("lacking", TOLD)
def test_a_machine_without_room_leaves_nothing(cloud: RealCloud, lacking: str) -> None:
    place = "/etc/libvirt/qemu" if lacking == "definition" else str(cloud.pool)
    fill(cloud, place, but=260 * 1024 if lacking == "seed" else 0)
    with cloud.client() as client:
        answer = create(client, cloud, lacking)
        assert answer.status_code == 507
        assert TOLD[lacking] in answer.json()["reason"]
        cloud.assert_sound()
        assert client.get("/api/v1/kompute").json() == []
        relieve(cloud, place)
        made = create(client, cloud, lacking)
        assert made.status_code == 201, made.text
        cloud.assert_sound()
        Api(client).delete(f"/kompute/{made.json()['id']}")
        cloud.assert_sound()


def create(client: httpx.Client, cloud: RealCloud, name: str) -> httpx.Response:
    return client.post(f"/api/v1{cloud.komputes_path}", json=cloud.machine(name))
