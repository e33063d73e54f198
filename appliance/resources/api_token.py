"""API token: what is known about a key, never the key itself."""

import datetime as dt
from typing import Annotated

import msgspec
from msgspec import UNSET

from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text


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
