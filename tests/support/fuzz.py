"""What fuzzers share: how long they run, texts that have broken programs before, and JSON."""

from collections.abc import Callable
from typing import Final, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.faults import LONG

T = TypeVar("T")
Test = TypeVar("Test", bound=Callable[..., object])

_LONGER: Final = 50  # times, with --long


def budget(examples: int) -> Callable[[Test], Test]:
    """Try so many examples, the same ones each time; with --long many more, others each time."""
    bounds = settings(
        max_examples=examples * (_LONGER if LONG else 1),
        derandomize=not LONG,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: for_long(bounds(test))


def for_long(test: Test) -> Test:
    """Give a test the time that it needs with --long."""
    return pytest.mark.timeout(3600)(test) if LONG else test


def examples(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """Return what a fuzzer of this budget would try, for tests that try it all in one go."""
    found: list[T] = []

    @budget(count)
    @given(strategy)
    def collect(one: T) -> None:
        found.append(one)

    collect()
    return found


# Each is data to us, and something else to a shell, a parser, a terminal or a template.
NASTY: Final = (
    "",
    " ",
    "-rf",
    "--help",
    "~",
    "null",
    "no",
    "0x10",
    "012",
    "1e400",
    "9" * 5000,
    ".nan",
    "2001-99-99",
    "$(touch /tmp/owned)",
    "`id`",
    "a; reboot #",
    "a' OR '1'='1'; DROP TABLE kompute; --",
    'a"/><!--]]>&amp;&#0;<x/>',
    "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>&a;",
    "a: b",
    "- a",
    "a\nruncmd: [reboot]",
    "a\r\nSet-Cookie: x=y",
    "!!python/object/apply:os.system [id]",
    "*alias",
    "&anchor a",
    "%TAG ! tag:x,2000:",
    "{{ ds.meta_data }}",
    "${jndi:ldap://x}",
    "%s%n%d{0}",
    "../../etc/passwd",
    "a/b\\c",
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m",
    "\x00",
    "a\x00b",
    "\x7f",
    "\x85",
    "\u2028",
    "\u202egnp.exe",
    "a\u200bb",
    "\ufeff",
    "\ufffe",
    "e\u0301",
    "e" + "\u0301" * 50,
    "ﬁ",
    "İ",
    "٣",
    "\U0001f3c4\u200d\u2642",
    "\U000e0041",
    "\U0010ffff",
    "x" * 300,
)  # fmt: skip

TEXTS: Final = st.sampled_from(NASTY) | st.text(max_size=20)

JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from((-1, 0, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1))
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
