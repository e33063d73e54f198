import re

from appliance.core.clock import SystemClock
from appliance.core.ids import ID_PATTERN, IdFactory


class _StoppedClock(SystemClock):
    def __init__(self, now_ms: int) -> None:
        self.at_ms = now_ms

    def now_ms(self) -> int:
        return self.at_ms


def test_ids_are_24_hex_digits_unique_and_rising() -> None:
    make = IdFactory(SystemClock())
    ids = [make() for _ in range(2000)]
    assert all(re.match(ID_PATTERN, made) for made in ids)
    assert ids == sorted(set(ids))


def test_ids_keep_rising_when_the_clock_jumps_back_an_hour() -> None:
    clock = _StoppedClock(2_000_000_000_000)
    make = IdFactory(clock)
    before = make()
    clock.at_ms -= 3_600_000
    assert make() > before


def test_ids_follow_one_of_a_time_to_come() -> None:
    make = IdFactory(_StoppedClock(2_000_000_000_000))
    newest = IdFactory(_StoppedClock(2_100_000_000_000))()
    make.follow(newest)
    ids = [make() for _ in range(100)]
    assert ids == sorted(ids)
    assert newest < ids[0]
    assert all(re.match(ID_PATTERN, made) for made in ids)
    make.follow("0" * 24)
    assert make() > ids[-1]
