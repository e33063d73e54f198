import httpx
import pytest_asyncio

from appliance.api.services import Services
from tests.unit.api.v1.answers import check_answer
from tests.unit.api.v1.kinds import Api
from tests.unit.resources.samples import make_world


@pytest_asyncio.fixture
async def api(services: Services, master: httpx.AsyncClient) -> Api:
    master.event_hooks["response"].append(check_answer)
    return Api(master, services.store, await make_world(services.store))
