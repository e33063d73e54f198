"""The documents of Windows guests: data stays data. No Windows runs them here."""

import base64
import re
from typing import Any

import msgspec
import yaml
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.secret import Secret
from appliance.resources.guest import Guest
from appliance.resources.guest_windows import windows_documents
from tests.unit.resources.guests import SECRET, card, guest

_DATA = re.compile(r"FromBase64String\('([A-Za-z0-9+/=]+)'\)")


def facts(made: Guest, fragment: str | None = None) -> dict[str, Any]:
    """Return what the script reads as `$Guest`."""
    (encoded,) = _DATA.findall(windows_documents(made, fragment).user_data)
    return dict(msgspec.json.decode(base64.b64decode(encoded)))


def script(made: Guest, fragment: str | None = None) -> str:
    return _DATA.sub("", windows_documents(made, fragment).user_data)


def test_the_script_is_told_everything_by_data() -> None:
    made = guest(
        host_name="Web_1.internal-and-rather-long",
        password=Secret("s3cret'\"$x"),
        cards=(card(routes=("10.9.0.0/16",)), card(2, addresses=())),
    )
    assert facts(made, "#ps1\nhello") == {
        "computer_name": "Web-1",
        "domain": "acme.local",
        "user": "kowabunga",
        "public_key": made.public_key,
        "password": "s3cret'\"$x",
        "secret": SECRET,
        "routes": [{"mac": "da:1e:70:00:00:01", "to": "10.9.0.0/16", "via": "10.1.0.1"}],
        "metrics": [{"mac": "da:1e:70:00:00:01", "metric": 200}],
        "tools": True,
        "fragment": "#ps1\nhello",
    }


def test_cloudbase_init_runs_it_as_powershell() -> None:
    assert windows_documents(guest(), None).user_data.startswith("#ps1_sysnative\n")


@given(text=st.text(min_size=1))
def test_no_text_becomes_part_of_the_script(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    made = guest(
        domain=text, user=text, public_key=text, password=Secret(text), secret=Secret(text)
    )
    assert script(made, text) == script(guest())
    told = facts(made, text)
    assert {told[name] for name in ("domain", "user", "public_key", "password", "fragment")} == {
        text
    }


def test_meta_data_and_network_are_what_cloudbase_init_understands() -> None:
    public = card(private=False, next_hop="10.1.0.250")
    documents = windows_documents(guest(cards=(public, card(2, addresses=()), card(3))), None)
    assert yaml.safe_load(documents.meta_data) == {
        "instance-id": "0" * 24,
        "hostname": "web-1",
        "local-hostname": "web-1",
    }
    network = yaml.safe_load(documents.network_config)
    assert network["version"] == 1
    assert network["config"] == [
        {
            "type": "physical",
            "name": "interface0",
            "mac_address": "da:1e:70:00:00:01",
            "subnets": [
                {
                    "type": "static",
                    "address": "10.1.0.2/24",
                    "gateway": "10.1.0.250",
                    "dns_nameservers": ["10.1.0.1"],
                }
            ],
        },
        {
            "type": "physical",
            "name": "interface2",
            "mac_address": "da:1e:70:00:00:03",
            "subnets": [
                {
                    "type": "static",
                    "address": "10.1.0.4/24",
                    "gateway": "10.1.0.1",
                    "dns_nameservers": ["10.1.0.1"],
                    "dns_search": ["acme.local"],
                }
            ],
        },
    ]
    assert SECRET not in documents.meta_data + documents.network_config


def test_a_guest_without_packages_fetches_no_tools() -> None:
    assert facts(guest(packages=()))["tools"] is False
