"""docs/faults.md tells of exactly the faults that are tried."""

from pathlib import Path

import pytest

from tests.support.faults import faults_of, is_whole, missing_and_stale

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"
REPAIR = "write docs/faults.md anew: ./build.sh faults"


def test_the_page_has_a_row_for_each_fault(request: pytest.FixtureRequest) -> None:
    rows = {row for item in request.session.items for row in faults_of(item)}
    missing, stale = missing_and_stale(PAGE.read_text(encoding="utf-8"), rows)
    assert not missing, REPAIR
    if is_whole(request.config):
        assert not stale, REPAIR
