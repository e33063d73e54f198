"""Who may call what: each route tried by each kind of caller, with real credentials."""

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import httpx
import pytest
import pytest_asyncio
from litestar import Litestar, Response
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from appliance.api.app import as_asgi, create_app
from appliance.api.authenticate import by_credential
from appliance.api.edge import Edge
from appliance.api.guards import ALLOW
from appliance.api.services import Services
from appliance.api.v1.route import Call, handler_of
from appliance.api.v1.routes import ROUTES
from appliance.core.errors import Forbidden
from appliance.core.ids import new_id
from appliance.core.secret import Secret
from appliance.model.access import Allow
from appliance.model.principal import MASTER, Principal, PrincipalKind, local_principal
from appliance.resources.agent import AGENTS, Agent, NodeAgentType
from appliance.resources.team import TEAMS, Team
from appliance.resources.user import USERS, User, UserRole
from tests.support.small_cloud import Cloud, made
from tests.unit.api.conftest import client_as

_AGENT: Final = Principal(PrincipalKind.AGENT, "0" * 24)
_PASSWORD: Final = "correct-Horse7battery_staple"
_ROLES: Final = tuple(UserRole)


def handlers(app: Litestar) -> list[tuple[str, str, HTTPRouteHandler]]:
    """Return (method, path, handler) of every HTTP route but the framework's own OPTIONS."""
    return [
        (method, route.path, handler)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in sorted(handler.http_methods)
        if method != "OPTIONS"
    ]


async def test_every_route_declares_who_may_call_it(services: Services) -> None:
    app = create_app(services)
    silent = [(method, path) for method, path, handler in handlers(app) if ALLOW not in handler.opt]
    assert len(handlers(app)) > 20
    assert silent == []


async def test_what_is_open_to_anyone(services: Services) -> None:
    app = create_app(services)
    opened = [path for _, path, handler in handlers(app) if handler.opt[ALLOW] is Allow.ANYONE]
    # A browser sends no key for the page, which tells no state; a log-in has no credential yet.
    assert opened == ["/api/v1/login", "/docs", "/healthz"]


@pytest.mark.parametrize("principal", [None, _AGENT, MASTER, local_principal(0)], ids=str)
async def test_who_is_no_user_is_all_or_nothing(
    services: Services, principal: Principal | None
) -> None:
    outcomes: dict[tuple[str, str], str] = {}
    expected: dict[tuple[str, str], str] = {}
    async with client_as(services, principal) as client:
        for method, path, handler in handlers(create_app(services)):
            if path.startswith("/api/v1"):
                continue  # below, without their work
            url = re.sub(r"\{[^}]*\}", "f" * 24, path)
            outcomes[method, path] = _outcome(await client.request(method, url))
            expected[method, path] = (
                "admitted"
                if handler.opt[ALLOW] is Allow.ANYONE or principal in (MASTER, local_principal(0))
                else "unauthenticated"
                if principal is None
                else "forbidden"
            )
    assert outcomes == expected


@dataclass(frozen=True)
class World:
    """A project with one of each of its things; `ids` by the name of a path's parameter."""

    services: Services
    ids: Mapping[str, str]
    inside: Mapping[UserRole, str]  # users of its team
    outside: Mapping[UserRole, str]


@pytest_asyncio.fixture
async def world(services: Services) -> World:
    cloud = Cloud(services.store, services.projects._secrets, services.clock)
    inside = {role: await _add_user(services, f"inside {role}", role) for role in _ROLES}
    outside = {role: await _add_user(services, f"outside {role}", role) for role in _ROLES}
    region = await cloud.region()
    zone = await cloud.zone(region)
    vnet = await cloud.vnet(region)
    subnet = await cloud.subnet(vnet, "10.0.0.0/24")
    team = Team(name="people", users=sorted(inside.values()))
    team_id = made((await services.catalog.create(TEAMS, team)).id)
    project = made((await cloud.project(team_id, region)).id)
    kaktus = await cloud.kaktus(zone, "k1")
    instance = await cloud.instance(project, kaktus)
    await cloud.tell("UPDATE instance SET phase = 'ready'")
    adapter = await cloud.attached(subnet, instance)
    volume = cloud.insert_volume(project, cloud.seed_pool, 2**30)
    kompute = new_id()
    await services.store.batch([volume])
    await cloud.tell(
        "INSERT INTO kompute (id, project_id, zone_id, name, description, phase, created_at_ms,"
        " updated_at_ms) VALUES (?, ?, ?, 'web', '', 'ready', 0, 0)",
        kompute,
        project,
        zone,
    )
    (volume_row,) = await cloud.ask("SELECT id FROM volume")
    agent = await services.catalog.create(AGENTS, Agent(name="n", type=NodeAgentType.KAKTUS))
    return World(
        services,
        {
            "regionId": region,
            "zoneId": zone,
            "vnetId": vnet,
            "subnetId": subnet,
            "teamId": team_id,
            "projectId": project,
            "kaktusId": kaktus,
            "instanceId": instance,
            "adapterId": adapter,
            "volumeId": str(volume_row["id"]),
            "komputeId": kompute,
            "poolId": cloud.seed_pool,
            "agentId": made(agent.id),
            "kiwiId": "f" * 24,
            "templateId": "f" * 24,
            "userId": inside[UserRole.USER],
        },
        inside,
        outside,
    )


@pytest_asyncio.fixture
async def client(world: World) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of the contract's routes, as they are declared, whose work is left out."""

    async def nothing(_: Call) -> Response[bytes]:
        return Response(b"", status_code=299)

    services = world.services
    routes = [handler_of(replace(route, call=nothing, body=None, query=())) for route in ROUTES]
    app = create_app(services)
    hollow = Litestar(
        routes,
        dependencies=app.dependencies,
        guards=app.guards,
        exception_handlers=app.exception_handlers,
        request_class=app.request_class,
        openapi_config=None,
        logging_config=None,
    )
    edge = Edge(
        as_asgi(hollow),
        authenticate=by_credential(services.api_keys, services.sessions),
        hosts=None,
        clock=services.clock,
    )
    transport = httpx.ASGITransport(app=edge, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://kahuna") as client:
        yield client


async def _add_user(services: Services, name: str, role: UserRole) -> str:
    email = f"{name.replace(' ', '-')}@example.org"
    return made((await services.catalog.create(USERS, User(name=name, email=email, role=role))).id)


async def _key(services: Services, user_id: str, expires_at_ms: int | None = None) -> str:
    await services.users.issue_key(user_id, expires_at_ms)
    return (await services.users.collect_key(user_id)).reveal_text()


async def _outcomes(client: httpx.AsyncClient, ids: Mapping[str, str]) -> dict[str, str]:
    """Try every route of the contract, and tell what became of each."""
    return {
        route.operation_id: _outcome(
            await client.request(route.method, route.path.format_map(dict(ids)))
        )
        for route in ROUTES
    }


def _outcome(answer: httpx.Response) -> str:
    return {401: "unauthenticated", 403: "forbidden"}.get(answer.status_code, "admitted")


_OPEN: Final = {Allow.ANYONE}
_EVERYBODY: Final = {*_OPEN, Allow.AUTHENTICATED}
_MEMBER: Final = {*_EVERYBODY, Allow.PROJECT_MEMBER}
_INSIDE: Final = {
    UserRole.USER: {*_MEMBER, Allow.SELF},  # the user whom the paths name
    UserRole.PROJECT_ADMIN: {*_MEMBER, Allow.PROJECT_ADMIN},
    UserRole.SUPER_ADMIN: set(Allow),
}
_OUTSIDE: Final = {
    UserRole.USER: _EVERYBODY,
    UserRole.PROJECT_ADMIN: _EVERYBODY,
    UserRole.SUPER_ADMIN: set(Allow),
}


def _table(allowed: set[Allow], otherwise: str) -> dict[str, str]:
    return {
        route.operation_id: "admitted" if route.who in allowed else otherwise for route in ROUTES
    }


@pytest.mark.parametrize("role", UserRole)
async def test_each_role_inside_and_outside_the_project(
    world: World, client: httpx.AsyncClient, role: UserRole
) -> None:
    client.headers["x-api-key"] = await _key(world.services, world.inside[role])
    assert await _outcomes(client, world.ids) == _table(_INSIDE[role], "forbidden")
    client.headers["x-api-key"] = await _key(world.services, world.outside[role])
    assert await _outcomes(client, world.ids) == _table(_OUTSIDE[role], "forbidden")


async def test_an_object_that_does_not_exist_is_refused_as_one_of_others_is(
    world: World, client: httpx.AsyncClient
) -> None:
    client.headers["x-api-key"] = await _key(world.services, world.inside[UserRole.PROJECT_ADMIN])
    nothing = dict.fromkeys(world.ids, "e" * 24)
    assert await _outcomes(client, nothing) == _table(_EVERYBODY, "forbidden")


async def test_the_master_key_opens_everything(
    world: World, client: httpx.AsyncClient, master_key: str
) -> None:
    client.headers["x-api-key"] = master_key
    assert await _outcomes(client, world.ids) == _table(set(Allow), "forbidden")


async def test_who_is_refused_is_told_what_it_takes(
    world: World, client: httpx.AsyncClient
) -> None:
    client.headers["x-api-key"] = await _key(world.services, world.inside[UserRole.USER])
    for path, needed in (
        ("/team", "a super administrator"),
        (f"/kompute/{world.ids['komputeId']}", "an admin of the project"),
        (f"/kompute/{'e' * 24}", "an admin of the project"),
    ):
        answer = await client.delete(path) if needed.startswith("an ") else await client.get(path)
        assert needed in answer.json()["reason"]


async def test_a_bearer_token_is_as_good_as_a_key(world: World, client: httpx.AsyncClient) -> None:
    role = UserRole.PROJECT_ADMIN
    client.headers["authorization"] = f"Bearer {await _log_in(world, world.inside[role])}"
    assert await _outcomes(client, world.ids) == _table(_INSIDE[role], "forbidden")


@pytest.mark.parametrize("broken", ["none", "expired", "revoked", "deleted", "agent", "two"])
async def test_a_credential_that_does_not_count_opens_nothing(
    world: World, client: httpx.AsyncClient, broken: str
) -> None:
    services, user_id = world.services, world.inside[UserRole.SUPER_ADMIN]
    key = await _key(services, user_id, 1 if broken == "expired" else None)
    match broken:
        case "none":
            key = ""
        case "revoked":
            await services.users.revoke_key(user_id)
        case "deleted":
            await services.catalog.delete(USERS, user_id)
        case "agent":
            await services.agents.issue_key(world.ids["agentId"])
            key = (await services.agents.collect_key(world.ids["agentId"])).reveal_text()
    if broken == "two":
        client.headers = httpx.Headers([("x-api-key", key), ("x-api-key", key)])
    elif key:
        client.headers["x-api-key"] = key
    assert await _outcomes(client, world.ids) == _table(_OPEN, "unauthenticated")


@pytest.mark.parametrize("ended", ["log-out", "password", "deleted"])
async def test_a_session_ends_at_once(world: World, client: httpx.AsyncClient, ended: str) -> None:
    services, user_id = world.services, world.inside[UserRole.SUPER_ADMIN]
    token = await _log_in(world, user_id)
    client.headers["authorization"] = f"Bearer {token}"
    assert (await client.get("/region")).status_code == 299
    match ended:
        case "log-out":
            await services.sessions.log_out(token)
        case "password":
            await services.users.set_password(user_id, _PASSWORD + "2")
        case _:
            await services.catalog.delete(USERS, user_id)
    assert (await client.get("/region")).status_code == 401


async def _log_in(world: World, user_id: str) -> str:
    await world.services.users.set_password(user_id, _PASSWORD)
    email = (await world.services.catalog.get(USERS, user_id)).email
    return await world.services.sessions.log_in(email, Secret(_PASSWORD), "192.0.2.1")


async def test_a_role_that_was_taken_away_is_gone_with_the_next_request(
    world: World, client: httpx.AsyncClient
) -> None:
    services, user_id = world.services, world.inside[UserRole.SUPER_ADMIN]
    client.headers["x-api-key"] = await _key(services, user_id)
    assert (await client.get("/team")).status_code == 299
    user = await services.catalog.get(USERS, user_id)
    user.role = UserRole.USER
    await services.users.update(user_id, user, by=UserRole.SUPER_ADMIN)
    assert (await client.get("/team")).status_code == 403


@pytest.mark.parametrize("kind", ["project", "kompute", "instance", "volume", "adapter"])
async def test_a_list_has_what_one_may_read(world: World, kind: str) -> None:
    path, own = f"/api/v1/{kind}", [world.ids[f"{kind}Id"]]
    expected = {
        world.inside[UserRole.USER]: own,
        world.outside[UserRole.USER]: [],
        world.outside[UserRole.PROJECT_ADMIN]: [],
        world.outside[UserRole.SUPER_ADMIN]: own,
    }
    for user_id, ids in expected.items():
        async with client_as(world.services, Principal(PrincipalKind.USER, user_id)) as user:
            assert (await user.get(path)).json() == ids


@pytest.mark.usefixtures("engine")
async def test_who_began_an_operation_may_look_at_it(world: World) -> None:
    services = world.services
    one, other = (
        Principal(PrincipalKind.USER, world.inside[role])
        for role in (UserRole.USER, UserRole.PROJECT_ADMIN)
    )
    begun = await services.engine.submit(await services.rotation.submission(one))
    for principal, operation_id, status in (
        (one, begun, 200),
        (one, "f" * 24, 403),
        (other, begun, 403),
        (MASTER, begun, 200),
        (MASTER, "f" * 24, 404),
    ):
        async with client_as(services, principal) as client:
            answer = await client.get(f"/api/ext/v1/operations/{operation_id}")
            assert answer.status_code == status, (principal, operation_id)


async def test_only_an_admin_of_the_project_sees_its_root_password(world: World) -> None:
    services, project_id = world.services, world.ids["projectId"]
    project = await services.projects.get(project_id)
    project.root_password = "hunter2 and more"
    await services.projects.update(project_id, project)
    for role, shown in (
        (UserRole.USER, ""),
        (UserRole.PROJECT_ADMIN, "hunter2 and more"),
        (UserRole.SUPER_ADMIN, "hunter2 and more"),
    ):
        async with client_as(services, Principal(PrincipalKind.USER, world.inside[role])) as client:
            read = (await client.get(f"/api/v1/project/{project_id}")).json()
            assert read["root_password"] == shown


async def test_an_admin_of_a_project_does_not_decide_how_much_it_gets(world: World) -> None:
    services, path = world.services, f"/api/v1/project/{world.ids['projectId']}"
    principal = Principal(PrincipalKind.USER, world.inside[UserRole.PROJECT_ADMIN])
    async with client_as(services, principal) as client:
        stored = (await client.get(path)).json()
        limits: dict[str, object] = {"quotas": {"vcpus": 1000}, "teams": [], "regions": []}
        for name, value in limits.items():
            assert (await client.put(path, json=stored | {name: value})).status_code == 403
        changed = await client.put(path, json=stored | {"description": "ours"})
        assert (changed.status_code, changed.json()["description"]) == (200, "ours")


async def test_nobody_raises_their_own_role(world: World) -> None:
    services, user_id = world.services, world.inside[UserRole.USER]
    user = await services.catalog.get(USERS, user_id)
    user.role = UserRole.SUPER_ADMIN
    with pytest.raises(Forbidden):
        await services.users.update(user_id, user, by=UserRole.USER)
    user.role, user.email = UserRole.USER, "new@example.org"
    assert (await services.users.update(user_id, user, by=UserRole.USER)).email == "new@example.org"


async def test_a_refused_caller_is_refused_before_the_body_is_read(services: Services) -> None:
    stranger = Principal(PrincipalKind.USER, "0" * 24)
    for principal, status in ((None, 401), (stranger, 403)):
        async with client_as(services, principal) as client:
            for content in (b"{", b"x" * 8_000_000):
                answer = await client.post("/api/ext/v1/agents", content=content)
                assert answer.status_code == status
