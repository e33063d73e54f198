"""Passwords as a guest's login checks them."""

import pytest

from appliance.core.secret import Secret
from appliance.core.unix_password import hash_unix_password

# By another implementation: openssl passwd -6 -salt saltstring
_VECTOR = (
    "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoE"
    "OfaS35inz1"
)


def test_a_hash_is_the_one_that_others_make() -> None:
    assert hash_unix_password(Secret("Hello world!"), "saltstring") == _VECTOR


@pytest.mark.parametrize("password", ["", "x" * 255, "pässwörd", ": \"'\\$(){}#"])
def test_any_password_has_a_hash_of_its_own(password: str) -> None:
    hashed = hash_unix_password(Secret(password), "abc")
    assert hashed.startswith("$6$abc$")
    assert hashed != hash_unix_password(Secret(password + "y"), "abc")
    assert hashed != hash_unix_password(Secret(password), "abd")
