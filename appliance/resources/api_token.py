"""API token: what is known about a key, never the key itself."""

import datetime as dt
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text

_DAY: Final = dt.timedelta(days=1)


class ApiToken(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The key of a user or an agent: when it ends, not what it is."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, made from the owner's")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    # Required although the contract gives it a default: no answer lacks it, no request may.
    expire: Annotated[bool, about("Whether the key stops working some day", default=False)]
    expiration_date: Annotated[Maybe[dt.date], about("Last day of the key")] = UNSET


def check_api_token(token: ApiToken) -> None:
    """Accept a token by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(token.name)
    check_text(given(token.description, ""))


def expiry_ms(last_day: dt.date, now_ms: int) -> int:
    """Return when a key with this last day stops working: at its end, in UTC.

    Raises:
        Invalid: that has passed already.
    """
    midnight = dt.datetime.combine(last_day, dt.time(), dt.UTC)
    # Of the last day there is, the beginning: the next one cannot be written.
    end = midnight + _DAY if last_day < dt.date.max else midnight
    end_ms = round(end.timestamp() * 1000)
    if end_ms <= now_ms:
        raise Invalid(
            f"expiration_date {last_day.isoformat()} has passed",
            field="expiration_date",
            hint="name today or a later day",
        )
    return end_ms
