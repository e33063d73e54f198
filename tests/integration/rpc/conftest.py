"""Kahunas for tests of the agent protocol on real sockets."""

from pathlib import Path

import pytest

from tests.integration.rpc.harness import Kahuna


@pytest.fixture
def kahuna(tmp_path: Path) -> Kahuna:
    return Kahuna(tmp_path)


@pytest.fixture
def plain(tmp_path: Path) -> Kahuna:
    return Kahuna(tmp_path, tls=False)
