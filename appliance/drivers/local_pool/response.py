"""Read the head of an answer to a request for a file, or for the rest of one. Pure."""

import re
from dataclasses import dataclass
from typing import Final

import httpcore

from appliance.core.errors import Invalid, Unavailable

_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_LATER: Final = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Answer:
    """What the body will be.

    Attributes:
        offset: where in the file it begins.
        total_bytes: how long the whole file is, if the server tells.
        validator: what tells this version of the file from another.
    """

    offset: int
    total_bytes: int | None
    validator: str | None


def read_answer(
    url: str, response: httpcore.Response, *, offset: int, validator: str | None, trusted: bool
) -> Answer | None:
    """Judge an answer, after the redirects; None: ask for the whole file instead of its rest.

    Args:
        url: what was asked, for messages.
        response: its head is read, its body left alone.
        offset: from where on the file was asked for.
        validator: of what is there up to `offset`.
        trusted: the end of the body need not be told, because a checksum proves that it is whole.

    Raises:
        Invalid: there is no such file, or it could be cut off unnoticed.
        Unavailable: the server may answer better another time.
    """
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
    }
    version = _validator(headers)
    if response.status == 206 and offset:
        rest = _RANGE.fullmatch(headers.get("content-range", ""))
        if rest is None or int(rest[1]) != offset or version not in (None, validator):
            return None
        total = None if rest[3] == "*" else int(rest[3])
        return Answer(offset, total, validator)
    if response.status == 416 and offset:
        return None
    if response.status == 200:
        length = headers.get("content-length")
        if length is None and "transfer-encoding" not in headers and not trusted:
            raise Invalid(
                f"{url} does not tell how long it is, so that a part could pass for the whole",
                hint="give the checksum of the image, or another URL",
                field="url",
            )
        return Answer(0, None if length is None else int(length), version)
    if response.status in _LATER or response.status >= 500:
        raise Unavailable(f"{url} answers {response.status}", hint="try again later")
    raise Invalid(f"{url} answers {response.status}", hint="check the URL", field="url")


def _validator(headers: dict[str, str]) -> str | None:
    """Return what `If-Range` takes: a strong ETag (RFC 9110, 8.8.3) or a date."""
    tag = headers.get("etag", "")
    return tag if tag.startswith('"') else headers.get("last-modified")
