"""Rules of team, project, volume, adapter, instance and kompute."""

import msgspec
import pytest

from appliance.resources.adapter import Adapter, canonical_mac, check_adapter
from appliance.resources.instance import Instance, check_instance
from appliance.resources.kompute import Kompute, check_kompute, check_kompute_change
from appliance.resources.project import Metadata, Project, ProjectResources, check_project
from appliance.resources.subnet import IpRange, Subnet
from appliance.resources.team import Team, check_team
from appliance.resources.volume import Volume, VolumeType, check_volume, check_volume_change
from tests.unit.resources.expect import refused
from tests.unit.resources.test_ssh_key import ED25519

GIB = 2**30


def test_team_checks_its_users() -> None:
    check_team(Team(name="ACME Office", users=[]))
    refused(lambda: check_team(Team(name="t", users=["u", "u"])), "users[1]", "twice")
    refused(lambda: check_team(Team(name="", users=[])), "name", "empty")


def project(**changed: object) -> Project:
    made = Project(
        name="acme",
        description="ACME project",
        domain="acme.local",
        tags=["acme", "production"],
        metadatas=[Metadata(key="owner", value="Kowabunga Admin")],
        teams=["t"],
        regions=["r"],
    )
    return msgspec.structs.replace(made, **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"domain": "", "root_password": "", "bootstrap_user": "", "bootstrap_pubkey": ""},
        {"teams": [], "regions": [], "tags": [], "metadatas": []},
        {"quotas": ProjectResources(vcpus=0, memory=0, storage=0, instances=0)},
        {"quotas": ProjectResources(vcpus=2**31 - 1, memory=2**63 - 1, storage=2**63 - 1)},
        {"root_password": "p: a'ss\"<&>$; word é"},
        {"bootstrap_pubkey": ED25519 + " me\n"},
        {"tags": ["b", "a", "b"]},
        {"metadatas": [Metadata(key="k", value=""), Metadata(key="K", value="two\nlines")]},
        {"private_subnets": [], "reserved_vrrp_ids": [1], "id": "sent back"},
    ],
)
def test_project_is_accepted(changed: dict[str, object]) -> None:
    check_project(project(**changed))


@pytest.mark.parametrize("user", ["kowabunga", "Administrator", "j.doe", "svc_1", "_apt", "9lives"])
def test_bootstrap_user_is_accepted(user: str) -> None:
    check_project(project(bootstrap_user=user))


@pytest.mark.parametrize(
    "user", ["-rf", "a b", "a:b", "a/b", "1000", ".", "..", "x" * 33, "root\n", "é", "$(id)"]
)
def test_bootstrap_user_is_refused(user: str) -> None:
    refused(
        lambda: check_project(project(bootstrap_user=user)),
        "bootstrap_user",
        "cannot be the name of a user",
    )


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"domain": "local"}, "domain", "needs at least 2 labels"),
        ({"root_password": "a\nroot2:b"}, "root_password", "root_password has a character"),
        ({"root_password": "x" * 256}, "root_password", "has 256 characters, 255 are allowed"),
        ({"bootstrap_pubkey": "ssh-rsa x"}, "bootstrap_pubkey", "is not an OpenSSH public key"),
        ({"tags": [""]}, "tags[0]", "tags[0] is empty"),
        ({"tags": ["a", "b\x00"]}, "tags[1]", "not printable"),
        ({"tags": ["x" * 256]}, "tags[0]", "has 256 characters"),
        ({"tags": ["x"] * 129}, "tags", "has 129 entries, 128 are allowed"),
        ({"metadatas": [Metadata(key="", value="v")]}, "metadatas[0].key", "is empty"),
        ({"metadatas": [Metadata(key="k", value="\x00")]}, "metadatas[0].value", "control"),
        ({"metadatas": [Metadata(key="k", value="a"), Metadata(key="k", value="b")]},
         "metadatas[1]", "metadatas has 'k' twice"),
        ({"metadatas": [Metadata(key=str(n), value="") for n in range(129)]}, "metadatas", "128"),
        ({"quotas": ProjectResources(vcpus=-1)}, "quotas.vcpus", "0 to 2147483647 is allowed"),
        ({"quotas": ProjectResources(instances=2**31)}, "quotas.instances", "0 to 2147483647"),
        ({"quotas": ProjectResources(memory=2**63)}, "quotas.memory", "is beyond 64 bits"),
        ({"quotas": ProjectResources(storage=-1)}, "quotas.storage", "is -1"),
        ({"teams": ["t", "t"]}, "teams[1]", "twice"),
        ({"regions": ["r", "r"]}, "regions[1]", "twice"),
    ],
)  # fmt: skip
def test_project_is_refused(changed: dict[str, object], field: str, message: str) -> None:
    refused(lambda: check_project(project(**changed)), field, message)


def test_root_password_is_not_shown_by_the_refusal() -> None:
    with pytest.raises(Exception, match="root_password") as caught:
        check_project(project(root_password="correct horse\x00"))
    assert "horse" not in str(caught.value)


def test_volume_keeps_its_type_and_never_shrinks() -> None:
    stored = Volume(name="disk 1", type=VolumeType.RAW, size=GIB)
    check_volume(stored)
    refused(lambda: check_volume(Volume(name="v", type=VolumeType.RAW, size=0)), "size", "is 0")
    check_volume_change(stored, Volume(name="v", type=VolumeType.RAW, size=2 * GIB))
    refused(
        lambda: check_volume_change(stored, Volume(name="v", type=VolumeType.OS, size=GIB)),
        "type",
        "volume disk 1 is of type raw and cannot become os",
    )
    refused(
        lambda: check_volume_change(stored, Volume(name="v", type=VolumeType.RAW, size=GIB - 1)),
        "size",
        "cannot shrink",
    )


SUBNET = Subnet(
    name="s",
    cidr="10.0.0.0/24",
    gateway="10.0.0.1",
    reserved=[IpRange(first="10.0.0.2", last="10.0.0.9")],
    gw_pool=[IpRange(first="10.0.0.250", last="10.0.0.254")],
)


@pytest.mark.parametrize(
    "adapter",
    [
        Adapter(name="web-private-adapter"),
        Adapter(name="a", mac="", addresses=[]),
        Adapter(name="a", mac="da:1e:70:00:00:01", addresses=["10.0.0.10", "10.0.0.249"]),
        Adapter(name="a", mac="DA:1E:70:AB:CD:EF"),
        Adapter(name="a", addresses=["10.0.0.5"]),  # reserved: only never given by itself
        Adapter(name="router", addresses=["10.0.0.1", "10.0.0.254"], reserved=True),
        Adapter(name="vrrp", mac="00:00:5e:00:01:01", reserved=True),
    ],
)
def test_adapter_is_accepted(adapter: Adapter) -> None:
    check_adapter(adapter, SUBNET)


@pytest.mark.parametrize(
    ("adapter", "field", "message"),
    [
        (Adapter(name="a", mac="da-1e-70-00-00-01"), "mac", "is not a hardware address"),
        (Adapter(name="a", mac="da:1e:70:00:00"), "mac", "is not a hardware address"),
        (Adapter(name="a", mac="da:1e:70:00:00:0g"), "mac", "is not a hardware address"),
        (Adapter(name="a", mac="da:1e:70:00:00:01\n"), "mac", "is not a hardware address"),
        (Adapter(name="a", mac="01:00:5e:00:00:01"), "mac", "does not belong to one machine"),
        (Adapter(name="a", mac="ff:ff:ff:ff:ff:ff"), "mac", "does not belong to one machine"),
        (Adapter(name="a", mac="00:00:00:00:00:00"), "mac", "does not belong to one machine"),
        (
            Adapter(name="a", addresses=["10.0.1.1"]),
            "addresses[0]",
            "is no address of a machine in",
        ),
        (Adapter(name="a", addresses=["10.0.0.9", "10.0.0.0"]), "addresses[1]", "is no address of"),
        (Adapter(name="a", addresses=["10.0.0.255"]), "addresses[0]", "is no address of a machine"),
        (Adapter(name="a", addresses=["10.0.0.9/24"]), "addresses[0]", "is not an IPv4 address"),
        (Adapter(name="a", addresses=["10.0.0.9"] * 2), "addresses[1]", "has '10.0.0.9' twice"),
        (Adapter(name="a", addresses=["10.0.0.1"]), "addresses[0]", "of the subnet's router"),
        (Adapter(name="a", addresses=["10.0.0.252"]), "addresses[0]", "for the gateways of a proj"),
        (Adapter(name="a", addresses=["x"] * 257), "addresses", "has 257 entries"),
        (Adapter(name=""), "name", "empty"),
    ],
)
def test_adapter_is_refused(adapter: Adapter, field: str, message: str) -> None:
    refused(lambda: check_adapter(adapter, SUBNET), field, message)


def test_hardware_addresses_are_equal_in_either_case() -> None:
    assert canonical_mac("DA:1E:70:AB:CD:EF") == canonical_mac("da:1e:70:ab:cd:ef")


def instance(**changed: object) -> Instance:
    return msgspec.structs.replace(Instance(name="web1", memory=GIB, vcpus=2), **changed)


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"name": "my web"}, "name", "is not a host name"),
        ({"memory": 0}, "memory", "is 0"),
        ({"vcpus": 0}, "vcpus", "is 0"),
        ({"adapters": ["a", "a"]}, "adapters[1]", "twice"),
        ({"volumes": ["v", "v"]}, "volumes[1]", "twice"),
        ({"description": "\x07"}, "description", "control"),
    ],
)
def test_instance_is_refused(changed: dict[str, object], field: str, message: str) -> None:
    check_instance(instance())
    refused(lambda: check_instance(instance(**changed)), field, message)


def kompute(**changed: object) -> Kompute:
    made = Kompute(name="web1", memory=GIB, vcpus=2, disk=8 * GIB, data_disk=GIB, ip="")
    return msgspec.structs.replace(made, **changed)


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"name": "My Web"}, "name", "is not a host name"),
        ({"memory": 2**63}, "memory", "is beyond 64 bits"),
        ({"vcpus": -1}, "vcpus", "is -1"),
        ({"disk": 0}, "disk", "is 0"),
        ({"data_disk": -1}, "data_disk", "is -1"),
    ],
)
def test_kompute_is_refused(changed: dict[str, object], field: str, message: str) -> None:
    check_kompute(kompute())
    check_kompute(kompute(data_disk=0))
    refused(lambda: check_kompute(kompute(**changed)), field, message)


def test_disks_of_a_kompute_grow_and_stay() -> None:
    check_kompute_change(kompute(), kompute(disk=9 * GIB, data_disk=2 * GIB))
    check_kompute_change(kompute(data_disk=0), kompute(data_disk=GIB))
    refused(lambda: check_kompute_change(kompute(), kompute(disk=GIB)), "disk", "cannot shrink")
    refused(
        lambda: check_kompute_change(kompute(), kompute(data_disk=1)), "data_disk", "cannot shrink"
    )
    refused(
        lambda: check_kompute_change(kompute(), kompute(data_disk=0)),
        "data_disk",
        "the data disk of kompute web1 cannot be removed",
    )
