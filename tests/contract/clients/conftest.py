from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest_asyncio

from tests.contract.clients.terraform import Terraform
from tests.support.simulation import simulation
from tests.unit.api.v1.answers import check_answer


@pytest_asyncio.fixture
async def terraform(tmp_path: Path) -> AsyncGenerator[Terraform]:
    with simulation(tmp_path) as server:
        key = server.key_file.read_text(encoding="ascii").strip()
        async with httpx.AsyncClient(
            base_url=server.url,
            headers={"x-api-key": key, "accept": "application/json"},
            timeout=60.0,
            trust_env=False,
            event_hooks={"response": [check_answer]},
        ) as client:
            yield Terraform(client)
