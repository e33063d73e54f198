"""Template: the operating system image that volumes are cloned from."""

import re
from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text

MAX_SOURCE_LENGTH: Final = 2048

# The characters of RFC 3986. A backslash, which browsers read as a slash, is not among them.
_URL: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")


class OperatingSystem(StrEnum):
    LINUX = "linux"
    WINDOWS = "windows"


class Template(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A bootable image with cloud-init, downloaded once into a pool."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique in its pool")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    os: Annotated[
        Maybe[OperatingSystem],
        about("Operating system; decides how a guest is set up", default=OperatingSystem.LINUX),
    ] = UNSET
    source: Annotated[str, about("HTTP or HTTPS address of the qcow2 or raw image")]


def check_template(template: Template) -> None:
    """Accept a template by itself; whether its host may be asked is decided at the download.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(template.name)
    check_text(given(template.description, ""))
    problem = _problem_of_source(template.source)
    if problem:
        # The text is not shown: it may hold a password.
        raise Invalid(
            f"source {problem}", field="source", hint="the form is https://host/path/image.qcow2"
        )


def check_template_change(stored: Template, wanted: Template) -> None:
    """Accept an update.

    Raises:
        Invalid: another image or system; volumes were cloned from what is there.
    """
    if wanted.source != stored.source:
        raise Invalid(
            f"the source of template {stored.name} cannot change",
            field="source",
            hint="make another template from the new source",
        )
    if given(wanted.os, OperatingSystem.LINUX) != given(stored.os, OperatingSystem.LINUX):
        raise Invalid(f"the os of template {stored.name} cannot change", field="os")


def _problem_of_source(source: str) -> str | None:
    if len(source) > MAX_SOURCE_LENGTH:
        return f"has {len(source)} characters, {MAX_SOURCE_LENGTH} are allowed"
    if not _URL.fullmatch(source):
        return "is empty or has a character that does not belong into a URL"
    try:
        url = urlsplit(source)
        port = url.port
    except ValueError:  # a bracket too few, a port that is no number
        return "is not a URL"
    return _problem_of_parts(url, port)


def _problem_of_parts(url: SplitResult, port: int | None) -> str | None:
    if url.scheme not in {"http", "https"}:
        return "is neither http nor https"
    if "@" in url.netloc:
        return "has a user name or a password, which would be stored and shown in clear"
    if not url.hostname or port == 0:
        return "names no host and port to ask"
    return None
