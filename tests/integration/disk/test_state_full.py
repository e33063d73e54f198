"""A Kahuna whose state lies on a disk that is full, read-only or not permitted."""

import itertools
import os
import threading
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from tests.support.faults import What, Where, breaks
from tests.support.furnish import GIB, Api, furnish
from tests.support.simulation import Simulated, simulation
from tests.support.small_disk import SmallDisk, failing_disk, small_disk
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(600)
EXT = "/api/ext/v1"
LIMIT_S = 300.0
FULL_WHILE_COMMITTING = breaks(
    What.DISK,
    "disk of Kahuna's state full while it commits",
    expected="503 that names the file and the next step; reads go on; once there is space all goes"
    " on by itself, nothing that was answered is lost",
    where=Where.HOST,
)


@pytest.fixture
def disk(tmp_path: Path) -> Generator[SmallDisk]:
    with small_disk(tmp_path / "state", "24m") as mounted:
        yield mounted


@pytest.fixture
def served(tmp_path: Path, disk: SmallDisk) -> Generator[Simulated]:
    assert disk.path == tmp_path / "state"
    with simulation(tmp_path, nodes=2) as running:
        yield running


def refused(answer: httpx.Response, place: str, step: str) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"]
    reason = answer.json()["reason"]
    assert place in reason, reason
    assert step in reason, reason


def assert_sound(client: httpx.Client) -> None:
    """Wait until no operation works on anything, then look."""
    until_now(lambda: not unfinished(client), "all operations end", timeout_s=LIMIT_S)
    found = client.post(f"{EXT}/state/verify").json()
    assert found == {"findings": []}


def assert_tidy(names: list[str], served: Simulated) -> None:
    assert not [name for name in names if name.rpartition("/")[2].startswith(".")]
    assert served.process.poll() is None
    assert "Traceback" not in served.log.read_text()


def unfinished(client: httpx.Client) -> list[str]:
    operations = client.get(f"{EXT}/operations", params={"unfinished": True}).json()
    return [operation["id"] for operation in operations]


def create_team(client: httpx.Client, number: int) -> httpx.Response:
    return client.post("/api/v1/team", json={"name": f"team-{number}", "users": []})


@FULL_WHILE_COMMITTING
def test_what_was_answered_is_kept_and_the_rest_refused(served: Simulated, disk: SmallDisk) -> None:
    with served.client(LIMIT_S) as client:
        kept = {create_team(client, 0).json()["id"]}
        disk.fill()
        for number in range(1, 5000):
            answer = create_team(client, number)
            if answer.status_code != 201:
                break
            kept.add(answer.json()["id"])
        refused(answer, f"{disk.path}/state.db", "free some space")
        assert set(client.get("/api/v1/team").json()) == kept
        assert client.get("/healthz").status_code == 200
        assert client.post(f"{EXT}/state/verify").json() == {"findings": []}
        disk.relieve()
        kept.add(create_team(client, 5000).json()["id"])
        assert set(client.get("/api/v1/team").json()) == kept
        assert_sound(client)
    assert_tidy(disk.names(), served)


@FULL_WHILE_COMMITTING
def test_komputes_under_way_are_made_or_undone_once_there_is_space(
    served: Simulated, disk: SmallDisk
) -> None:
    """Clients create and delete all the time, while the disk fills up and is freed, twice."""
    made: set[str] = set()
    deleted: set[str] = set()
    unexpected: list[str] = []
    enough = threading.Event()

    def work(name: str, project: str, zone: str) -> None:
        with served.client(LIMIT_S) as client:
            number = 0
            while not enough.is_set():
                number += 1
                body = {"name": f"{name}-{number}", "memory": GIB, "vcpus": 1, "disk": 4 * GIB}
                path = f"/api/v1/project/{project}/zone/{zone}/kompute"
                answer = client.post(path, json=body)
                if answer.status_code not in (201, 503, 504):
                    unexpected.append(answer.text)
                if answer.status_code != 201:
                    continue
                kompute_id = answer.json()["id"]
                made.add(kompute_id)
                if number % 2:
                    gone = client.delete(f"/api/v1/kompute/{kompute_id}")
                    if gone.is_success:
                        deleted.add(kompute_id)
                    elif gone.status_code not in (503, 504):
                        unexpected.append(gone.text)
                    else:
                        made.discard(kompute_id)  # whatever became of it

    numbers = itertools.count()
    with served.client(LIMIT_S) as client:
        furnished = furnish(Api(client))
        workers = [
            threading.Thread(target=work, args=(f"k{number}", furnished.project, furnished.zone))
            for number in range(4)
        ]
        for worker in workers:
            worker.start()
        try:
            for _ in range(2):
                before = len(made)
                until_now(
                    lambda: len(made) > before + 4,  # noqa: B023
                    "Komputes are made",
                    timeout_s=LIMIT_S,
                )
                disk.fill()
                until_now(
                    lambda: create_team(client, next(numbers)).status_code == 503,
                    "it is full",
                    timeout_s=LIMIT_S,
                )
                disk.relieve()
        finally:
            enough.set()
            for worker in workers:
                worker.join()
        assert not unexpected
        assert_sound(client)
        there = set(client.get("/api/v1/kompute").json())
        assert made - deleted <= there
        assert not deleted & there


@breaks(
    What.DISK,
    "disk of Kahuna's state becomes read-only while it runs",
    expected="503 or 504 that names the file and the next step; reads go on; once the disk is"
    " mounted anew a start finds all that was answered",
    where=Where.HOST,
)
def test_a_disk_that_becomes_read_only_loses_nothing(tmp_path: Path) -> None:
    with failing_disk(tmp_path / "state", tmp_path / "disk.img") as disk:
        with simulation(tmp_path) as served, served.client(LIMIT_S) as client:
            kept = {create_team(client, number).json()["id"] for number in range(20)}
            disk.fail()
            refusals = [create_team(client, number) for number in range(20, 25)]
            assert {answer.status_code for answer in refusals} <= {503, 504}
            for answer in refusals:
                assert "state.db" in answer.json()["reason"]
                assert "check the disk" in answer.json()["reason"]
            assert set(client.get("/api/v1/team").json()) == kept
            assert client.post(f"{EXT}/state/verify").json() == {"findings": []}
        disk.mend()
        with simulation(tmp_path) as served, served.client(LIMIT_S) as client:
            found = set(client.get("/api/v1/team").json())
            assert kept <= found
            # Of those whose outcome was unknown, some may be there.
            assert len(found - kept) <= sum(answer.status_code == 504 for answer in refusals)
            create_team(client, 30).raise_for_status()
            assert_sound(client)


@breaks(
    What.DISK,
    "state directory given to another user while Kahuna runs",
    expected="what is open stays in use; nothing is lost",
    where=Where.HOST,
)
def test_a_directory_that_is_taken_away_stays_in_use(served: Simulated, disk: SmallDisk) -> None:
    with served.client(LIMIT_S) as client:
        disk.path.chmod(0)
        os.chown(disk.path, 65534, 65534)
        answers = [create_team(client, number) for number in range(20)]
        assert {answer.status_code for answer in answers} == {201}
        os.chown(disk.path, 0, 0)
        disk.path.chmod(0o700)
        assert_sound(client)
