"""What a crowd meets: a region with all that it takes to make machines, and two projects."""

import asyncio
from typing import Final

from appliance.api.v1.routes import V1_PATH
from appliance.store.base import Statement
from tests.property.clients.bodies import Known, agents_of
from tests.property.clients.served import Served
from tests.support.wait import until

_HOSTS: Final = 3
_LOOK_S: Final = 0.01


async def furnish(served: Served, known: Known) -> None:
    """Make a region of everything; nobody will delete it."""

    async def make(path: str, parameter: str, **body: object) -> str:
        made: str = (await served.ask("POST", V1_PATH + path, body))["id"]
        known.keep(parameter, made)
        return made

    region = await make("/region", "regionId", name="eu", domain="eu.example.org")
    zone = await make(f"/region/{region}/zone", "zoneId", name="eu-a")
    agents = [
        await make("/agent", "agentId", name=f"host-{number}", type="Kaktus")
        for number in range(_HOSTS)
    ]
    for agent in agents:
        known.add(agents_of("Kaktus"), agent)
        await make(f"/zone/{zone}/kaktus", "kaktusId", name=f"host-{agent}", agents=[agent])
    inside = await make(
        f"/region/{region}/vnet", "vnetId", name="inside", vlan=100, interface="br100"
    )
    outside = await make(
        f"/region/{region}/vnet", "vnetId", name="outside", interface="br0", private=False
    )
    subnets = [
        await make(f"/vnet/{vnet}/subnet", "subnetId", name=net, cidr=f"{net}.0/24",
                   gateway=f"{net}.1")
        for vnet, net in ((inside, "10.200.0"), (inside, "10.200.1"), (outside, "203.0.113"))
    ]  # fmt: skip
    await served.ask("PATCH", f"{V1_PATH}/vnet/{outside}/subnet/{subnets[-1]}/default")
    pool = await make(
        f"/region/{region}/pool", "poolId", name="ssd", pool="rbd", ceph_address="ceph.example",
        agents=agents,
    )  # fmt: skip
    await _until_seen(served, agents)
    source = "https://images.example/debian.qcow2"
    await make(f"/pool/{pool}/template", "templateId", name="debian", source=source)
    team = await make("/team", "teamId", name="people", users=[])
    for name, quotas in (("big", {}), ("small", {"vcpus": 6, "instances": 4})):
        await make(
            "/project", "projectId", name=name, teams=[team], regions=[region], quotas=quotas
        )


async def _until_seen(served: Served, agents: list[str]) -> None:
    """Wait until the hosts of these agents have told what they have."""
    hub, store = served.services.hub, served.services.store
    await until(lambda: all(map(hub.reachable, agents)), "every agent is played")
    unseen = Statement("SELECT id FROM kaktus WHERE memory_bytes = 0")
    async with asyncio.timeout(100):
        while await store.query(unseen):  # noqa: ASYNC110 - what is awaited is a row
            await asyncio.sleep(_LOOK_S)
