"""A backup of a running Kahuna, restored under guests that know nothing of it; all is real."""

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from tests.support.faults import What, Where, breaks
from tests.support.real_cloud import EXT, RealCloud, real_cloud
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(900)
_UNKNOWN: Final = {
    "a domain that no instance has",
    "a volume image of nobody",
    "a seed image of nobody",
    "no instance here needs bridge br0",  # it stays with the domain
}


@pytest.fixture(scope="module")
def cloud() -> Generator[RealCloud]:
    with real_cloud() as cloud:
        yield cloud


def kowabunga(*arguments: str | Path) -> str:
    """Run the command line on the node; return what it says."""
    command = [sys.executable, "-m", "appliance", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def instance_of(cloud: RealCloud, name: str) -> str:
    (found,) = (each["id"] for each in cloud.objects("instance") if each["name"] == name)
    return str(found)


def qemu_of(cloud: RealCloud, instance: str) -> str:
    """Return the process of a guest, as its namespace counts."""
    pids = cloud.libvirtd.run("pgrep", "-f", f"guest={instance}").split()
    assert len(pids) == 1
    return pids[0]


@breaks(
    What.DATABASE,
    "a backup is restored under guests of which it knows one and not the other",
    expected="both go on; the unknown one is reported and never touched, the known one is"
    " commanded as before",
    where=Where.NAMESPACE,
)
def test_guests_go_on_under_a_restored_kahuna(cloud: RealCloud) -> None:
    file = cloud.directory / "backup.db"
    old = cloud.kompute("old")
    gone = cloud.kompute("gone")
    kowabunga("state", "backup", file, "--state", cloud.state)
    new = cloud.kompute("new")
    with cloud.client() as client:
        for act in ("stop", "start"):  # commands that the agent has seen, and the backup has not
            assert client.patch(f"/api/v1/kompute/{old}/{act}").is_success
        assert client.delete(f"/api/v1/kompute/{gone}").is_success
    instances = [instance_of(cloud, name) for name in ("old", "new")]
    before = [qemu_of(cloud, instance) for instance in instances]

    cloud.kahuna.stop()
    told = kowabunga("state", "restore", file, "--state", cloud.state)
    assert "with 2 machines" in told
    cloud.kahuna.start()
    cloud.settle()

    def reported() -> set[str]:
        return {alarm["target"] for alarm in cloud.ext("/alarms") if "unknown" in alarm["kind"]}

    until_now(lambda: f"instance/{instances[1]}" in reported(), "what is unknown is reported")
    assert [qemu_of(cloud, instance) for instance in instances] == before
    assert new not in cloud.get("/kompute")
    with cloud.client() as client:
        assert client.delete(f"/api/v1/kompute/{gone}").is_success  # it believed in it
        for act in ("stop", "start"):
            answer = client.patch(f"/api/v1/kompute/{old}/{act}")
            assert answer.is_success, answer.text
        assert client.delete(f"/api/v1/kompute/{old}").is_success
    cloud.settle()

    def findings() -> set[str]:
        return {finding.partition(": ")[2] for finding in cloud.verify()}

    until_now(lambda: findings() == _UNKNOWN, "all that is known is as it should be")
    assert qemu_of(cloud, instances[1]) == before[1]
    with cloud.client() as client:
        assert client.get(f"{EXT}/operations?unfinished=true").json() == []
