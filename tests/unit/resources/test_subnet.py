from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given as given_
from hypothesis import strategies as st

from appliance.core.errors import Invalid
from appliance.resources.ipv4 import Network, format_address
from appliance.resources.subnet import IpRange, Subnet, check_subnet
from tests.unit.resources.expect import refused


def ranges(*texts: str) -> list[IpRange]:
    return [IpRange(first=text.split("-")[0], last=text.split("-")[1]) for text in texts]


def subnet(**changed: object) -> Subnet:
    made = Subnet(
        name="eu-west-201",
        cidr="10.50.201.0/24",
        gateway="10.50.201.1",
        reserved=ranges("10.50.201.1-10.50.201.5"),
        gw_pool=ranges("10.50.201.252-10.50.201.254"),
    )
    return msgspec.structs.replace(made, **changed)


def public(**changed: object) -> Subnet:
    made = Subnet(
        name="eu-west-0",
        cidr="4.5.6.0/26",
        gateway="4.5.6.62",
        dns="9.9.9.9",
        reserved=ranges("4.5.6.0-4.5.6.0", "4.5.6.62-4.5.6.63"),
    )
    return msgspec.structs.replace(made, **changed)


def test_subnets_of_the_admin_guide_are_accepted() -> None:
    check_subnet(subnet(), private=True, zones=3)
    check_subnet(public(), private=False, zones=3)
    check_subnet(
        subnet(
            cidr="10.50.102.0/24",
            gateway="10.50.102.1",
            dns="9.9.9.9",
            reserved=ranges("10.50.102.0-10.50.102.69"),
            gw_pool=[],
        ),
        private=True,
        zones=3,
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"cidr": "10.50.201.77/24"},  # host bits come back as they were sent
        {"reserved": []},
        {"reserved": ranges("10.50.201.0-10.50.201.255")},
        {"reserved": ranges("10.50.201.250-10.50.201.254")},  # superfluous over gw_pool
        {"reserved": ranges("10.50.201.9-10.50.201.9", "10.50.201.7-10.50.201.8")},  # any order
        {"gw_pool": ranges("10.50.201.9-10.50.201.9", "10.50.201.11-10.50.201.12")},
        {"extra_routes": ["10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/8"]},
        {"dns": ""},
    ],
)
def test_private_subnet_is_accepted(changed: dict[str, object]) -> None:
    check_subnet(subnet(**changed), private=True, zones=3)


@pytest.mark.parametrize(
    "cidr", ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "100.64.0.0/24"]
)
def test_documentation_and_carrier_networks_are_not_private(cidr: str) -> None:
    gateway = cidr.replace(".0/24", ".1")
    check_subnet(public(cidr=cidr, gateway=gateway, reserved=[]), private=False, zones=1)


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"cidr": "10.50.201.0"}, "cidr", "is not an IPv4 network"),
        ({"cidr": "10.0.0.0/7"}, "cidr", "has a prefix length of 7; 8 to 30 is allowed"),
        ({"cidr": "10.50.201.0/31"}, "cidr", "has a prefix length of 31; 8 to 30 is allowed"),
        ({"cidr": "4.5.6.0/24"}, "cidr", "cidr 4.5.6.0/24 is not private, its virtual network is"),
        ({"cidr": "172.0.0.0/8"}, "cidr", "is not private"),
        ({"cidr": "169.254.0.0/16"}, "cidr", "has addresses that no machine can have"),
        ({"gateway": "10.50.202.1"}, "gateway",
         "10.50.202.1 is no address of a machine in 10.50.201.0/24"),
        ({"gateway": "10.50.201.0"}, "gateway", "is no address of a machine"),
        ({"gateway": "10.50.201.255"}, "gateway", "is no address of a machine"),
        ({"gateway": ""}, "gateway", "is not an IPv4 address"),
        ({"dns": "dns.acme.local"}, "dns", "is not an IPv4 address"),
        ({"extra_routes": ["10.0.0.0/8", "x"]}, "extra_routes[1]", "is not an IPv4 network"),
        ({"extra_routes": ["10.0.0.0/8"] * 257}, "extra_routes",
         "has 257 entries, 256 are allowed"),
        ({"reserved": ranges("10.50.201.1-10.50.202.1")}, "reserved[0]",
         "reserved 10.50.201.1-10.50.202.1 is not within 10.50.201.0/24"),
        ({"reserved": ranges("10.50.200.255-10.50.201.1")}, "reserved[0]", "is not within"),
        ({"reserved": ranges("10.50.201.5-10.50.201.4")}, "reserved[0].last",
         "ends before it begins"),
        ({"reserved": ranges("10.50.201.5-")}, "reserved[0].last", "is not an IPv4 address"),
        ({"reserved": ranges("10.50.201.5-10.50.201.7", "10.50.201.1-10.50.201.5")}, "reserved",
         "reserved 10.50.201.1-10.50.201.5 and 10.50.201.5-10.50.201.7 overlap"),
        ({"gw_pool": ranges("10.50.201.9-10.50.201.12", "10.50.201.12-10.50.201.13")}, "gw_pool",
         "overlap"),
        ({"gw_pool": ranges("10.50.201.0-10.50.201.0")}, "gw_pool[0]", "the network's own address"),
        ({"gw_pool": ranges("10.50.201.250-10.50.201.255")}, "gw_pool[0]",
         "has 10.50.201.255, the broadcast address"),
        ({"gw_pool": ranges("10.50.201.1-10.50.201.3")}, "gw_pool[0]", "the router's address"),
        ({"gw_pool": ranges("10.50.201.8-10.50.201.9")}, "gw_pool",
         "gw_pool has 2 addresses, the region has 3 zones"),
        ({"name": ""}, "name", "name is empty"),
        ({"description": "\x00"}, "description", "control character"),
    ],
)  # fmt: skip
def test_private_subnet_is_refused(changed: dict[str, object], field: str, message: str) -> None:
    refused(lambda: check_subnet(subnet(**changed), private=True, zones=3), field, message)


@pytest.mark.parametrize(
    "cidr", ["10.50.201.0/24", "172.16.0.0/16", "192.168.1.0/24", "172.0.0.0/8", "192.0.0.0/8"]
)
def test_public_network_takes_no_private_addresses(cidr: str) -> None:
    refused(
        lambda: check_subnet(public(cidr=cidr), private=False, zones=1),
        "cidr",
        f"cidr {cidr} is private, its virtual network is not",
    )


@pytest.mark.parametrize("cidr", ["127.0.0.0/8", "0.0.0.0/8", "224.0.0.0/24", "255.255.255.0/24"])
def test_public_network_takes_no_addresses_without_a_machine(cidr: str) -> None:
    refused(
        lambda: check_subnet(public(cidr=cidr), private=False, zones=1),
        "cidr",
        "has addresses that no machine can have",
    )


offsets = st.lists(st.tuples(st.integers(-2, 18), st.integers(-2, 18)), max_size=3)


def _ranges_at(base: int, pairs: Sequence[tuple[int, int]]) -> list[IpRange]:
    return [
        IpRange(first=format_address(base + low), last=format_address(base + high))
        for low, high in pairs
    ]


@given_(offsets, offsets, st.integers(0, 15), st.integers(1, 4))
def test_whatever_is_accepted_leaves_each_zone_a_gateway_of_its_own(
    reserved: list[tuple[int, int]], pool: list[tuple[int, int]], gateway: int, zones: int
) -> None:
    network = Network(0x0A000010, 28)
    made = Subnet(
        name="s",
        cidr=str(network),
        gateway=format_address(network.first + gateway),
        reserved=_ranges_at(network.first, reserved),
        gw_pool=_ranges_at(network.first, pool),
    )
    try:
        check_subnet(made, private=True, zones=zones)
    except Invalid:
        return
    chosen = [offset for low, high in pool for offset in range(low, high + 1)]
    assert len(chosen) == len(set(chosen))
    assert not pool or len(chosen) >= zones
    assert set(chosen) <= set(range(1, 15)) - {gateway}
