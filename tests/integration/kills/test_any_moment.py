"""kill -9 at any moment: in the midst of a driver's call too, not only where a step ends."""

import random
import time

import pytest

from tests.integration.kills.machines import (
    CREATE,
    DELETE,
    RESIZE,
    Meanwhile,
    assert_as_told,
    assert_clean,
)
from tests.support.faults import What, Where, breaks
from tests.support.real_cloud import RealCloud

pytestmark = pytest.mark.timeout(3600)
_ROUNDS = 40
_LATEST_S = 1.5


@breaks(
    What.PROCESS,
    "agent, Kahuna or both killed (-9) at any moment while machines come, grow and go",
    expected="what was acknowledged is so; the rest has happened, or not at all",
    where=Where.NAMESPACE,
    long=True,
)
def test_any_moment_is_as_good_as_another(cloud: RealCloud) -> None:
    chance = random.Random()
    for _ in range(_ROUNDS):
        change = chance.choice([RESIZE, DELETE]) if cloud.objects("kompute") else CREATE
        victims = chance.choice([[cloud.kaktus], [cloud.kahuna], [cloud.kahuna, cloud.kaktus]])
        asked = Meanwhile(cloud, change)
        time.sleep(chance.uniform(0, _LATEST_S))  # not to wait for anything: any moment will do
        for victim in victims:
            victim.kill()
        for victim in victims:
            victim.start(wait=victim is victims[-1])
        answer = asked.answer()
        if answer is not None:
            assert answer.is_success, answer.text
        assert_as_told(cloud)
        if answer is not None:
            assert change.is_so(cloud.objects("kompute"))
    assert_clean(cloud)
