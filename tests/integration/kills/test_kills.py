"""kill -9 of agent and Kahuna in the steps of a machine's life: what was asked for is done.

Each process dies exactly where the test says and is started again, as its supervisor would, to die
at the next place, until the operation is through.
"""

from collections.abc import Sequence

import pytest

from tests.integration.kills.machines import (
    CREATE,
    DELETE,
    RESIZE,
    Change,
    Meanwhile,
    assert_as_told,
    assert_clean,
    deletion,
)
from tests.integration.kills.points import (
    CREATE_CALLS,
    CREATE_COMMITS,
    DELETE_CALLS,
    DELETE_COMMITS,
    RESIZE_CALLS,
    RESIZE_COMMITS,
)
from tests.support.faults import What, Where, breaks
from tests.support.real_cloud import RealCloud

pytestmark = pytest.mark.timeout(900)


def _some(who: str, change: Change, points: Sequence[str]) -> object:
    mark = breaks(
        What.PROCESS,
        f"{who} killed (-9), started and killed again while a machine is {change.about}",
        expected="the work goes on where it was and ends as asked",
        where=Where.NAMESPACE,
    )
    return pytest.param(change, points, id=change.about, marks=mark)


def _all(who: str, change: Change, points: Sequence[str]) -> list[object]:
    mark = breaks(
        What.PROCESS,
        f"{who} killed (-9) at each single point while a machine is {change.about}",
        expected="the work goes on where it was and ends as asked",
        where=Where.NAMESPACE,
        long=True,
    )
    return [pytest.param(change, (point,), id=point, marks=mark) for point in points]


@pytest.mark.parametrize(
    ("change", "calls"),
    [
        _some("agent", CREATE, CREATE_CALLS[2::4]),
        _some("agent", RESIZE, RESIZE_CALLS[2::4]),
        _some("agent", DELETE, DELETE_CALLS[2::2]),
        *_all("agent", CREATE, CREATE_CALLS),
        *_all("agent", RESIZE, RESIZE_CALLS),
        *_all("agent", DELETE, DELETE_CALLS),
    ],
)
def test_a_change_survives_an_agent_that_dies(
    cloud: RealCloud, change: Change, calls: Sequence[str]
) -> None:
    change.prepare(cloud)
    cloud.kaktus.die_at(calls[0])
    asked = Meanwhile(cloud, change)
    for call in (*calls[1:], None):
        cloud.kaktus.until_dead()
        cloud.kaktus.start(die_at=call)
    answer = asked.answer()
    assert answer is not None
    assert answer.is_success, answer.text
    assert change.is_so(cloud.objects("kompute"))
    assert_as_told(cloud)
    assert_clean(cloud)


@pytest.mark.parametrize(
    ("change", "commits"),
    [
        _some("Kahuna", CREATE, CREATE_COMMITS[0::8]),
        *_all("Kahuna", CREATE, CREATE_COMMITS),
        *_all("Kahuna", RESIZE, RESIZE_COMMITS),
        *_all("Kahuna", DELETE, DELETE_COMMITS),
    ],
)
def test_a_change_survives_a_kahuna_that_dies(
    cloud: RealCloud, change: Change, commits: Sequence[str]
) -> None:
    change.prepare(cloud)
    cloud.kahuna.die_at(commits[0])
    asked = Meanwhile(cloud, change)
    for commit in (*commits[1:], None):
        cloud.kahuna.until_dead()
        cloud.kahuna.start(die_at=commit)
    assert asked.answer() is None
    assert_as_told(cloud)
    assert change.is_so(cloud.objects("kompute"))
    assert_clean(cloud)


@pytest.mark.parametrize(
    ("change", "commits"),
    [
        _some("Kahuna and agent", CREATE, CREATE_COMMITS[2::5]),
        _some("Kahuna and agent", DELETE, DELETE_COMMITS[2::3]),
        *_all("Kahuna and agent", CREATE, CREATE_COMMITS),
        *_all("Kahuna and agent", RESIZE, RESIZE_COMMITS),
        *_all("Kahuna and agent", DELETE, DELETE_COMMITS),
    ],
)
def test_a_change_survives_the_death_of_both(
    cloud: RealCloud, change: Change, commits: Sequence[str]
) -> None:
    change.prepare(cloud)
    cloud.kahuna.die_at(commits[0])
    asked = Meanwhile(cloud, change)
    for commit in (*commits[1:], None):
        cloud.kahuna.until_dead()
        cloud.kaktus.kill()
        cloud.kaktus.start(wait=False)
        cloud.kahuna.start(die_at=commit)
    assert asked.answer() is None
    assert_as_told(cloud)
    assert change.is_so(cloud.objects("kompute"))
    assert_clean(cloud)


@breaks(
    What.PROCESS,
    "Kahuna killed (-9) before it has written what was asked for",
    expected="nothing has happened; asking again works",
    where=Where.NAMESPACE,
)
def test_what_was_not_written_has_not_happened(cloud: RealCloud) -> None:
    cloud.kahuna.die_at("submit kompute_create before")
    asked = Meanwhile(cloud, CREATE)
    cloud.kahuna.until_dead()
    assert asked.answer() is None
    cloud.kahuna.start()
    assert_as_told(cloud)
    assert not CREATE.is_so(cloud.objects("kompute"))
    answer = Meanwhile(cloud, CREATE).answer()
    assert answer is not None
    assert answer.is_success, answer.text
    assert_as_told(cloud)
    assert_clean(cloud)


@breaks(
    What.PROCESS,
    "agent killed (-9) while a machine is made that is deleted meanwhile, and while that is undone",
    expected="nothing of the machine is left",
    where=Where.NAMESPACE,
)
def test_what_was_half_made_is_undone(cloud: RealCloud) -> None:
    cloud.kaktus.die_at("compute.ensure_domain after")
    asked = Meanwhile(cloud, CREATE)
    cloud.kaktus.until_dead()
    (operation,) = cloud.ext("/operations?unfinished=true")
    (kompute,) = [each for each in operation["targets"] if each.startswith("kompute/")]
    undone = Meanwhile(cloud, deletion(kompute.removeprefix("kompute/")))
    for call in ("compute.ensure_domain_absent after", "storage.ensure_image_absent before", None):
        cloud.kaktus.start(die_at=call)
        if call is not None:
            cloud.kaktus.until_dead()
    made, deleted = asked.answer(), undone.answer()
    assert made is not None
    assert deleted is not None
    assert (made.status_code, deleted.status_code) == (409, 200), (made.text, deleted.text)
    assert "withdrawn" in made.json()["reason"]
    assert not cloud.objects("kompute")
    assert_clean(cloud)
