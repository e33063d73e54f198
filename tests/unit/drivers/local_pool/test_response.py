"""What an answer to a request for a file, or for the rest of one, is taken for."""

import httpcore
import pytest

from appliance.core.errors import Invalid, Unavailable
from appliance.drivers.local_pool.response import Answer, read_answer

URL = "https://images.example/a"


def judge(
    status: int, *, offset: int = 0, validator: str | None = '"one"', trusted: bool = False,
    **headers: str,
) -> Answer | None:  # fmt: skip
    fields = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    response = httpcore.Response(status, headers=fields)
    return read_answer(URL, response, offset=offset, validator=validator, trusted=trusted)


def test_a_whole_file_begins_at_its_beginning() -> None:
    assert judge(200, Content_Length="10", ETag='"two"') == Answer(0, 10, '"two"')
    assert judge(200, offset=5, content_length="10", etag='"two"') == Answer(0, 10, '"two"')


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"etag": '"a"', "last_modified": "Mon"}, '"a"'),
        ({"etag": 'W/"a"', "last_modified": "Mon"}, "Mon"),
        ({"etag": 'W/"a"'}, None),
        ({}, None),
    ],
)
def test_only_what_proves_every_byte_tells_versions_apart(
    headers: dict[str, str], validator: str | None
) -> None:
    assert judge(200, content_length="1", **headers) == Answer(0, 1, validator)  # type: ignore[arg-type] # names of headers


def test_the_rest_of_the_same_file_is_gone_on_with() -> None:
    for told in ({"etag": '"one"'}, {}):
        answer = judge(206, offset=5, content_range="bytes 5-9/10", **told)  # type: ignore[arg-type] # names of headers
        assert answer == Answer(5, 10, '"one"')
    assert judge(206, offset=5, content_range="bytes 5-9/*") == Answer(5, None, '"one"')


@pytest.mark.parametrize(
    "headers",
    [
        {"content_range": "bytes 5-9/10", "etag": '"two"'},
        {"content_range": "bytes 4-9/10"},
        {"content_range": "bytes 0-9/10"},
        {"content_range": "pages 5-9/10"},
        {"content_range": "bytes */10"},
        {},
    ],
)
def test_another_part_or_version_is_not_mixed_with_what_is_there(headers: dict[str, str]) -> None:
    assert judge(206, offset=5, **headers) is None  # type: ignore[arg-type] # names of headers


def test_a_rest_that_cannot_be_had_is_not_asked_for_again() -> None:
    assert judge(416, offset=5) is None
    for status in (206, 416):
        with pytest.raises(Invalid):
            judge(status, offset=0)


def test_an_end_that_is_not_told_needs_a_checksum() -> None:
    with pytest.raises(Invalid):
        judge(200)
    assert judge(200, trusted=True) == Answer(0, None, None)
    assert judge(200, transfer_encoding="chunked") == Answer(0, None, None)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_trouble_of_the_server_passes(status: int) -> None:
    with pytest.raises(Unavailable):
        judge(status)


@pytest.mark.parametrize("status", [204, 304, 400, 401, 403, 404, 410, 451])
def test_what_the_server_means_stays(status: int) -> None:
    with pytest.raises(Invalid):
        judge(status)
