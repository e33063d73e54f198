"""One cloud for all tests of kills: each leaves it sound."""

from collections.abc import Generator

import pytest

from tests.support.real_cloud import RealCloud, real_cloud


@pytest.fixture(scope="package")
def shared_cloud() -> Generator[RealCloud]:
    with real_cloud() as cloud:
        yield cloud


@pytest.fixture
def cloud(shared_cloud: RealCloud) -> Generator[RealCloud]:
    yield shared_cloud
    for process in (shared_cloud.kahuna, shared_cloud.kaktus):
        print(process.told())  # shown if the test failed
