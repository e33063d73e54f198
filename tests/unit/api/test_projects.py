"""Projects and adapters over HTTP: statuses, queries and bodies as the contract has them."""

import json
from typing import Any

import httpx
import pytest
import pytest_asyncio

API = "/api/v1"


async def _make(master: httpx.AsyncClient, path: str, **body: str) -> str:
    answer = await master.post(API + path, json=body)
    assert answer.status_code == 201, answer.text
    made: str = answer.json()["id"]
    return made


@pytest_asyncio.fixture
async def region(master: httpx.AsyncClient) -> str:
    return await _make(master, "/region", name="eu", domain="eu.example.org")


@pytest_asyncio.fixture
async def subnet(master: httpx.AsyncClient, region: str) -> str:
    vnet = await _make(master, f"/region/{region}/vnet", name="v", interface="br0")
    return await _make(
        master, f"/vnet/{vnet}/subnet", name="n", cidr="10.0.0.0/29", gateway="10.0.0.1"
    )


async def test_a_project_is_made_read_changed_and_removed(
    master: httpx.AsyncClient, region: str, subnet: str
) -> None:
    body = {"name": "p", "teams": [], "regions": [region], "root_password": "x"}
    created = await master.post(f"{API}/project?subnetSize=29", json=body)
    assert created.status_code == 201
    project = created.json()
    assert project["private_subnets"] == [{"key": "eu", "value": subnet}]
    assert project["quotas"] == {"vcpus": 0, "memory": 0, "storage": 0, "instances": 0}
    path = f"{API}/project/{project['id']}"
    assert (await master.get(path)).json() == project
    assert (await master.get(f"{API}/project?subnetSize=29")).json() == [project["id"]]
    put = await master.put(path, json=project | {"description": "d", "id": "0" * 24})
    assert (put.status_code, put.json()) == (200, project | {"description": "d"})
    assert (await master.get(f"{path}/cost")).json() == {"price": 0.0, "currency": "EUR"}
    usage = await master.get(f"{path}/usage")
    assert json.loads(usage.content) == {"vcpus": 0, "memory": 0, "storage": 0, "instances": 0}
    assert b"." not in usage.content  # a whole number has no fraction
    removed = await master.delete(path)
    assert (removed.status_code, removed.content) == (200, b"")
    for gone in (path, f"{path}/cost", f"{path}/usage"):
        assert (await master.get(gone)).status_code == 404
    assert (await master.delete(path)).status_code == 404


@pytest.mark.usefixtures("subnet")
@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ("", {}, 507),  # no /26
        ("?subnetSize=x", {}, 400),
        ("?subnetSize=31", {}, 422),
        ("?subnetSize=29", {"regions": ["nowhere"]}, 422),
        ("?subnetSize=29", {"teams": ["nobody"]}, 422),
        ("?subnetSize=29", {"name": ""}, 422),
        ("?subnetSize=29", {"quotas": {"vcpus": -1}}, 422),
        ("?subnetSize=29", {"quotas": {"vcpus": 1.5}}, 400),
        ("?subnetSize=29", {"secret": 1}, 400),
    ],
)
async def test_each_refusal_has_its_status_and_writes_nothing(
    master: httpx.AsyncClient,
    region: str,
    query: str,
    body: dict[str, Any],  # Any: JSON
    status: int,
) -> None:
    sent = {"name": "p", "teams": [], "regions": [region]} | body
    refused = await master.post(f"{API}/project{query}", json=sent)
    assert refused.status_code == status, refused.text
    assert refused.json().keys() == {"status", "error", "reason"}
    assert (await master.get(f"{API}/project")).json() == []


async def test_an_adapter_is_made_read_changed_and_removed(
    master: httpx.AsyncClient, subnet: str
) -> None:
    created = await master.post(
        f"{API}/subnet/{subnet}/adapter?assignIP=true", json={"name": "a", "mac": ""}
    )
    assert created.status_code == 201
    adapter = created.json()
    assert adapter["addresses"] == ["10.0.0.2"]
    path = f"{API}/adapter/{adapter['id']}"
    assert (await master.get(path)).json() == adapter
    assert (await master.get(f"{API}/adapter")).json() == [adapter["id"]]
    assert (await master.get(f"{API}/subnet/{subnet}/adapters")).json() == [adapter["id"]]
    put = await master.put(path, json=adapter | {"addresses": ["10.0.0.3"]})
    assert (put.status_code, put.json()) == (200, adapter | {"addresses": ["10.0.0.3"]})
    taken = await master.post(f"{API}/subnet/{subnet}/adapter", json={"name": "a"})
    assert taken.status_code == 409
    clash = {"name": "b", "addresses": ["10.0.0.3"]}
    assert (await master.post(f"{API}/subnet/{subnet}/adapter", json=clash)).status_code == 422
    removed = await master.delete(path)
    assert (removed.status_code, removed.content) == (200, b"")
    assert (await master.delete(path)).status_code == 404


async def test_a_full_subnet_is_507(master: httpx.AsyncClient, subnet: str) -> None:
    path = f"{API}/subnet/{subnet}/adapter?assignIP=true"
    statuses = [
        (await master.post(path, json={"name": f"a{number}"})).status_code for number in range(6)
    ]
    assert statuses == [201] * 5 + [507]
    without = await master.post(f"{API}/subnet/{subnet}/adapter", json={"name": "none"})
    assert (without.status_code, without.json()["addresses"]) == (201, [])
