import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core.errors import Invalid
from appliance.resources.ssh_key import check_public_key

_PRIVATE = (
    ed25519.Ed25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP521R1()),
)
KEYS = [
    key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    for key in _PRIVATE
]
ED25519 = KEYS[0]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("end", ["", " admin@acme", " John Doe's laptop", "\n", " c\n", "\r\n"])
def test_public_key_is_accepted(key: str, end: str) -> None:
    check_public_key(key + end, "bootstrap_pubkey")


def _swapped(key: str) -> str:
    return "ssh-rsa " + key.split(" ")[1]


def _key_of_type(kind: str) -> str:
    """Return a line whose parts fit together."""
    name = kind.encode()
    blob = len(name).to_bytes(4, "big") + name + b"\0\0\0\x01x"
    return f"{kind} {base64.b64encode(blob).decode()}"


@pytest.mark.parametrize(
    "line",
    [
        "", "ssh-ed25519", "ssh-ed25519 ", "AAAAC3Nz", f"{ED25519}\n{ED25519}", f"{ED25519}\n\n",
        f'command="id" {ED25519}', ED25519[:-4], ED25519 + "AAAA", _swapped(ED25519), " " + ED25519,
        ED25519.replace(" ", "  "), ED25519.replace(" ", "\t"), "ssh-dss AAAAB3NzaC1kc3M=",
        "ssh-ed25519 AAAAé", "ssh-ed25519 AAAA*A==", "ssh-ed25519 AAAA", f"{ED25519} \x1b[2J",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----\n",
        "x" * 20_000,
        ED25519.replace("AAAAC3", "AAAA*C3"), _key_of_type("ssh-dss"), _key_of_type("no such type"),
    ],
)  # fmt: skip
def test_public_key_is_refused_without_showing_it(line: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_public_key(line, "bootstrap_pubkey")
    assert caught.value.context["field"] == "bootstrap_pubkey"
    for word in line.split():
        assert len(word) < 8 or word in {"ssh-ed25519"} or word not in str(caught.value)


@given(st.integers(1, len(ED25519.split(" ")[1]) - 1))
@settings(max_examples=50)
def test_a_key_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(Invalid):
        check_public_key("ssh-ed25519 " + ED25519.split(" ")[1][:length], "bootstrap_pubkey")
