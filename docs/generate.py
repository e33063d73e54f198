"""Write the pages of docs/ that are made from the code: `./build.sh docs`."""

from pathlib import Path
from typing import Final

from appliance.api.access_page import access_page
from appliance.api.app import create_app
from appliance.api.services import Services
from appliance.model.reference import example, reference_page

DOCS: Final = Path(__file__).resolve().parent


def main() -> None:
    app = create_app(object.__new__(Services))  # only its routes are looked at
    (DOCS / "access.md").write_text(access_page(app), encoding="utf-8")
    (DOCS / "node.md").write_text(reference_page(), encoding="utf-8")
    (DOCS / "node.example.yaml").write_text(example(), encoding="utf-8")


if __name__ == "__main__":
    main()
