"""A guest for tests."""

from typing import Any

import msgspec

from appliance.core.secret import Secret
from appliance.resources.guest import Card, Guest

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f admin"
SECRET = "kwg_0123456789"


def card(number: int = 1, **changes: Any) -> Card:  # noqa: ANN401 - any field
    private = Card(
        mac=f"da:1e:70:00:00:{number:02}",
        private=True,
        addresses=(f"10.1.0.{number + 1}/24",),
        gateway="10.1.0.1",
        next_hop="10.1.0.1",
        routes=(),
        dns="10.1.0.1",
    )
    return msgspec.structs.replace(private, **changes)


def guest(**changes: Any) -> Guest:  # noqa: ANN401 - any field
    plain = Guest(
        instance_id="0" * 24,
        host_name="web-1",
        domain="acme.local",
        region="eu",
        zone="eu-a",
        cards=(card(),),
        local_ip="10.1.0.2",
        user="kowabunga",
        public_key=KEY,
        password=None,
        secret=Secret(SECRET),
        metadata_uri="https://kowabunga.example.org/latest/meta-data",
        packages=("qemu-guest-agent", "curl"),
    )
    return msgspec.structs.replace(plain, **changes)
