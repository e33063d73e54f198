"""Who has to give way, and whom an address belongs to."""

import pytest

from appliance.core.room import Room, host_of


def test_the_host_with_most_guests_is_the_greediest_and_its_first_guest_the_oldest() -> None:
    room = Room[str]()
    for host, guest in [("a", "a1"), ("b", "b1"), ("b", "b2"), ("a", "a2"), ("b", "b3")]:
        room.enter(host, guest)
    assert (len(room), room.count("b"), room.greediest(), room.oldest("b")) == (5, 3, "b", "b1")
    room.leave("b", "b1")
    room.leave("b", "b1")
    assert (len(room), room.greediest(), room.oldest("b")) == (4, "a", "b2")
    for host, guest in [("a", "a1"), ("a", "a2"), ("b", "b2"), ("b", "b3"), ("c", "c1")]:
        room.leave(host, guest)
    assert (len(room), room.greediest(), room.oldest("a")) == (0, None, None)


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("192.0.2.7:81", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6:81", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:81", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7:81", "192.0.2.7"),
        ("local", "local"),
        ("memory:1", "memory"),
    ],
)
def test_an_ipv6_address_counts_as_its_network(address: str, host: str) -> None:
    assert host_of(address) == host
