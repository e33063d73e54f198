"""A price per month and its currency."""

from decimal import Decimal
from typing import Annotated, Final

import msgspec

from appliance.core.errors import Invalid
from appliance.resources.fields import about
from appliance.resources.names import check_line

DEFAULT_CURRENCY: Final = "EUR"
MAX_PRICE: Final = 1e12  # in the least of currencies a rack; far within what a 32-bit float holds
MAX_CURRENCY_LENGTH: Final = 16


class Cost(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What something costs in a month."""

    price: Annotated[float, about("Amount for a month", json_format="float")]
    currency: Annotated[str, about("Currency of the amount, such as EUR")]


def free() -> Cost:
    """Return the cost of what nobody gave a price."""
    return Cost(price=0.0, currency=DEFAULT_CURRENCY)


def check_cost(cost: Cost, field: str) -> None:
    """Accept a price of zero or more.

    Raises:
        Invalid: negative, not a number, infinite, beyond 1e12, or a currency of odd form.
    """
    # Not "price < 0 or price > MAX": NaN compares false with everything.
    if not 0 <= cost.price <= MAX_PRICE:
        raise Invalid(
            f"{field}.price is {cost.price!r}; 0 to {MAX_PRICE:.0f} is allowed",
            field=f"{field}.price",
        )
    check_line(cost.currency, f"{field}.currency", max_length=MAX_CURRENCY_LENGTH)


def price_to_text(price: float) -> str:
    """Return the decimal text of a price, exact: `price_from_text` gives the same float.

    The shortest text that reads back as this float is also what a client with 32-bit floats sent:
    it has at most nine digits, and up to fifteen survive in a 64-bit one.
    """
    return format(Decimal(repr(price)), "f")


def price_from_text(text: str) -> float:
    return float(text)
