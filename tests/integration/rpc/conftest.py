"""Kahunas for tests of the agent protocol on real sockets."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.integration.rpc.harness import Kahuna
from tests.support.far_cloud import FarCloud, far_cloud


@pytest.fixture
def kahuna(tmp_path: Path) -> Kahuna:
    return Kahuna(tmp_path)


@pytest.fixture
def plain(tmp_path: Path) -> Kahuna:
    return Kahuna(tmp_path, tls=False)


@pytest.fixture(scope="package")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Generator[FarCloud]:
    """Run a Kahuna and four agents as processes, for all tests that break the wires between."""
    with far_cloud(tmp_path_factory.mktemp("far"), 4, latency_s=0.2) as cloud:
        yield cloud
