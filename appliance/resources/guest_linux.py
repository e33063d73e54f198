"""The documents of a Linux guest, for cloud-init's NoCloud, built as data. Pure.

Nothing here waits for a network: a guest without one is ready as soon as the others.
"""

from typing import Final

import msgspec

from appliance.core.secret import Secret
from appliance.model.cloud_config import HEADER, CloudConfig, merge_cloud_config
from appliance.resources.guest import FIRST_CARD, Card, Documents, Guest

SECRET_FILE: Final = "/etc/kowabunga/guest-secret"  # noqa: S105 - a path
_AGENT: Final = "qemu-guest-agent"
_ROOT: Final = "root"

# The secret goes by standard input: command lines are there for all to read.
_KW_META: Final = f"""#!/bin/sh
# Print what Kowabunga knows about this instance, as JSON. Root alone can read the secret.
set -eu
uri=$(cloud-init query ds.meta_data.kowabunga_metadata_uri)
ip=$(cloud-init query ds.meta_data.kowabunga_local_ip)
id=$(cloud-init query instance_id)
secret=$(cat {SECRET_FILE})
printf 'X-Kowabunga-Instance-Secret: %s\\n' "$secret" |
    curl --silent --show-error --fail --max-time 30 --header @- \\
        --header "X-Kowabunga-Source-Ip: $ip" --header "X-Kowabunga-Instance-Id: $id" "$uri"
"""


def linux_documents(guest: Guest, fragment: CloudConfig) -> Documents:
    """Return what cloud-init finds, and what the owner adds; `guest.password` is a hash."""
    user_data = merge_cloud_config(_user_data(guest), fragment)
    return Documents(
        user_data=f"{HEADER}\n{_yaml(user_data)}",
        meta_data=_yaml(_meta_data(guest)),
        network_config=_yaml(network_config(guest)),
    )


def _user_data(guest: Guest) -> CloudConfig:
    config: CloudConfig = {
        "hostname": guest.host_name,
        "manage_etc_hosts": "localhost",  # its own name resolves without a server
        "ssh_pwauth": False,
        "disable_root": False,
        "users": _users(guest),
        "write_files": [
            _file(SECRET_FILE, "0600", guest.secret.reveal_text() + "\n"),
            _file("/usr/bin/kw-meta", "0755", _KW_META),
        ],
        # So that a card or an address that came or went is there after the next start.
        "updates": {"network": {"when": ["boot-new-instance", "boot"]}},
    }
    if guest.domain:
        config["fqdn"] = f"{guest.host_name}.{guest.domain}"
    if guest.packages:
        config |= {"package_update": True, "packages": list(guest.packages)}
    if _AGENT in guest.packages:
        # Where its unit is started by a device (Debian), that came before the package.
        config["runcmd"] = [f"systemctl enable {_AGENT}; systemctl start {_AGENT}; true"]
    return config


def _users(guest: Guest) -> list[object]:
    root = {"name": _ROOT, **_password(guest.password)}
    keys = {} if guest.public_key is None else {"ssh_authorized_keys": [guest.public_key]}
    if guest.user == _ROOT:
        return [root | keys]
    groups = ["users", "admin"]
    service: CloudConfig = {
        "name": guest.user,
        "gecos": "Kowabunga",
        "groups": groups,
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": True,
    }
    if guest.user in groups:  # which are made first: useradd refuses to make one of its own then
        service["primary_group"] = guest.user
    return [root, service | keys]


def _password(hashed: Secret | None) -> CloudConfig:
    if hashed is None:
        return {"lock_passwd": True}
    return {"lock_passwd": False, "hashed_passwd": hashed.reveal_text()}


def _file(path: str, permissions: str, content: str) -> CloudConfig:
    return {"path": path, "owner": "root:root", "permissions": permissions, "content": content}


def _meta_data(guest: Guest) -> CloudConfig:
    """Return what every user of the guest may read."""
    data: CloudConfig = {
        "instance-id": guest.instance_id,
        "local-hostname": guest.host_name,
        "cloud-name": "kowabunga",
        "region": guest.region,
        "availability-zone": guest.zone,
    }
    if guest.local_ip is not None:
        data["kowabunga_local_ip"] = guest.local_ip
    if guest.metadata_uri is not None:
        data["kowabunga_metadata_uri"] = guest.metadata_uri
    return data


def network_config(guest: Guest) -> CloudConfig:
    """Return version 2, which netplan reads and cloud-init translates for others."""
    return {
        "version": 2,
        "ethernets": {
            f"ens{number}": _ethernet(card, f"ens{number}", guest)
            for number, card in enumerate(guest.cards, FIRST_CARD)
        },
    }


def _ethernet(card: Card, name: str, guest: Guest) -> CloudConfig:
    config: CloudConfig = {
        "match": {"macaddress": card.mac},
        "set-name": name,
        "dhcp4": False,
        "dhcp6": False,
        "accept-ra": False,
        "link-local": [],
    }
    if not card.addresses:
        return config | {"optional": True}  # else systemd waits two minutes for an address
    config["addresses"] = list(card.addresses)
    routes: list[CloudConfig] = [{"to": route, "via": card.gateway} for route in card.routes]
    if card.next_hop is not None:
        routes.append({"to": "0.0.0.0/0", "via": card.next_hop, "metric": card.metric})
    if routes:
        config["routes"] = routes
    nameservers: CloudConfig = {"addresses": [card.dns]}
    if card.private and guest.search_domains:
        nameservers["search"] = guest.search_domains
    config["nameservers"] = nameservers
    return config


def _yaml(document: CloudConfig) -> str:
    return msgspec.yaml.encode(document).decode()
