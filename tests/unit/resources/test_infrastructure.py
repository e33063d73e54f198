"""Rules of region, zone, agent, kiwi, kaktus, vnet, storage pool and template."""

from pathlib import PurePosixPath

import msgspec
import pytest

from appliance.resources.agent import Agent, NodeAgentType, check_agent, check_agent_change
from appliance.resources.api_token import ApiToken, check_api_token
from appliance.resources.cost import Cost
from appliance.resources.kaktus import Kaktus, check_kaktus
from appliance.resources.kiwi import Kiwi, check_kiwi
from appliance.resources.region import Region, check_region
from appliance.resources.storage_pool import (
    StoragePool,
    check_storage_pool,
    check_storage_pool_change,
    local_directory,
)
from appliance.resources.template import (
    OperatingSystem,
    Template,
    check_template,
    check_template_change,
)
from appliance.resources.vnet import VNet, check_vnet
from appliance.resources.zone import Zone, check_zone
from tests.unit.resources.expect import refused


def test_objects_of_the_admin_guide_are_accepted() -> None:
    check_region(Region(name="eu-west", description="Europe West", domain="eu-west.acme.local"))
    check_zone(Zone(name="eu-west-a", description="Europe West - A"))
    check_agent(Agent(name="kiwi-eu-west-1", type=NodeAgentType.KIWI))
    check_kiwi(Kiwi(name="kiwi-eu-west", agents=["a", "b"]))
    check_kaktus(
        Kaktus(
            name="kaktus-eu-west-a-1",
            agents=["a"],
            cpu_cost=Cost(price=500.0, currency="EUR"),
            memory_cost=Cost(price=200.0, currency="EUR"),
            overcommit_cpu_ratio=3,
            overcommit_memory_ratio=2,
        )
    )
    check_vnet(VNet(name="eu-west-0", vlan=0, interface="br0", private=False))
    check_template(
        Template(
            name="ubuntu-cloudimg-generic-24.04",
            source="https://cloud-images.ubuntu.com/noble/20250805/noble-server-cloudimg-amd64.img",
        )
    )


def test_kinds_without_rules_of_their_own_check_name_and_description() -> None:
    refused(lambda: check_zone(Zone(name="")), "name", "empty")
    refused(lambda: check_zone(Zone(name="z", description="\x1b")), "description", "control")
    refused(lambda: check_agent(Agent(name=" ", type=NodeAgentType.KIWI)), "name", "blank")
    refused(lambda: check_kiwi(Kiwi(name="\n")), "name", "not printable")
    refused(lambda: check_kiwi(Kiwi(name="k", agents=["a", "a"])), "agents[1]", "twice")
    refused(lambda: check_api_token(ApiToken(name="", expire=False)), "name", "empty")
    check_api_token(ApiToken(name="admin-api-key", expire=False))


def test_region_needs_a_domain() -> None:
    check_region(Region(name="lab", domain="lab"))
    refused(lambda: check_region(Region(name="r", domain="")), "domain", "is not a domain")


def test_agent_keeps_its_type() -> None:
    kiwi = Agent(name="a", type=NodeAgentType.KIWI)
    check_agent_change(kiwi, Agent(name="b", type=NodeAgentType.KIWI))
    refused(
        lambda: check_agent_change(kiwi, Agent(name="a", type=NodeAgentType.KAKTUS)),
        "type",
        "agent a is of type Kiwi and cannot become Kaktus",
    )


def kaktus(**changed: object) -> Kaktus:
    return msgspec.structs.replace(Kaktus(name="k", agents=["a"]), **changed)


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"cpu_cost": Cost(price=-1.0, currency="EUR")}, "cpu_cost.price", "-1.0"),
        ({"memory_cost": Cost(price=1.0, currency="\n")}, "memory_cost.currency", "not printable"),
        ({"overcommit_cpu_ratio": 0}, "overcommit_cpu_ratio", "1 to 1000 is allowed"),
        ({"overcommit_memory_ratio": 1001}, "overcommit_memory_ratio", "1 to 1000 is allowed"),
        ({"agents": ["a", "a"]}, "agents[1]", "has 'a' twice"),
    ],
)
def test_kaktus_is_refused(changed: dict[str, object], field: str, message: str) -> None:
    check_kaktus(kaktus())
    refused(lambda: check_kaktus(kaktus(**changed)), field, message)


@pytest.mark.parametrize("vlan", [0, 1, 4094, 4095])
def test_vlan_is_accepted(vlan: int) -> None:
    check_vnet(VNet(name="v", vlan=vlan, interface="br0"))


@pytest.mark.parametrize("vlan", [-1, 4096, 2**64])
def test_vlan_is_refused(vlan: int) -> None:
    refused(lambda: check_vnet(VNet(name="v", vlan=vlan, interface="br0")), "vlan", "0 to 4095 is")


@pytest.mark.parametrize("interface", ["br0", "br201", "br-lan", "vmbr0.10", "a" * 15, "0"])
def test_bridge_is_accepted(interface: str) -> None:
    check_vnet(VNet(name="v", interface=interface))


@pytest.mark.parametrize(
    "interface",
    ["", "a" * 16, "br 0", "br/0", "br:0", "br%d", ".", "..", "-br", "br0\n", "br;id", "bré", "all",
     "default", "lo"],
)  # fmt: skip
def test_bridge_is_refused(interface: str) -> None:
    refused(
        lambda: check_vnet(VNet(name="v", interface=interface)),
        "interface",
        "cannot be the name of a bridge",
    )


UUID = "2c1ca1e4-6a40-4b5e-9c0a-0c1f3c0e1f52"


def pool(**changed: object) -> StoragePool:
    made = StoragePool(
        name="eu-west-ssd",
        pool="rbd",
        ceph_address="ceph",
        ceph_port=3300,
        ceph_secret_uuid=UUID,
        cost=Cost(price=200.0, currency="EUR"),
        agents=["a", "b", "c"],
    )
    return msgspec.structs.replace(made, **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"ceph_address": "", "ceph_port": 0, "ceph_secret_uuid": ""},
        {"ceph_address": "localhost", "ceph_secret_uuid": UUID.upper()},
        {"ceph_address": "10.50.102.11,10.50.102.12,ceph.storage.eu-west.acme.local"},
        {"ceph_address": "local:///var/lib/kowabunga/pool-1", "agents": ["a"]},
        {"ceph_address": "local:///srv/...hidden", "agents": ["a"]},
        {"agents": []},
        {"cost": Cost(price=0.0, currency="EUR")},
        {"pool": "my_pool.2-x"},
    ],
)
def test_storage_pool_is_accepted(changed: dict[str, object]) -> None:
    check_storage_pool(pool(**changed))


def local(directory: str, *agents: str) -> dict[str, object]:
    return {"ceph_address": f"local://{directory}", "agents": list(agents) or ["a"]}


NO_DIRECTORY = "does not name an absolute directory"


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"pool": ""}, "pool", "cannot be the name of a Ceph pool"),
        ({"pool": "rbd/other"}, "pool", "cannot be the name of a Ceph pool"),
        ({"pool": "rbd@snap"}, "pool", "cannot be the name of a Ceph pool"),
        ({"pool": ".mgr"}, "pool", "cannot be the name of a Ceph pool"),
        ({"pool": "--help"}, "pool", "cannot be the name of a Ceph pool"),
        ({"pool": "rbd\n"}, "pool", "cannot be the name of a Ceph pool"),
        ({"ceph_address": "10.0.0.256"}, "ceph_address", "is not an IPv4 address"),
        ({"ceph_address": "ceph;id"}, "ceph_address", "is not a domain"),
        ({"ceph_address": "ceph,"}, "ceph_address", "is not a domain"),
        ({"ceph_address": "LOCAL:///x"}, "ceph_address", "is not a domain"),
        ({"ceph_address": ",".join(["ceph"] * 33)}, "ceph_address", "has 33 monitors, 32 are"),
        ({"ceph_port": -1}, "ceph_port", "0 to 65535 is allowed"),
        ({"ceph_port": 65536}, "ceph_port", "0 to 65535 is allowed"),
        ({"ceph_secret_uuid": "AQDkey=="}, "ceph_secret_uuid", "is not a UUID"),
        ({"cost": Cost(price=-0.5, currency="EUR")}, "cost.price", "is -0.5"),
        ({"agents": ["a", "b", "a"]}, "agents[2]", "twice"),
        (local(""), "ceph_address", NO_DIRECTORY),
        (local("/"), "ceph_address", NO_DIRECTORY),
        (local("srv/pool"), "ceph_address", NO_DIRECTORY),
        (local("/srv/pool/"), "ceph_address", NO_DIRECTORY),
        (local("/srv//pool"), "ceph_address", NO_DIRECTORY),
        (local("/srv/../etc"), "ceph_address", NO_DIRECTORY),
        (local("/srv/./pool"), "ceph_address", NO_DIRECTORY),
        (local("/srv/.."), "ceph_address", NO_DIRECTORY),
        (local("/srv/%2e%2e/etc"), "ceph_address", NO_DIRECTORY),
        (local("/srv/a b"), "ceph_address", NO_DIRECTORY),
        (local("/srv/a:b"), "ceph_address", NO_DIRECTORY),
        (local("/srv/pool\n"), "ceph_address", NO_DIRECTORY),
        (local("/" + "x" * 1024), "ceph_address", NO_DIRECTORY),
        (local("/srv/pool", "a", "b"), "agents", "has one agent, not 2"),
        ({"ceph_address": "local:///srv/pool", "agents": []}, "agents", "has one agent, not 0"),
    ],
)
def test_storage_pool_is_refused(changed: dict[str, object], field: str, message: str) -> None:
    refused(lambda: check_storage_pool(pool(**changed)), field, message)


def test_secret_of_a_pool_is_not_shown_by_the_refusal() -> None:
    with pytest.raises(Exception, match="is not a UUID") as caught:
        check_storage_pool(pool(ceph_secret_uuid="AQBtheKeyItself=="))
    assert "AQBtheKeyItself" not in str(caught.value)


def test_directory_of_a_local_pool() -> None:
    found = local_directory(pool(**local("/var/lib/pool")))
    assert found == PurePosixPath("/var/lib/pool")
    assert local_directory(pool()) is None
    assert local_directory(pool(ceph_address=None)) is None


def test_storage_pool_stays_where_its_images_are() -> None:
    here, there = pool(**local("/srv/a")), pool(**local("/srv/b"))
    check_storage_pool_change(here, pool(**local("/srv/a", "z")))
    check_storage_pool_change(pool(), pool(ceph_address="ceph2"))
    for stored, wanted in ((here, there), (here, pool()), (pool(), here)):
        refused(
            lambda stored=stored, wanted=wanted: check_storage_pool_change(stored, wanted),  # type: ignore[misc]
            "ceph_address",
            "cannot become",
        )


@pytest.mark.parametrize(
    "source",
    [
        "http://a/b", "https://images.acme.com:8443/x%20y.img?token=a&b=c#frag", "HTTPS://A/B",
        "http://10.0.0.1/x", "http://[2001:db8::1]:80/x", "https://a", "http://a/" + "x" * 2039,
        "https://a/user@host/x",
    ],
)  # fmt: skip
def test_source_is_accepted(source: str) -> None:
    check_template(Template(name="t", source=source))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "is empty or has a character"),
        ("ftp://a/b", "is neither http nor https"),
        ("file:///etc/shadow", "is neither http nor https"),
        ("/etc/shadow", "is neither http nor https"),
        ("javascript:alert(1)", "is neither http nor https"),
        ("http:/a/b", "names no host and port"),
        ("http://", "names no host and port"),
        ("http:///path", "names no host and port"),
        ("http://:80/x", "names no host and port"),
        ("http://a:0/x", "names no host and port"),
        ("https://user:secret@a/b", "has a user name or a password"),
        ("https://user@a/b", "has a user name or a password"),
        ("https://@a/b", "has a user name or a password"),
        ("http://a:99999/b", "is not a URL"),
        ("http://a:port/b", "is not a URL"),
        ("http://[::1/b", "is not a URL"),
        ("http://a/b c", "has a character that does not belong"),
        ("http://a/\n", "has a character that does not belong"),
        ("http://a\\@b/", "has a character that does not belong"),
        ("http://é/b", "has a character that does not belong"),
        ("http://a/" + "x" * 2040, "has 2049 characters, 2048 are allowed"),
    ],
)
def test_source_is_refused_without_showing_it(source: str, message: str) -> None:
    check = Template(name="t", source=source)
    refused(lambda: check_template(check), "source", message)
    with pytest.raises(Exception, match="source") as caught:
        check_template(check)
    assert "secret" not in str(caught.value)


def test_template_keeps_its_image_and_system() -> None:
    stored = Template(name="t", source="http://a/b")
    check_template_change(stored, Template(name="u", source="http://a/b", os=OperatingSystem.LINUX))
    refused(
        lambda: check_template_change(stored, Template(name="t", source="http://a/c")),
        "source",
        "the source of template t cannot change",
    )
    windows = Template(name="t", source="http://a/b", os=OperatingSystem.WINDOWS)
    refused(lambda: check_template_change(stored, windows), "os", "the os of template t cannot")
