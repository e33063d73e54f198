import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import Invalid
from appliance.resources.ipv4 import (
    Network,
    format_address,
    parse_address,
    parse_network,
    parse_range,
)
from tests.unit.resources.expect import refused

addresses = st.integers(0, 2**32 - 1)
networks = st.builds(Network, addresses, st.integers(0, 32))


@given(addresses)
def test_an_address_comes_back_as_the_very_text(address: int) -> None:
    text = format_address(address)
    assert text == str(ipaddress.IPv4Address(address))
    assert parse_address(text, "ip") == address


@given(st.text(alphabet="0123456789./ x", max_size=20) | st.text(max_size=20))
def test_whatever_is_accepted_comes_back_as_it_was_sent(text: str) -> None:
    with contextlib.suppress(Invalid):
        assert format_address(parse_address(text, "ip")) == text
    with contextlib.suppress(Invalid):
        assert str(parse_network(text, "cidr")) == text


@given(st.text(alphabet="0123456789.", max_size=20))
def test_the_same_texts_are_addresses_for_us_and_for_the_standard_library(text: str) -> None:
    try:
        expected = int(ipaddress.IPv4Address(text))
    except ValueError:
        with pytest.raises(Invalid):
            parse_address(text, "ip")
    else:
        assert parse_address(text, "ip") == expected


@given(networks)
def test_bounds_of_a_network_are_those_of_the_standard_library(network: Network) -> None:
    parsed = parse_network(str(network), "cidr")
    expected = ipaddress.ip_network(str(network), strict=False)
    assert parsed == network  # host bits are kept
    assert (parsed.first, parsed.last) == (
        int(expected.network_address),
        int(expected.broadcast_address),
    )
    assert parsed.size == expected.num_addresses


@given(networks, networks)
def test_relations_of_networks_are_those_of_the_standard_library(a: Network, b: Network) -> None:
    one, other = (ipaddress.IPv4Network(str(network), strict=False) for network in (a, b))
    assert a.overlaps(b) == one.overlaps(other)
    assert a.within(b) == one.subnet_of(other)


@pytest.mark.parametrize(
    "text",
    [
        "", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.999", "01.2.3.4", "1.2.3.04", "1.2.3.4 ",
        " 1.2.3.4", "1.2.3.4\n", "1.2.3.-4", "0x7f.0.0.1", "127.1", "2130706433", "::1",
        "\u0661.2.3.4", "localhost",
    ],
)  # fmt: skip
def test_address_is_refused(text: str) -> None:
    refused(lambda: parse_address(text, "gateway"), "gateway", "is not an IPv4 address")


@pytest.mark.parametrize(
    "text",
    [
        "", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08",
        "10.0.0.0/255.0.0.0", "10.0.0.0/8/8", "10.0.0.0/8\n", "/8", "::/0", "10.0.0/8",
    ],
)  # fmt: skip
def test_network_is_refused(text: str) -> None:
    refused(lambda: parse_network(text, "cidr"), "cidr", "is not an IPv4")


@pytest.mark.parametrize(
    ("address", "host"),
    [("10.0.0.0", False), ("10.0.0.1", True), ("10.0.0.254", True), ("10.0.0.255", False),
     ("10.0.1.1", False)],
)  # fmt: skip
def test_a_machine_has_neither_the_first_nor_the_last_address(address: str, host: bool) -> None:
    assert parse_network("10.0.0.77/24", "cidr").has_host(parse_address(address, "ip")) is host


def test_range_has_both_ends_and_the_right_order() -> None:
    found = parse_range("10.0.0.3", "10.0.0.5", "reserved[0]")
    assert (found.size, str(found)) == (3, "10.0.0.3-10.0.0.5")
    assert parse_range("10.0.0.3", "10.0.0.3", "reserved[0]").size == 1
    refused(
        lambda: parse_range("10.0.0.5", "10.0.0.3", "reserved[0]"),
        "reserved[0].last",
        "reserved[0] 10.0.0.5-10.0.0.3 ends before it begins",
    )
    refused(lambda: parse_range("", "1.1.1.1", "gw_pool[1]"), "gw_pool[1].first", "is not an IPv4")
