"""A machine on disks without room: its disk, its seed and its definition, with real libvirt."""

from collections.abc import Generator

import httpx
import pytest

from tests.support.faults import What, Where, breaks
from tests.support.furnish import Api
from tests.support.real_cloud import MIB, RealCloud, real_cloud
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(600)
FULL = breaks(
    What.DISK,
    "disk of a node full while a Kompute is made: before its disk, before its seed, before its"
    " definition",
    expected="refused as out of room, or with what libvirt says; nothing is left of it, machines"
    " that run go on; once there is space it is made",
    where=Where.NAMESPACE,
)


# Boots, and writes 32 KiB after 32 KiB to its disk until the BIOS finds its end.
WRITER = bytes.fromhex(
    "31c0 8ed8 8ed0 bc007c fb"  # ds = ss = 0, stack below the code
    "be1c7c b80043 b280 cd13"  # write what the packet below tells: INT 13h, AH=43h
    "668306247c40 ebee"  # 64 sectors on; again
    "1000 4000 007c 0000 4000000000000000"  # 64 sectors from 0:7c00 to sector 64
).ljust(510, b"\0") + bytes.fromhex("55aa")
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


@breaks(
    What.DISK,
    "disk of a node filled by a guest that writes",
    expected="the guest is stopped before anything is lost and an alarm tells it; it goes on by"
    " itself once there is room",
    where=Where.NAMESPACE,
)
def test_a_guest_that_fills_its_pool_is_stopped_and_goes_on(cloud: RealCloud) -> None:
    image = cloud.directory / "images" / "writer.raw"
    image.write_bytes(WRITER.ljust(2**20, b"\0"))
    place = str(cloud.pool)
    with cloud.client() as client:
        api = Api(client)
        source = f"http://127.0.0.1:8000/{image.name}"
        template = api.post(f"/pool/{cloud.place.pool}/template", name="writer", source=source)
        fill(cloud, place, but=8 * MIB)
        body = cloud.machine("writer")
        answer = client.post(f"/api/v1{cloud.komputes_path}&templateId={template}", json=body)
        assert answer.status_code == 201, answer.text
        kompute = answer.json()["id"]
        until_now(
            lambda: "I/O Error" in api.get(f"/kompute/{kompute}/state")["reason"],
            "it stands still",
            timeout_s=300,
        )
        until_now(lambda: bool(cloud.ext("/alarms")), "an alarm is raised", timeout_s=300)
        assert {alarm["kind"] for alarm in cloud.ext("/alarms")} == {"guest_stopped_by_disk"}
        relieve(cloud, place)
        cloud.kaktus.kill()
        cloud.kaktus.start()  # it is looked at when it comes, and every few minutes
        until_now(
            lambda: api.get(f"/kompute/{kompute}/state")["state"] == "Running",
            "it goes on",
            timeout_s=300,
        )
        cloud.assert_sound()
        api.delete(f"/kompute/{kompute}")
        api.delete(f"/template/{template}")
        cloud.assert_sound()


def create(client: httpx.Client, cloud: RealCloud, name: str) -> httpx.Response:
    return client.post(f"/api/v1{cloud.komputes_path}", json=cloud.machine(name))
