"""A route of the contract as data, and the handler that serves it.

The table of routes is the only source: what is served, who may call it, and the document follow
from it. Answers are encoded here, so that no key can be added on the way.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, Literal, cast

import msgspec
from litestar import MediaType, Response
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler

from appliance.api.guards import allow, principal_of
from appliance.api.problems import Malformed
from appliance.api.requests import ApiRequest, decode_json
from appliance.api.services import Services
from appliance.core.errors import Conflict, Invalid
from appliance.model.access import Allow
from appliance.model.principal import Principal

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
QueryValue = str | int | bool | None


@dataclass(frozen=True, slots=True)
class Query:
    """An optional query parameter. A date is a text of the form YYYY-MM-DD."""

    name: str
    kind: Literal["string", "integer", "boolean", "date"]
    about: str


@dataclass(frozen=True, slots=True)
class Call:
    """One request, taken apart. `body` is of the route's type; absent queries are None."""

    services: Services
    caller: Principal | None  # None: nobody is known, on a route for anyone
    path: dict[str, str]  # in the order of the path
    query: Mapping[str, QueryValue]
    body: Any  # the Struct that the route names
    request: ApiRequest

    @property
    def principal(self) -> Principal:
        assert self.caller is not None, "the guard lets nobody unknown in"
        return self.caller

    @property
    def last_id(self) -> str:
        """The last id in the path: that of the object, or of the parent it is made under."""
        return next(reversed(self.path.values()))

    def text(self, name: str) -> str | None:
        value = self.query[name]
        assert value is None or isinstance(value, str)
        return value

    def flag(self, name: str) -> bool:
        return self.query[name] is True


_PARAMETER: Final = re.compile(r"{(\w+)}")
ROUTE: Final = "route"  # where a handler's `opt` keeps it

Handler = Callable[[Call], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of the contract.

    Attributes:
        path: as the contract writes it, below `/api/v1`: "/region/{regionId}/zone".
        tags: words with blanks between; the first names the client class that its users know.
        body, answer: Structs; an answer of `list` is a list of ids, None is an empty body.
    """

    method: Method
    path: str
    operation_id: str
    tags: str
    call: Handler
    _: KW_ONLY
    who: Allow
    body: type[msgspec.Struct] | None = None
    answer: type[msgspec.Struct] | type[list[str]] | None = None
    query: tuple[Query, ...] = ()
    status: int = 0  # of success; 0: 201 for POST, else 200

    def list_tags(self) -> list[str]:
        return self.tags.split()

    def __deepcopy__(self, _: object) -> "Route":
        """Return itself: nothing in it ever changes, and the framework copies what it is given."""
        return self

    @property
    def path_parameters(self) -> list[str]:
        return _PARAMETER.findall(self.path)

    @property
    def success(self) -> int:
        return self.status or (201 if self.method == "POST" else 200)


def handler_of(route: Route) -> HTTPRouteHandler:
    """Return the Litestar handler that serves the route."""

    async def handle(
        request: ApiRequest,
        # One dependency only: for several the framework starts a group of tasks, per request.
        services: NamedDependency[Services],
    ) -> Response[bytes]:
        body = await _decode(request, route.body) if route.body else None
        query = {query.name: _parse(route, query, request) for query in route.query}
        call = Call(
            services, principal_of(request.scope), request.path_params, query, body, request
        )
        try:
            answer = await route.call(call)
        except Conflict as conflict:
            if route.method in ("POST", "DELETE"):
                raise
            # The contract knows 409 only where something is made or removed.
            raise Invalid(conflict.detail, hint=conflict.hint, **conflict.context) from conflict
        if isinstance(answer, Response):
            return cast("Response[bytes]", answer)  # 202: the work goes on
        content = b"" if answer is None else msgspec.json.encode(answer)
        return Response(content, media_type=MediaType.JSON, status_code=route.success)

    return HTTPRouteHandler(
        _litestar_path(route.path),
        http_method=route.method,
        status_code=200,  # each answer has its own
        operation_id=route.operation_id,
        tags=route.list_tags(),
        opt={**allow(route.who), ROUTE: route},
    )(handle)


_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_NO_TYPE: Final = ("", "application/json")


async def _decode(request: ApiRequest, kind: type[msgspec.Struct]) -> msgspec.Struct:
    """Decode the body.

    Raises:
        Malformed: it is not JSON of this shape, or says that it is something else.
        Invalid: a required field is missing.
    """
    content = await request.body()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _NO_TYPE:
        raise Malformed("the body is not of type application/json")
    return decode_json(content, kind)


def _parse(route: Route, query: Query, request: ApiRequest) -> QueryValue:
    """Return the value of a query parameter; where it has no business, it is ignored."""
    text: str | None = request.query_params.get(query.name)
    if text is None or route.method == "GET":
        return None
    match query.kind:
        case "boolean" if text in ("true", "false"):
            return text == "true"
        case "integer" if _INTEGER.fullmatch(text):
            return int(text)
        case "string" | "date":
            return text
        case _:
            detail = f"query parameter {query.name} is not of type {query.kind}"
            # 400 exists only where the contract has a body.
            raise (Malformed if route.body else Invalid)(detail, field=query.name)


def _litestar_path(path: str) -> str:
    return path.replace("}", ":str}")
