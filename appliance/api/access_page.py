"""docs/access.md: which role may call which route, from what the routes declare."""

from collections.abc import Iterator
from typing import Final

from litestar import Litestar
from litestar.routes import HTTPRoute

from appliance.api.guards import ALLOW
from appliance.model.access import Allow

_HEAD: Final = """\
# Who may do what

A user has one role, and works in the projects of their teams. Each route declares what it needs,
and at each request that is compared with the rows as they are then: a role that was taken away, a
team that was left, a key that was revoked count from the next request on. The first object in the
path decides; one of another project and one that does not exist are refused alike (403). The master
key, and root on the node of a Kahuna, may do what a superAdmin may. This page is generated
(`./build.sh docs`).

| | needs | anybody | any user | in the project: `user` | `projectAdmin` | `superAdmin` |
|---|---|---|---|---|---|---|
| A | no credential | yes | yes | yes | yes | yes |
| B | to be known | | yes | yes | yes | yes |
| C | to be the user in the path | | themselves | themselves | themselves | yes |
| D | a team of the project | | | yes | yes | yes |
| E | to be an admin of the project | | | | yes | yes |
| F | to be a super administrator | | | | | yes |

Quotas, teams and regions of a project are a superAdmin's to change; its root password is shown to
its admins alone; nobody changes their own role; lists have what one may read.
"""
_CLASSES: Final = dict(zip(Allow, "ABCDEF", strict=True))


def access_page(app: Litestar) -> str:
    """Return docs/access.md for the application."""
    rows = sorted(_rows(app))
    return "\n".join([_HEAD, "| request | needs |", "|---|---|", *(row for _, row in rows), ""])


def _rows(app: Litestar) -> Iterator[tuple[str, str]]:
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                for method in sorted(handler.http_methods - {"OPTIONS"}):
                    place = f"{route.path_format} {method}"
                    needs = _CLASSES[handler.opt[ALLOW]]
                    yield place, f"| `{method} {route.path_format}` | {needs} |"
