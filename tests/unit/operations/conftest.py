from collections.abc import AsyncGenerator
from pathlib import Path

import pytest_asyncio

from tests.unit.operations.lab import Lab, a_lab


@pytest_asyncio.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[Lab]:
    async with a_lab(tmp_path) as made:
        yield made
