"""The documents of Linux guests, read back as cloud-init reads them: with PyYAML."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.secret import Secret
from appliance.model.cloud_config import CloudConfig
from appliance.resources.guest import Documents, Guest
from appliance.resources.guest_linux import SECRET_FILE, linux_documents
from tests.unit.resources.guests import KEY, SECRET, card, guest

_SCHEMA = Path(__file__).parents[2] / "contract/cloud_init/schema-cloud-config-v1.json"
_HASH = Secret("$6$salt$hash")
_PRINTABLE = st.text(
    st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" :#'\"{}[]&*!|>%@`-?,\\$~"),
    min_size=1,
)


def read(documents: Documents) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    assert documents.user_data.startswith("#cloud-config\n")
    user, meta, network = (
        yaml.safe_load(text)
        for text in (documents.user_data, documents.meta_data, documents.network_config)
    )
    return user, meta, network


def user_data(made: Guest, fragment: CloudConfig | None = None) -> dict[str, Any]:
    return read(linux_documents(made, fragment or {}))[0]


def ethernets(made: Guest) -> dict[str, Any]:
    network = read(linux_documents(made, {}))[2]
    assert network["version"] == 2
    return dict(network["ethernets"])


def written(made: Guest) -> dict[str, dict[str, Any]]:
    return {file["path"]: file for file in user_data(made)["write_files"]}


def test_a_guest_knows_its_name_and_may_not_be_entered_with_a_password() -> None:
    config = user_data(guest())
    assert (config["hostname"], config["fqdn"]) == ("web-1", "web-1.acme.local")
    assert (config["ssh_pwauth"], config["disable_root"]) == (False, False)


def test_without_a_domain_there_is_no_full_name_to_claim() -> None:
    assert "fqdn" not in user_data(guest(domain=""))


def test_the_service_user_comes_in_by_key_and_is_root_by_sudo() -> None:
    _, service = user_data(guest())["users"]
    assert service["name"] == "kowabunga"
    assert service["ssh_authorized_keys"] == [KEY]
    assert service["sudo"] == "ALL=(ALL) NOPASSWD:ALL"
    assert service["lock_passwd"] is True


def test_a_user_with_the_name_of_a_group_of_its_own_belongs_to_that_group() -> None:
    _, service = user_data(guest(user="admin"))["users"]
    assert (service["name"], service["primary_group"]) == ("admin", "admin")
    assert "primary_group" not in user_data(guest(user="kowabunga"))["users"][1]


def test_roots_password_is_a_hash_and_without_one_it_is_locked() -> None:
    (root, _) = user_data(guest(password=_HASH))["users"]
    assert root == {"name": "root", "lock_passwd": False, "hashed_passwd": "$6$salt$hash"}
    (root, _) = user_data(guest())["users"]
    assert root == {"name": "root", "lock_passwd": True}


def test_a_service_user_that_is_root_is_there_once() -> None:
    users = user_data(guest(user="root", password=_HASH))["users"]
    assert users == [
        {
            "name": "root",
            "lock_passwd": False,
            "hashed_passwd": "$6$salt$hash",
            "ssh_authorized_keys": [KEY],
        }
    ]


def test_packages_are_installed_and_the_agent_started_and_nothing_waits_for_the_internet() -> None:
    config = user_data(guest())
    assert config["package_update"] is True
    assert config["packages"] == ["qemu-guest-agent", "curl"]
    (command,) = config["runcmd"]
    assert command.endswith("; true")  # an image without systemd is no reason to fail
    assert "bootcmd" not in config


def test_without_packages_a_guest_fetches_nothing() -> None:
    assert {"package_update", "packages", "runcmd"}.isdisjoint(user_data(guest(packages=())))


def test_the_secret_is_in_a_file_of_root_and_nowhere_else() -> None:
    file = written(guest())[SECRET_FILE]
    assert (file["owner"], file["permissions"]) == ("root:root", "0600")
    assert file["content"] == SECRET + "\n"
    documents = linux_documents(guest(), {})
    assert SECRET not in documents.meta_data + documents.network_config
    assert documents.user_data.count(SECRET) == 1
    assert SECRET not in repr(documents) + str([guest()])


def test_meta_data_tells_where_a_guest_is() -> None:
    meta = read(linux_documents(guest(), {}))[1]
    assert meta == {
        "instance-id": "0" * 24,
        "local-hostname": "web-1",
        "cloud-name": "kowabunga",
        "region": "eu",
        "availability-zone": "eu-a",
        "kowabunga_local_ip": "10.1.0.2",
        "kowabunga_metadata_uri": "https://kowabunga.example.org/latest/meta-data",
    }
    bare = read(linux_documents(guest(local_ip=None, metadata_uri=None), {}))[1]
    assert {"kowabunga_local_ip", "kowabunga_metadata_uri"}.isdisjoint(bare)


def test_cards_are_known_by_their_mac_and_use_what_they_are_given_and_nothing_else() -> None:
    public = card(
        1,
        private=False,
        addresses=("203.0.113.5/24",),
        gateway="203.0.113.1",
        next_hop="203.0.113.1",
        dns="192.0.2.53",
    )
    private = card(2, next_hop="10.1.0.250", routes=("10.9.0.0/16",))
    found = ethernets(guest(cards=(public, private)))
    assert list(found) == ["ens3", "ens4"]
    closed = {"dhcp4": False, "dhcp6": False, "accept-ra": False, "link-local": []}
    assert found["ens3"] == closed | {
        "match": {"macaddress": "da:1e:70:00:00:01"},
        "set-name": "ens3",
        "addresses": ["203.0.113.5/24"],
        "routes": [{"to": "0.0.0.0/0", "via": "203.0.113.1", "metric": 100}],
        "nameservers": {"addresses": ["192.0.2.53"]},
    }
    assert found["ens4"] == closed | {
        "match": {"macaddress": "da:1e:70:00:00:02"},
        "set-name": "ens4",
        "addresses": ["10.1.0.3/24"],
        "routes": [
            {"to": "10.9.0.0/16", "via": "10.1.0.1"},
            {"to": "0.0.0.0/0", "via": "10.1.0.250", "metric": 200},
        ],
        "nameservers": {"addresses": ["10.1.0.1"], "search": ["acme.local"]},
    }


def test_a_card_without_an_address_holds_up_no_start() -> None:
    found = ethernets(guest(cards=(card(addresses=()),)))["ens3"]
    assert found["optional"] is True
    assert {"addresses", "routes", "nameservers"}.isdisjoint(found)


def test_a_mac_of_digits_only_stays_a_text() -> None:
    # YAML 1.1, which cloud-init reads, takes 10:20:30:40:50:59 for a number to the base of 60.
    found = ethernets(guest(cards=(card(mac="10:20:30:40:50:59"),)))["ens3"]
    assert found["match"] == {"macaddress": "10:20:30:40:50:59"}


def test_the_network_is_looked_at_again_at_each_start() -> None:
    assert "boot" in user_data(guest())["updates"]["network"]["when"]


def test_what_the_owner_adds_comes_after_ours() -> None:
    fragment: CloudConfig = {
        "packages": ["htop"],
        "timezone": "Europe/Paris",
        "write_files": [{"path": "/etc/motd", "content": "hello\n"}],
        "ssh_pwauth": True,
    }
    config = user_data(guest(), fragment)
    assert config["packages"] == ["qemu-guest-agent", "curl", "htop"]
    assert config["timezone"] == "Europe/Paris"
    assert [file["path"] for file in config["write_files"]][-1] == "/etc/motd"
    assert len(config["write_files"]) == 3
    assert config["ssh_pwauth"] is True


@given(name=_PRINTABLE, domain=_PRINTABLE, user=_PRINTABLE, key=_PRINTABLE, password=_PRINTABLE)
def test_no_text_leaves_its_place(
    name: str, domain: str, user: str, key: str, password: str
) -> None:
    made = guest(
        host_name=name,
        domain=domain,
        region=domain,
        zone=name + "\n" + domain,
        user=user + "x",
        public_key=key,
        password=Secret(password),
        cards=(card(dns=name),),
    )
    config, meta, network = read(linux_documents(made, {}))
    assert (config["hostname"], config["fqdn"]) == (name, f"{name}.{domain}")
    root, service = config["users"]
    assert root["hashed_passwd"] == password
    assert (service["name"], service["ssh_authorized_keys"]) == (user + "x", [key])
    assert (meta["region"], meta["availability-zone"]) == (domain, name + "\n" + domain)
    assert network["ethernets"]["ens3"]["nameservers"] == {"addresses": [name], "search": [domain]}
    plain = user_data(guest())
    assert config.keys() == plain.keys()
    assert config["write_files"] == plain["write_files"]


@pytest.mark.parametrize(
    "made",
    [guest(), guest(password=_HASH, user="root"), guest(packages=(), public_key=None, domain="")],
    ids=["plain", "root", "bare"],
)
def test_cloud_inits_own_schema_accepts_it(made: Guest) -> None:
    schema = json.loads(_SCHEMA.read_text())
    config = user_data(made, {"timezone": "Europe/Paris", "runcmd": [["true"]]})
    wrong = jsonschema_rs.validator_for(schema).iter_errors(config)
    assert [f"{error.instance_path}: {error.message}" for error in wrong] == []


def test_that_schema_refuses_what_is_wrong() -> None:
    schema = json.loads(_SCHEMA.read_text())
    config = user_data(guest()) | {"ssh_pwauth": 7}
    assert not jsonschema_rs.validator_for(schema).is_valid(config)


def test_the_helper_asks_the_metadata_service_and_shows_the_secret_on_no_command_line(
    tmp_path: Path,
) -> None:
    script = tmp_path / "kw-meta"
    secret = tmp_path / "guest-secret"
    file = written(guest())["/usr/bin/kw-meta"]
    assert file["permissions"] == "0755"
    script.write_text(file["content"].replace(SECRET_FILE, str(secret)))
    secret.write_text(SECRET + "\n")
    for name, body in (
        ("cloud-init", 'echo "value of $2"'),
        ("curl", 'for each; do echo "arg $each"; done; cat'),
    ):
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)
    shell = shutil.which("sh")
    assert shell is not None
    done = subprocess.run(
        [shell, str(script)],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    arguments = [line.removeprefix("arg ") for line in lines if line.startswith("arg ")]
    assert "X-Kowabunga-Source-Ip: value of ds.meta_data.kowabunga_local_ip" in arguments
    assert "X-Kowabunga-Instance-Id: value of instance_id" in arguments
    assert arguments[-1] == "value of ds.meta_data.kowabunga_metadata_uri"
    assert not any(SECRET in argument for argument in arguments)
    assert lines[-1] == f"X-Kowabunga-Instance-Secret: {SECRET}"
