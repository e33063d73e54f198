"""The way of the documentation, over the REST API: from a region to a virtual machine.

Each object is looked for by its name first, so doing it again makes nothing twice.
"""

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from demo import network, node
from demo.places import Places
from demo.progress import Failed
from demo.state import State

V1, EXT = "/api/v1", "/api/ext/v1"
USER = "admin"
MACHINE = "demo-1"
TEMPLATE = "debian"
GIB = 2**30
_CONNECT_S = 60.0
_CHANGE_S = 1800.0  # a template takes as long as its import

Json = Any  # the API's objects, as they are


class Api:
    """The REST API, with the master key; the certificate is checked."""

    def __init__(self, places: Places, state: State) -> None:
        self._url = state.url
        self._key = places.api_key_file.read_text().strip()
        self._tls = ssl.create_default_context(cafile=str(places.ca_file))

    def __call__(self, method: str, path: str, body: Json = None) -> Json:
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-API-Key": self._key, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_CHANGE_S, context=self._tls) as answer:
                content = answer.read()
        except urllib.error.HTTPError as refused:
            said = refused.read().decode(errors="replace")
            raise Failed(f"{method} {path}: {refused.code} {said}") from refused
        except OSError as failed:
            raise Failed(f"{method} {path}: {failed}") from failed
        return json.loads(content) if content else None

    def find(self, kind: str, name: str) -> Json:
        """Return the object of that name, or None."""
        for object_id in self("GET", f"{V1}/{kind}"):
            found = self("GET", f"{V1}/{kind}/{object_id}")
            if found["name"] == name:
                return found
        return None

    def ensure(
        self, kind: str, name: str, *, below: str = "", query: str = "", **fields: Json
    ) -> str:
        """Return the id of the object of that name; a missing one is made below its parent."""
        found = self.find(kind, name)
        if found is None:
            found = self("POST", f"{V1}{below}/{kind}{query}", {"name": name, **fields})
        return str(found["id"])


@dataclass(frozen=True)
class Made:
    region: str
    zone: str
    pool: str


@dataclass(frozen=True)
class Machine:
    id: str
    name: str
    user: str
    address: str


def ensure_places(api: Api, places: Places, state: State) -> Made:
    """Make region, zone, kaktus, virtual network, subnet and pool."""
    # All that a guest of ours needs is in its image: it fetches nothing.
    api("PUT", f"{EXT}/settings/cloud_init.packages", {"value": ""})
    region = api.ensure("region", "demo", domain="demo.example")
    zone = api.ensure("zone", "demo-a", below=f"/region/{region}")
    agent = _connected_agent(api, f"{node.NAME}-kaktus")
    api.ensure("kaktus", "demo-kaktus", below=f"/zone/{zone}", agents=[agent])
    vnet = api.ensure(
        "vnet", "demo", below=f"/region/{region}", vlan=0, interface=network.BRIDGE, private=True
    )
    gateway, project_gateway = network.gateways(state)
    subnet = api.ensure(
        "subnet",
        "demo",
        below=f"/vnet/{vnet}",
        cidr=state.network,
        gateway=gateway,
        dns=network.name_server(),
        gw_pool=[{"first": project_gateway, "last": project_gateway}],
    )
    api("PATCH", f"{V1}/vnet/{vnet}/subnet/{subnet}/default")
    pool = api.ensure(
        "pool",
        "local",
        below=f"/region/{region}",
        pool="local",
        ceph_address=f"local://{places.pool}",
        agents=[agent],
    )
    api("PATCH", f"{V1}/region/{region}/pool/{pool}/default")
    return Made(region, zone, pool)


def has_template(api: Api) -> bool:
    return api.find("template", TEMPLATE) is not None


def ensure_template(api: Api, made: Made, source: str, *, local: bool) -> None:
    """Have the node import the image; from this machine only by leave, which ends with it."""
    setting = f"{EXT}/settings/templates.allowed_sources"
    if local:
        api("PUT", setting, {"value": "127.0.0.1"})
    try:
        template = api.ensure("template", TEMPLATE, below=f"/pool/{made.pool}", source=source)
    finally:
        if local:
            api("DELETE", setting)
    api("PATCH", f"{V1}/pool/{made.pool}/template/{template}/default")


def ensure_machine(api: Api, places: Places, made: Made) -> Machine:
    """Make team, project and the virtual machine; it answers once that runs."""
    team = api.ensure("team", "demo", users=[])
    project = api.ensure(
        "project",
        "demo",
        query="?subnetSize=26",
        domain="demo.example",
        tags=[],
        metadatas=[],
        bootstrap_user=USER,
        bootstrap_pubkey=places.ssh_key.with_suffix(".pub").read_text().strip(),
        quotas={"instances": 8, "vcpus": 16, "memory": 16 * GIB, "storage": 100 * GIB},
        teams=[team],
        regions=[made.region],
    )
    api.ensure(
        "kompute",
        MACHINE,
        below=f"/project/{project}/zone/{made.zone}",
        query="?public=false",
        vcpus=min(2, os.cpu_count() or 1),
        memory=GIB,
        disk=4 * GIB,
    )
    machine = find_machine(api)
    assert machine is not None
    return machine


def find_machine(api: Api) -> Machine | None:
    found = api.find("kompute", MACHINE)
    return None if found is None else Machine(found["id"], MACHINE, USER, found["ip"])


def _connected_agent(api: Api, name: str) -> str:
    """Return the id of the agent of this node, which has made itself known, once it is there."""
    end = time.monotonic() + _CONNECT_S
    while True:
        for agent in api("GET", f"{EXT}/agents"):
            if agent["name"] == name and agent["sessions"]:
                return str(agent["id"])
        if time.monotonic() > end:
            raise Failed(f"agent {name} does not connect")
        time.sleep(0.2)
