"""Sends requests as Terraform orders them: what the guides make, one object of each kind.

Nothing here waits: no client polls.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.support.furnish import GIB

API: Final = "/api/v1"
Json = Any  # a JSON document
FREE: Final = {"price": 0, "currency": "EUR"}
# What a client sends without knowing it; the answer has what was chosen.
_COMPUTED: Final = {
    "ip": "",
    "mac": "",
    "bootstrap_user": "",
    "bootstrap_pubkey": "",
    "ceph_port": 0,
}


@dataclass(slots=True)
class Made:
    """An object in Terraform's state: as it was last answered."""

    kind: str
    state: Json
    place: str = ""  # where the create went
    sent: Json = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"/{self.kind}/{self.id}"

    @property
    def id(self) -> str:
        found: str = self.state["id"]
        return found


class Terraform:
    """Sends what the provider sends; every answer is held against the contract."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.made: list[Made] = []

    async def ask(self, status: int, method: str, path: str, body: Json = None) -> Json:
        answer = await self.client.request(method, API + path, json=body)
        assert answer.status_code == status, f"{method} {path}: {answer.text}"
        return answer.json() if answer.content else None

    async def create(self, place: str, then: str = "", /, **sent: Json) -> str:
        """Create an object below `place`, then send the PATCH that the resource has, if any."""
        kind = place.partition("?")[0].rpartition("/")[2]
        body = {"description": "", **sent}
        state = await self.ask(201, "POST", place, body)
        made = Made(kind, state, place, body)
        _check_comes_back(body, state)
        if then:
            await self.ask(200, "PATCH", then.replace("{id}", made.id))
        self.made.append(made)
        return made.id

    async def plan(self) -> dict[str, tuple[Json, Json]]:
        """Return what differs from the state, by the path of the object: must be nothing."""
        found: dict[str, tuple[Json, Json]] = {}
        for each in self.made:
            now = await self.ask(200, "GET", each.path)
            if now != each.state:
                found[each.path] = (each.state, now)
        return found

    async def update(self, object_id: str, **changed: Json) -> None:
        """Change an object in place: what the resource has is sent, changed or not."""
        (each,) = [each for each in self.made if each.id == object_id]
        known = {name: each.state[name] for name in each.sent}
        body = known | changed
        answer = await self.ask(200, "PUT", each.path, body)
        for name, value in body.items():
            assert answer[name] == value, f"{name} of {each.path}"
        each.state = each.state | body

    async def resolve(self, kind: str, name: str) -> str | None:
        """Find an object under what may be its name, as the provider does."""
        answer = await self.client.get(f"{API}/{kind}/{name}")
        if answer.status_code == 200:
            return str(answer.json()["id"])
        for each in await self.ask(200, "GET", f"/{kind}"):
            if (await self.ask(200, "GET", f"/{kind}/{each}"))["name"] == name:
                return str(each)
        return None


def _check_comes_back(sent: Json, answered: Json) -> None:
    """Every value that was known in the plan must be in the answer as it was."""
    for name, value in sent.items():
        if name in _COMPUTED and value == _COMPUTED[name]:
            continue
        assert answered[name] == value, name


@dataclass(frozen=True, slots=True)
class Walked:
    """The ids of what the walk made."""

    region: str
    other_region: str
    zone: str
    agents: dict[str, str]
    kiwi: str
    kaktus: str
    vnet: str
    private: str
    subnets: dict[str, str]
    pool: str
    template: str
    team: str
    project: str
    adapter: str
    volumes: list[str]
    instance: str
    kompute: str


async def create_all(tf: Terraform) -> Walked:
    team = await tf.create("/team", name="ACME Office", users=[])
    region = await tf.create("/region", name="eu-west", domain="eu-west.acme.example")
    other_region = await tf.create("/region", name="eu-north", domain="eu-north.acme.example")
    zone = await tf.create(f"/region/{region}/zone", name="eu-west-a")
    agents = {
        name: await tf.create("/agent", "/agent/{id}/token?expire=false", name=name, type=kind)
        for name, kind in (("kiwi-1", "Kiwi"), ("kaktus-1", "Kaktus"), ("kaktus-2", "Kaktus"))
    }
    kiwi = await tf.create(f"/region/{region}/kiwi", name="kiwi-1", agents=[agents["kiwi-1"]])
    kaktuses = [
        await tf.create(
            f"/zone/{zone}/kaktus",
            name=name,
            cpu_cost=FREE,
            memory_cost=FREE,
            overcommit_cpu_ratio=3,
            overcommit_memory_ratio=2,
            agents=[agents[name]],
        )
        for name in ("kaktus-1", "kaktus-2")
    ]
    vnets = {
        name: await tf.create(
            f"/region/{where}/vnet", name=name, vlan=vlan, interface=f"br{vlan}", private=vlan != 0
        )
        for name, where, vlan in (
            ("public", region, 0),
            ("storage", region, 10),
            ("projects", region, 100),
            ("north", other_region, 101),
        )
    }
    subnets = {
        name: await tf.create(
            f"/vnet/{vnets[name]}/subnet",
            f"/vnet/{vnets[name]}/subnet/{{id}}/default",
            name=name,
            cidr=f"{network}.0/24",
            gateway=f"{network}.1",
            dns=f"{network}.1",
            reserved=[{"first": f"{network}.200", "last": f"{network}.210"}],
            gw_pool=[{"first": f"{network}.2", "last": f"{network}.9"}] if gw_pool else [],
            extra_routes=["10.9.0.0/16", "10.8.0.0/16"] if gw_pool else [],
            application=application,
        )
        for name, network, gw_pool, application in (
            ("public", "203.0.113", False, "user"),
            ("storage", "10.10.0", False, "ceph"),
            ("projects", "10.100.0", True, "user"),
            ("north", "10.101.0", True, "user"),
        )
    }
    pool = await tf.create(
        f"/region/{region}/pool",
        f"/region/{region}/pool/{{id}}/default",
        name="ssd",
        pool="rbd",
        ceph_address="",
        ceph_port=0,
        ceph_secret_uuid="",
        cost=FREE,
        agents=[agents["kaktus-2"], agents["kaktus-1"]],
    )
    template = await tf.create(
        f"/pool/{pool}/template",
        f"/pool/{pool}/template/{{id}}/default",
        name="debian",
        os="linux",
        source="https://images.example/debian.qcow2",
    )
    project = await tf.create(
        "/project?subnetSize=26",
        name="shop",
        domain="",
        root_password="",
        bootstrap_user="",
        bootstrap_pubkey="",
        tags=["web", "a"],
        metadatas=[{"key": "owner", "value": "ops"}],
        quotas={"instances": 10, "memory": 64 * GIB, "storage": 0, "vcpus": 0},
        teams=[team],
        regions=[region],
    )
    below = f"/project/{project}"
    adapter = await tf.create(
        f"/subnet/{subnets['projects']}/adapter?assignIP=true",
        name="db-card",
        mac="",
        reserved=False,
    )
    volumes = [
        await tf.create(
            f"{below}/region/{region}/volume?poolId={pool}{query}", name=name, type=kind, size=size
        )
        for name, kind, size, query in (
            ("db-system", "os", 10 * GIB, f"&templateId={template}"),
            ("db-data", "raw", GIB + 512, ""),
        )
    ]
    instance = await tf.create(
        f"{below}/zone/{zone}/instance",
        name="db",
        vcpus=1,
        memory=GIB,
        adapters=[adapter],
        volumes=sorted(volumes),
    )
    kompute = await tf.create(
        f"{below}/zone/{zone}/kompute?public=false&poolId={pool}&templateId={template}",
        name="web",
        vcpus=1,
        memory=GIB,
        disk=10 * GIB,
        data_disk=0,
        ip="",
    )
    return Walked(
        region,
        other_region,
        zone,
        agents,
        kiwi,
        kaktuses[0],
        vnets["projects"],
        subnets["projects"],
        subnets,
        pool,
        template,
        team,
        project,
        adapter,
        volumes,
        instance,
        kompute,
    )


async def update_all(tf: Terraform, made: Walked) -> None:
    """Change one thing of each kind; Terraform sends the rest as it is."""
    await tf.update(made.team, name="ACME Office 2")
    await tf.update(made.region, domain="west.acme.example")
    await tf.update(made.zone, name="eu-west-1")
    await tf.update(made.agents["kiwi-1"], name="gateway-1")
    await tf.update(made.kiwi, agents=[])
    await tf.update(made.kaktus, cpu_cost={"price": 12.5, "currency": "EUR"})
    await tf.update(made.vnet, description="of projects")
    await tf.update(made.private, extra_routes=["10.7.0.0/16"], dns="")
    agents = [made.agents["kaktus-1"], made.agents["kaktus-2"]]
    await tf.update(made.pool, agents=agents, cost={"price": 0.25, "currency": "CHF"})
    await tf.update(made.template, name="debian-13", description="stable")
    await tf.update(
        made.project,
        domain="shop.example",
        regions=sorted([made.region, made.other_region]),
        tags=[],
        quotas={"instances": 0, "memory": 0, "storage": 64 * GIB, "vcpus": 8},
    )
    await tf.update(made.adapter, name="db-card-1")
    await tf.update(made.volumes[1], size=2 * GIB + 512)
    await tf.update(made.instance, vcpus=2, memory=2 * GIB)
    await tf.update(made.kompute, vcpus=2, disk=11 * GIB)
