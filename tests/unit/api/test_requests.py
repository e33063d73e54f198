from typing import Any

import msgspec
import pytest

from appliance.api.problems import Malformed
from appliance.api.requests import MAX_DEPTH, decode_json
from appliance.core.errors import Invalid


class _Box(msgspec.Struct, forbid_unknown_fields=True):
    value: Any


def nested(levels: int) -> bytes:
    return b'{"value":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def test_a_body_may_be_nested_up_to_the_limit_and_no_deeper() -> None:
    decode_json(nested(MAX_DEPTH), _Box)
    for levels in (MAX_DEPTH + 1, 500, 100_000):
        with pytest.raises(Malformed, match="nested deeper"):
            decode_json(nested(levels), _Box)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    decode_json(b'{"value":[' + b"[]," * 10_000 + b"[]]}", _Box)


def test_a_missing_field_is_told_apart_from_an_unknown_one() -> None:
    with pytest.raises(Invalid, match="the required field value is missing") as missing:
        decode_json(b"{}", _Box)
    assert not isinstance(missing.value, Malformed)
    with pytest.raises(Malformed, match="colour"):
        decode_json(b'{"value": 1, "colour": 2}', _Box)
