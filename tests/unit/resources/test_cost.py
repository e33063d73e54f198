import math
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.resources.cost import Cost, check_cost, price_from_text, price_to_text
from tests.unit.resources.expect import refused


@pytest.mark.parametrize("price", [0.0, 0.1, 200.0, 0.000001, 1e12])
@pytest.mark.parametrize("currency", ["EUR", "", "US $"])
def test_cost_is_accepted(price: float, currency: str) -> None:
    check_cost(Cost(price=price, currency=currency), "cost")


@pytest.mark.parametrize("price", [-0.01, 1.1e12, math.nan, math.inf, -math.inf])
def test_price_is_refused(price: float) -> None:
    refused(
        lambda: check_cost(Cost(price=price, currency="EUR"), "cpu_cost"),
        "cpu_cost.price",
        "0 to 1000000000000 is allowed",
    )


@pytest.mark.parametrize("currency", ["x" * 17, "EUR\n", "\u202eEUR"])
def test_currency_is_refused(currency: str) -> None:
    refused(lambda: check_cost(Cost(price=1.0, currency=currency), "cost"), "cost.currency", "has")


@given(st.floats(0, 1e12))
def test_a_price_survives_store_and_json(price: float) -> None:
    assert price_from_text(price_to_text(price)) == price
    sent = Cost(price=price, currency="EUR")
    assert msgspec.json.decode(msgspec.json.encode(sent), type=Cost) == sent


def _float32(value: float) -> bytes:
    return struct.pack("<f", value)


def _shortest(value: float) -> str:
    """Return the shortest decimal that a program with 32-bit floats writes for the value."""
    return next(
        text
        for text in (f"{value:.{digits}g}" for digits in range(1, 10))
        if _float32(float(text)) == _float32(value)
    )


@given(st.floats(0, 999_999_995_904, width=32))
def test_a_client_with_32_bit_floats_gets_back_what_it_sent(value: float) -> None:
    sent = f'{{"price":{_shortest(value)},"currency":"EUR"}}'
    stored = price_to_text(msgspec.json.decode(sent, type=Cost).price)
    answer = msgspec.json.encode(Cost(price=price_from_text(stored), currency="EUR"))
    assert _float32(msgspec.json.decode(answer, type=Cost).price) == _float32(value)


@pytest.mark.parametrize(
    ("price", "text"), [(0.1, "0.1"), (200.0, "200.0"), (1e-7, "0.0000001"), (0.0, "0.0")]
)
def test_price_is_stored_as_plain_decimal_text(price: float, text: str) -> None:
    assert price_to_text(price) == text
