"""One cloud for all tests of kills: each leaves it sound."""

from collections.abc import Generator

import pytest

from tests.support.real_cloud import RealCloud, real_cloud


@pytest.fixture(scope="session")
def cloud() -> Generator[RealCloud]:
    with real_cloud() as cloud:
        yield cloud
