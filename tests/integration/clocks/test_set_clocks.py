"""A cloud on a machine whose clock is set, while it runs and between its lives."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.faults import What, Where, breaks
from tests.support.furnish import GIB, Api, Furnished, furnish
from tests.support.simulation import Simulated, simulation
from tests.support.wait import until_now
from tests.support.wrong_clock import set_clock

HOUR = 3600.0
YEAR = 366 * 24 * HOUR
EXT = "/api/ext/v1"
NODES = 2


class Machine:
    """The machine that the cloud runs on, and its clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = directory / "clock"
        self.set(0)

    def set(self, ahead_s: float) -> None:
        set_clock(self.clock, ahead_s)

    def run(self) -> AbstractContextManager[Simulated]:
        program = ("tests.support.wrong_clock", str(self.clock))
        return simulation(self.directory, nodes=NODES, program=program)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def kompute(api: Api, place: Furnished, name: str) -> str:
    return api.post(
        f"/project/{place.project}/zone/{place.zone}/kompute",
        name=name,
        vcpus=1,
        memory=GIB,
        disk=2 * GIB,
    )


def operations(api: Api) -> list[str]:
    """Return the ids of all operations, the newest first."""
    answer = api.client.get(f"{EXT}/operations", params={"limit": 1000})
    assert answer.is_success, answer.text
    return [each["id"] for each in answer.json()]


def until_sound(api: Api) -> None:
    """Wait until all nodes are there and every row has its thing, and every thing its row."""

    def is_sound() -> bool:
        told = api.client.post(f"{EXT}/state/verify").json()
        return not told["findings"]

    until_now(is_sound, "the state is sound", timeout_s=60)


def live_a_little(api: Api, place: Furnished, name: str) -> None:
    """Make a machine, stop and start it, and remove it; what was done is told, the newest first."""
    made = kompute(api, place, name)
    api.patch(f"/kompute/{made}/stop")
    api.patch(f"/kompute/{made}/start")
    assert api.get(f"/kompute/{made}/state")["state"] == "Running"
    console = api.client.post(f"{EXT}/komputes/{made}/console", params={"kind": "serial"})
    assert console.is_success, console.text
    before = operations(api)
    api.delete(f"/kompute/{made}")
    last, *others = operations(api)
    assert others == before
    assert last not in before


@breaks(
    What.CLOCK,
    "the clock of a machine is set a year ahead, then an hour back, while it makes machines",
    expected="everything goes on; nothing is forgotten, deleted or left over",
    where=Where.HOST,
)
def test_a_clock_that_is_set_while_the_cloud_runs_stops_and_loses_nothing(
    machine: Machine,
) -> None:
    with machine.run() as running, running.client() as client:
        api = Api(client)
        place = furnish(api)
        kept = kompute(api, place, "kept")
        for number, ahead_s in enumerate((YEAR, -HOUR, 0)):
            before = operations(api)
            machine.set(ahead_s)
            live_a_little(api, place, f"m{number}")
            assert operations(api)[-len(before) :] == before
            until_sound(api)
        assert api.get(f"/kompute/{kept}/state")["state"] == "Running"


@breaks(
    What.CLOCK,
    "a cloud starts with a clock a year ahead, then with one an hour back",
    expected="all is there, all nodes come back, and nothing is forgotten or deleted",
    where=Where.HOST,
)
def test_a_cloud_that_starts_under_a_wrong_clock_has_lost_nothing(machine: Machine) -> None:
    with machine.run() as running, running.client() as client:
        api = Api(client)
        place = furnish(api)
        kept = [kompute(api, place, "kept")]
        before = operations(api)
    for number, ahead_s in enumerate((YEAR, -HOUR)):
        machine.set(ahead_s)
        with machine.run() as running, running.client() as client:
            api = Api(client)
            until_sound(api)
            assert api.get("/kompute") == kept
            assert operations(api)[-len(before) :] == before
            live_a_little(api, place, f"m{number}")
            kept.append(kompute(api, place, f"kept-{number}"))
            assert api.get("/kompute") == kept  # in the order of their making
            before = operations(api)
            until_sound(api)
