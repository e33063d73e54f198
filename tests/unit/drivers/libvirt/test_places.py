"""Places of disks and cards stay while others come and go."""

import pytest

from appliance.core.errors import Invalid
from appliance.drivers.libvirt.places import (
    LIMIT,
    allot,
    banks,
    card_bus,
    disk_bus,
    disk_name,
    place_of_bus,
    port_address,
    room,
)


@pytest.mark.parametrize(
    ("names", "kept", "places"),
    [
        ("abc", {}, {"a": 0, "b": 1, "c": 2}),
        ("ac", {"a": 0, "b": 1, "c": 2}, {"a": 0, "c": 2}),
        ("abcd", {"a": 0, "b": 1, "c": 2}, {"a": 0, "b": 1, "c": 2, "d": 3}),
        ("axc", {"a": 0, "c": 2}, {"a": 0, "x": 1, "c": 2}),
        ("acx", {"a": 0, "c": 2}, {"a": 0, "c": 2, "x": 3}),
        ("bc", {"a": 0, "b": 1, "c": 2}, {"b": 1, "c": 2}),
        ("acb", {"a": 0, "b": 1, "c": 2}, {"a": 0, "c": 1, "b": 2}),
        ("axb", {"a": 0, "b": 1}, {"a": 0, "x": 1, "b": 2}),
        ("ab", {"a": 0, "z": LIMIT - 1, "b": LIMIT - 1}, {"a": 0, "b": LIMIT - 1}),
        ("abx", {"a": 0, "b": LIMIT - 1}, {"a": 0, "b": 1, "x": 2}),
    ],
)
def test_what_stays_keeps_its_place(
    names: str, kept: dict[str, int], places: dict[str, int]
) -> None:
    assert allot(names, kept, field="disks") == places


def test_there_are_as_many_places_as_ports() -> None:
    names = [str(number) for number in range(LIMIT)]
    assert sorted(allot(names, {}, field="disks").values()) == list(range(LIMIT))
    with pytest.raises(Invalid) as refused:
        allot([*names, "one more"], {}, field="disks")
    assert refused.value.context["field"] == "disks"


def test_every_place_has_a_port_of_its_own_and_is_found_by_it() -> None:
    places = range(LIMIT)
    buses = [*map(disk_bus, places), *map(card_bus, places)]
    assert sorted(buses) == list(range(1, 2 * LIMIT + 1))
    assert [place_of_bus(bus) for bus in buses] == [*places, *places]
    assert len({disk_name(place) for place in places}) == LIMIT


def test_ports_fill_the_banks_that_are_made() -> None:
    made = {port_address(bank, number) for bank in range(6) for number in range(8)}
    assert len({(slot, function) for _, slot, function in made}) == len(made)
    for place in range(LIMIT):
        disks, cards = room(banks({"d": place}, {"c": place}))
        assert place < disks
        assert place < cards
        assert place < room(banks({"d": place}, {}))[0]
