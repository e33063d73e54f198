"""Where disks and cards of a domain sit on its PCI bus: places that stay while others come and go.

Every disk and card has a root port of its own, so it can be plugged while the domain runs. Ports
lie in banks of eight, the functions of one slot of the root bus; banks of disks and of cards take
turns, and a domain has as many as its highest place needs, with room to spare. Pure.
"""

import string
from collections.abc import Mapping, Sequence
from typing import Final

from appliance.core.errors import Invalid

PORTS_PER_BANK: Final = 8
_BANKS: Final = 3  # of each kind
LIMIT: Final = PORTS_PER_BANK * _BANKS
_FIRST_SLOT: Final = 0x02


def allot(names: Sequence[str], kept: Mapping[str, int], *, field: str) -> dict[str, int]:
    """Give each name a place, rising in the order of the names; what has one keeps it if it can.

    Raises:
        Invalid: more names than there are places.
    """
    if len(names) > LIMIT:
        raise Invalid(f"a domain has at most {LIMIT} {field}", field=field)
    places: dict[str, int] = {}
    following = 0
    for name in names:
        place = kept.get(name)
        if place is None:
            taken = {kept[later] for later in names if later in kept}
            place = next(free for free in range(following, 2 * LIMIT) if free not in taken)
        if not following <= place < LIMIT:  # no room between, or the order changed: all anew
            return {renamed: position for position, renamed in enumerate(names)}
        places[name] = place
        following = place + 1
    return places


def banks(disks: Mapping[str, int], cards: Mapping[str, int]) -> int:
    """Return how many banks of ports a domain gets, both kinds together."""
    disk_banks = max(disks.values(), default=0) // PORTS_PER_BANK + 1
    card_banks = max(cards.values(), default=0) // PORTS_PER_BANK + 1
    return max(2 * disk_banks - 1, 2 * card_banks)


def room(banks_there: int) -> tuple[int, int]:
    """Return how many places for disks and for cards so many banks have."""
    return -(-banks_there // 2) * PORTS_PER_BANK, banks_there // 2 * PORTS_PER_BANK


def port_address(bank: int, number: int) -> tuple[int, int, int]:
    """Return index of the port's bus, and slot and function of the port on the root bus."""
    return bank * PORTS_PER_BANK + number + 1, _FIRST_SLOT + bank, number


def disk_bus(place: int) -> int:
    return _bus(place, kind=0)


def card_bus(place: int) -> int:
    return _bus(place, kind=1)


def place_of_bus(bus: int) -> int:
    """Return the place, among its kind, whose port has this bus."""
    bank, number = divmod(bus - 1, PORTS_PER_BANK)
    return bank // 2 * PORTS_PER_BANK + number


def disk_name(place: int) -> str:
    """Return `vda` for place 0; places end before two letters are needed."""
    return f"vd{string.ascii_lowercase[place]}"


def _bus(place: int, *, kind: int) -> int:
    bank, number = divmod(place, PORTS_PER_BANK)
    return port_address(2 * bank + kind, number)[0]
