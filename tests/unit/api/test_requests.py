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
    for levels in (MAX_DEPTH + 1, 500, 50_000):
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


def test_more_brackets_than_any_text_has_are_not_read_at_all() -> None:
    for body in (b"[" + b"[]," * 100_000 + b"[]]", b"{" * 100_001, b'{"value":' + b"[" * 100_000):
        with pytest.raises(Malformed, match="more than 100000 brackets"):
            decode_json(body, _Box)
    decode_json(b'{"value": "' + b"[{" * 32 * 1024 + b'"}', _Box)  # the longest of texts


@pytest.mark.parametrize(
    "body",
    [
        b'{"value": 1',
        b'{"value": "\xff"}',
        b'{"colour": 1, "value": "\xff"}',
        b"",
        b"\xef\xbb\xbf{}",
        b'{"value": NaN}',
        b'{"value": 1e400}',
        b'{"value": "\\ud800"}',
        b'{"value": "a\x00"}',
    ],
)
def test_what_is_not_json_is_malformed_wherever_that_shows(body: bytes) -> None:
    with pytest.raises(Malformed, match="not JSON"):
        decode_json(body, _Box)


def test_the_last_of_two_equal_keys_counts() -> None:
    assert decode_json(b'{"value": 1, "value": 2}', _Box).value == 2
