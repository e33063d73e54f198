"""What is refused, with which status, and that a refusal changes nothing."""

import httpx
import pytest

from appliance.api.services import Services
from appliance.model.principal import Principal, PrincipalKind
from appliance.resources.user import USERS, User, UserRole
from appliance.store.base import Statement
from tests.unit.api.conftest import client_as
from tests.unit.api.v1.kinds import (
    KAKTUS,
    KINDS,
    KIWI,
    POOL,
    REGION,
    SUBNET,
    TEAM,
    VNET,
    ZONE,
    Api,
    Json,
)
from tests.unit.resources.samples import add_row

_UNKNOWN = "0123456789abcdef01234567"


async def test_api_lives_at_the_root_of_the_host(api: Api) -> None:
    await api.ask(200, "GET", "/api/v1/region")
    assert (await api.client.get("/region")).status_code == 404


async def test_credentials_are_checked_before_anything_else(
    api: Api, stranger: httpx.AsyncClient
) -> None:
    del stranger.headers["x-api-key"]
    for kind in KINDS:
        one = f"{kind.path}/{_UNKNOWN}"
        for method, path, body in (
            ("GET", kind.path, ""),
            ("GET", one, ""),
            ("POST", kind.place(api.world), "{"),
            ("POST", kind.place(api.world), '{"name": ""}'),
            ("POST", f"/api/v1/region/{_UNKNOWN}/zone", '{"name": "a"}'),
            ("PUT", one, '{"unknown": 1}'),
            ("DELETE", one, ""),
        ):
            answer = await stranger.request(method, path, content=body)
            assert answer.status_code == 401, f"{method} {path}"


async def test_too_few_rights_are_403_before_404_400_and_422(api: Api, services: Services) -> None:
    nobody = User(name="nobody", email="nobody@example.org", role=UserRole.USER)
    user_id = str((await services.catalog.create(USERS, nobody)).id)
    async with client_as(services, Principal(PrincipalKind.USER, user_id)) as user:
        for kind in KINDS:
            one = f"{kind.path}/{_UNKNOWN}"
            for method, path, body in (
                ("POST", kind.place(api.world), "{"),
                ("POST", kind.place(api.world), '{"name": ""}'),
                ("PUT", one, '{"unknown": 1}'),
                ("DELETE", one, ""),
            ):
                assert (await user.request(method, path, content=body)).status_code == 403
            readable = kind in (REGION, ZONE)
            assert (await user.get(kind.path)).status_code == (200 if readable else 403)


async def test_empty_reference_is_never_answered_with_an_object(api: Api) -> None:
    await api.create(POOL)
    for path in ("/pool/", "/template/", "/pool//templates", "/nfs/", "/region/", "/region//zones"):
        await api.ask(404, "GET", path)


async def test_writes_are_never_redirected(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        one = f"{kind.path}/{made['id']}"
        for method, path in (("POST", kind.place(api.world)), ("PUT", one), ("DELETE", one)):
            answer = await api.client.request(method, f"{path}/", json=kind.changed(api.world))
            assert answer.status_code == 404
        assert await api.get(kind, made) == made


@pytest.mark.parametrize(
    "text",
    [_UNKNOWN, "x", "%20", "%2F", "%2e%2e", "a" * 5000, "%00", "%F0%9F%A5%9D", "%ff", "0" * 23,
     "F" * 24, "0" * 24 + "%0A", "%27%20OR%201%3D1--", "{regionId}"],
)  # fmt: skip
async def test_any_text_as_id_is_answered_not_found(api: Api, text: str) -> None:
    for kind in KINDS:
        body = kind.full(api.world)
        for method in ("GET", "PUT", "DELETE"):
            path = f"{kind.path}/{text}"
            answer = await api.client.request(method, path, json=body if method == "PUT" else None)
            assert answer.status_code == 404, f"{method} {path}: {answer.text}"
        if kind.parent:
            below = f"/api/v1{kind.parent}/{text}/{kind.name}"
            assert (await api.client.post(below, json=body)).status_code == 404
            below = f"/api/v1{kind.parent}/{text}/{kind.below}"
            assert (await api.client.get(below)).status_code == 404
    for path in ("/kaktus/{}/caps", "/kaktus/{}/instances", "/pool/{}/volumes"):
        assert (await api.client.get("/api/v1" + path.replace("{}", text))).status_code == 404


async def test_an_id_of_another_kind_is_404(api: Api) -> None:
    made = {kind: await api.create(kind) for kind in KINDS}
    for kind in KINDS:
        for other in KINDS:
            if other is not kind:
                await api.ask(404, "GET", f"{kind.path}/{made[other]['id']}")


async def test_taken_name_is_409_with_the_id(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        wanted = kind.changed(api.world) | {"name": made["name"]}
        for _ in range(2):
            refused = await api.ask(409, "POST", kind.place(api.world), wanted)
            assert made["id"] in refused["reason"]
            assert made["name"] in refused["reason"]


async def test_rename_clash_is_422(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        other = await api.ask(201, "POST", kind.place(api.world), kind.changed(api.world))
        refused = await api.put(kind, other, other | {"name": made["name"]}, status=422)
        assert made["id"] in refused["reason"]
        assert await api.get(kind, other) == other


async def test_missing_required_field_is_422_naming_it(api: Api) -> None:
    for kind in KINDS:
        made = await api.create(kind)
        for field in kind.minimal(api.world):
            body = kind.full(api.world)
            del body[field]
            for method, path in (
                ("POST", kind.place(api.world)),
                ("PUT", f"{kind.path}/{made['id']}"),
            ):
                refused = await api.ask(422, method, path, body)
                assert field in refused["reason"]
    for kind, fields in (
        (KAKTUS, {"cpu_cost": {"price": 1.0}}),
        (SUBNET, {"reserved": [{"first": "10.50.201.1"}]}),
    ):
        await api.ask(422, "POST", kind.place(api.world), kind.full(api.world) | fields)


async def test_bad_input_is_400(api: Api) -> None:
    for kind in KINDS:
        full = kind.full(api.world)
        bad: list[object] = [
            full | {"unknown": 1},
            full | {"created_at": ""},
            full | {"name": 1},
            full | {"name": None},
            full | {"description": []},
            [full],
            None,
            "text",
        ]
        bad += {
            KAKTUS: [
                full | {"cpu_cost": {"price": 1.0, "currency": "EUR", "more": 1}},
                full | {"cpu_cost": {"price": "1", "currency": "EUR"}},
                full | {"overcommit_cpu_ratio": 3.5},
                full | {"overcommit_cpu_ratio": "3"},
                full | {"overcommit_cpu_ratio": True},
                full | {"agents": "a"},
                full | {"agents": [None]},
            ],
            VNET: [full | {"private": 1}, full | {"private": "true"}, full | {"vlan": "0"}],
            SUBNET: [
                full | {"application": "nfs"},
                full | {"application": ""},
                full | {"reserved": ["10.0.0.1-10.0.0.2"]},
                full | {"reserved": [{"first": "10.0.0.1", "last": "10.0.0.2", "size": 2}]},
            ],
        }.get(kind, [])
        made = await api.create(kind)
        before = await api.dump()
        for body in bad:
            for method, path in (
                ("POST", kind.place(api.world)),
                ("PUT", f"{kind.path}/{made['id']}"),
            ):
                await api.ask(400, method, path, body)
        assert await api.dump() == before


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"name":"a"}}', b"\xff\xfe", b'{"name":"\\ud800","domain":"a.b"}', b"[" * 100_000,
     b"nonsense", b'{"name":NaN}'],
)  # fmt: skip
async def test_what_is_not_json_is_400(api: Api, content: bytes) -> None:
    answer = await api.client.post("/api/v1/region", content=content)
    assert answer.status_code == 400


async def test_another_content_type_is_400(api: Api) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        answer = await api.client.post(
            "/api/v1/region",
            content=b'{"name":"a","domain":"a.example"}',
            headers={"content-type": content_type},
        )
        assert answer.status_code == 400
    assert "application/json" in answer.json()["reason"]


async def test_broken_rule_is_422_naming_the_field(api: Api) -> None:
    broken = (
        (REGION, {"domain": "-"}, "domain"),
        (ZONE, {"name": ""}, "name"),
        (ZONE, {"name": "a" * 256}, "name"),
        (ZONE, {"name": _UNKNOWN}, "name"),
        (ZONE, {"description": "a\u0000b"}, "description"),
        (KIWI, {"agents": ["a", "a"]}, "agents"),
        (KAKTUS, {"overcommit_cpu_ratio": 0}, "overcommit_cpu_ratio"),
        (KAKTUS, {"cpu_cost": {"price": -0.5, "currency": "EUR"}}, "cpu_cost.price"),
        (VNET, {"vlan": 4096}, "vlan"),
        (VNET, {"vlan": 2**70}, "vlan"),
        (VNET, {"interface": "br 0"}, "interface"),
        (SUBNET, {"cidr": "10.0.0.0/33"}, "cidr"),
        (SUBNET, {"gateway": "10.9.9.9"}, "gateway"),
        (SUBNET, {"reserved": [{"first": "10.9.9.1", "last": "10.9.9.2"}]}, "reserved"),
        (POOL, {"ceph_port": 65536}, "ceph_port"),
        (POOL, {"ceph_address": "local://relative"}, "ceph_address"),
        (TEAM, {"users": [_UNKNOWN]}, "users"),
    )
    for kind, fields, word in broken:
        before = await api.dump()
        body = kind.full(api.world) | fields
        refused = await api.ask(422, "POST", kind.place(api.world), body)
        assert word in refused["reason"]
        assert await api.dump() == before
        made = await api.create(kind)
        refused = await api.put(kind, made, made | fields, status=422)
        assert word in refused["reason"]
        assert await api.get(kind, made) == made
        await api.delete(kind, made)


async def test_delete_with_children_is_409_and_removes_nothing(api: Api) -> None:
    world = api.world
    kaktus = await api.create(KAKTUS)
    subnet = await api.create(SUBNET)
    pool = await api.create(POOL)
    team = await api.create(TEAM)
    await _fill(api, kaktus, subnet, pool, team)
    before = await api.dump()
    for path, children in (
        (f"/region/{world.region}", "zones (1)"),
        (f"/region/{world.region}", "projects (1)"),
        (f"/zone/{world.zone}", "Kaktus nodes (1)"),
        (f"/kaktus/{kaktus['id']}", "instances (1)"),
        (f"/vnet/{world.vnet}", "subnets (1)"),
        (f"/subnet/{subnet['id']}", "adapters (1)"),
        (f"/pool/{pool['id']}", "templates (1)"),
        (f"/pool/{pool['id']}", "volumes (1)"),
        (f"/pool/{pool['id']}", "seeds of instances (1)"),
        (f"/team/{team['id']}", "projects (1)"),
    ):
        refused = await api.ask(409, "DELETE", path)
        assert children in refused["reason"]
        assert path.rpartition("/")[2] in refused["reason"]
    assert await api.dump() == before


async def test_objects_being_created_count_but_are_not_listed(api: Api) -> None:
    kaktus, pool = await api.create(KAKTUS), await api.create(POOL)
    subnet, team = await api.create(SUBNET), await api.create(TEAM)
    await _fill(api, kaktus, subnet, pool, team, phase="creating")
    await api.ask(409, "DELETE", f"/kaktus/{kaktus['id']}")
    await api.ask(409, "DELETE", f"/pool/{pool['id']}")
    assert await api.ask(200, "GET", f"/kaktus/{kaktus['id']}/instances") == []
    assert await api.ask(200, "GET", f"/pool/{pool['id']}/volumes") == []
    await api.store.batch([
        Statement("UPDATE instance SET phase = 'ready'"),
        Statement("UPDATE volume SET phase = 'ready'"),
    ])  # fmt: skip
    assert len(await api.ask(200, "GET", f"/kaktus/{kaktus['id']}/instances")) == 1
    assert len(await api.ask(200, "GET", f"/pool/{pool['id']}/volumes")) == 1


async def _fill(
    api: Api, kaktus: Json, subnet: Json, pool: Json, team: Json, *, phase: str = "ready"
) -> None:
    """Put one object of each kind that has effects below these, as its own service would."""
    store = api.store
    project = await add_row(store, "project", name="acme", tags="[]", metadatas="[]")
    await add_row(store, "project_team", project_id=project, team_id=team["id"])
    await add_row(
        store,
        "project_region",
        project_id=project,
        region_id=api.world.region,
        subnet_id=subnet["id"],
    )
    await add_row(
        store,
        "instance",
        project_id=project,
        kaktus_id=kaktus["id"],
        seed_pool_id=pool["id"],
        memory_bytes=1,
        vcpus=1,
        power="running",
        phase=phase,
    )
    await add_row(store, "adapter", subnet_id=subnet["id"])
    await add_row(
        store,
        "template",
        storage_pool_id=pool["id"],
        os="linux",
        architecture="x86_64",
        phase=phase,
    )
    await add_row(
        store,
        "volume",
        project_id=project,
        storage_pool_id=pool["id"],
        type="raw",
        size_bytes=1,
        phase=phase,
    )
