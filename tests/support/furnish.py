"""A small cloud made through the API alone, as a client would."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.wait import until_now

GIB: Final = 1024**3
# By the name of a path's parameter: where the ids that it takes are listed.
LISTS: Final = {
    "adapterId": "/adapter",
    "agentId": "/agent",
    "instanceId": "/instance",
    "kaktusId": "/kaktus",
    "kiwiId": "/kiwi",
    "komputeId": "/kompute",
    "poolId": "/pool",
    "projectId": "/project",
    "regionId": "/region",
    "subnetId": "/subnet",
    "teamId": "/team",
    "templateId": "/template",
    "userId": "/user",
    "vnetId": "/vnet",
    "volumeId": "/volume",
    "zoneId": "/zone",
}


@dataclass(frozen=True, slots=True)
class Furnished:
    region: str
    zone: str
    project: str


class Api:
    """The contract's API with the master key; what is not answered well fails the test."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        return self._ask("GET", path)

    def post(self, path: str, **body: Any) -> str:  # noqa: ANN401 - JSON
        """Return the id of what was made."""
        made: str = self._ask("POST", path, body)["id"]
        return made

    def patch(self, path: str) -> None:
        self._ask("PATCH", path)

    def delete(self, path: str) -> None:
        self._ask("DELETE", path)

    def _ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        answer = self.client.request(method, f"/api/v1{path}", json=body)
        assert answer.is_success, (method, path, answer.text)
        return answer.json() if answer.content else None


def furnish(api: Api, *, prefix_length: int = 20) -> Furnished:
    """Add networks, storage, a template and a project to a region of `--simulate-nodes`."""
    (region,) = api.get("/region")
    zone = api.get("/zone")[0]
    private = api.post(f"/region/{region}/vnet", name="private", vlan=100, interface="br100")
    public = api.post(
        f"/region/{region}/vnet", name="public", vlan=0, interface="br0", private=False
    )
    subnet = api.post(
        f"/vnet/{private}/subnet",
        name="private",
        cidr=f"10.0.0.0/{prefix_length}",
        gateway="10.0.0.1",
    )
    api.patch(f"/vnet/{private}/subnet/{subnet}/default")
    outside = api.post(
        f"/vnet/{public}/subnet", name="public", cidr="203.0.113.0/24", gateway="203.0.113.1"
    )
    api.patch(f"/vnet/{public}/subnet/{outside}/default")
    pool = api.post(
        f"/region/{region}/pool",
        name="ssd",
        pool="rbd",
        ceph_address="ceph.example",
        ceph_secret_uuid="",
        agents=api.get("/agent"),
    )
    api.patch(f"/region/{region}/pool/{pool}/default")
    template = api.post(
        f"/pool/{pool}/template", name="debian", source="https://images.example/debian.qcow2"
    )
    api.patch(f"/pool/{pool}/template/{template}/default")
    team = api.post("/team", name="ops", users=[])
    project = api.post(
        f"/project?subnetSize={prefix_length}",
        name="acme",
        description="",
        domain="acme.example",
        bootstrap_user="",
        bootstrap_pubkey="",
        tags=[],
        metadatas=[],
        teams=[team],
        regions=[region],
    )
    return Furnished(region, zone, project)


@dataclass(frozen=True, slots=True)
class Place:
    """What every machine needs."""

    region: str
    zone: str
    kaktus: str
    pool: str
    template: str
    project: str


def furnish_node(api: Api, pool_directory: Path, source: str) -> Place:
    """Add all that a machine needs to the one real node: a local pool, a template, a project."""
    (agent,) = api.get("/agent")
    region = api.post("/region", name="eu", domain="eu.example.org")
    zone = api.post(f"/region/{region}/zone", name="eu-a")
    kaktus = api.post(f"/zone/{zone}/kaktus", name="host-1", agents=[agent])
    vnet = api.post(f"/region/{region}/vnet", name="vnet", vlan=0, interface="br0", private=True)
    subnet = api.post(f"/vnet/{vnet}/subnet", name="subnet", cidr="10.0.0.0/20", gateway="10.0.0.1")
    api.patch(f"/vnet/{vnet}/subnet/{subnet}/default")
    pool = api.post(
        f"/region/{region}/pool",
        name="local",
        pool="local",
        ceph_address=f"local://{pool_directory}",
        agents=[agent],
    )
    api.patch(f"/region/{region}/pool/{pool}/default")
    template = api.post(f"/pool/{pool}/template", name="guest", source=source)
    api.patch(f"/pool/{pool}/template/{template}/default")
    team = api.post("/team", name="ops", users=[])
    project = api.post(
        "/project?subnetSize=22",
        name="acme",
        description="",
        domain="acme.example",
        bootstrap_user="admin",
        bootstrap_pubkey="",
        tags=[],
        metadatas=[],
        teams=[team],
        regions=[region],
    )
    until_now(
        lambda: bool(api.get(f"/kaktus/{kaktus}/caps")["memory"]), "the node has told what it has"
    )
    return Place(region, zone, kaktus, pool, template, project)
