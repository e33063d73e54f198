"""docs/access.md says what the routes declare."""

from pathlib import Path

from appliance.api.access_page import access_page
from appliance.api.app import create_app
from appliance.api.services import Services

PAGE = Path(__file__).parents[3] / "docs" / "access.md"


async def test_the_page_is_what_the_routes_declare(services: Services) -> None:
    page = access_page(create_app(services))
    assert PAGE.read_text(encoding="utf-8") == page, "run: ./build.sh docs"
    for row in (
        "| `POST /api/v1/login` | A |",
        "| `GET /api/v1/region` | B |",
        "| `PUT /api/v1/user/{userId}` | C |",
        "| `PATCH /api/v1/kompute/{komputeId}/start` | D |",
        "| `DELETE /api/v1/kompute/{komputeId}` | E |",
        "| `POST /api/ext/v1/state/verify` | F |",
    ):
        assert row in page
