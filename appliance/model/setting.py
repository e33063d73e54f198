"""The settings of the cluster, each declared once: name, rule, default, meaning.

Pure: reading and writing them is `services/settings.py`. What concerns one node only is in its
node file, never here.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

import msgspec

from appliance.core.errors import Invalid
from appliance.core.secret import Secret
from appliance.model.cloud_config import parse_cloud_config

T_co = TypeVar("T_co", covariant=True)

_MAX_TEXT: Final = 64 * 1024
_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_PACKAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,127}")
_ADDRESS: Final = re.compile(r"[^\s@<>,;:\"()\[\]\\]+@(?P<host>[^\s@<>]+)")
_MAILBOX: Final = re.compile(r"(?:[^<>@\x00-\x1f]* <(?P<inner>[^<>]+)>|(?P<bare>[^<>\s]+))")


@dataclass(frozen=True)  # with slots, Setting[...](...) fails in typing (Python 3.11)
class Setting(Generic[T_co]):
    """A setting whose value anybody who may list settings can see.

    Attributes:
        name: dotted, snake case.
        rule: what a value must be, for messages and documentation.
        parse: returns the typed value of JSON or of a text from the command line; raises
            ValueError when the rule is broken.
        default: in force while nothing is set.
        about: what it is for.
        example: a value that the rule accepts.
    """

    name: str
    rule: str
    parse: Callable[[object], T_co]
    default: T_co
    about: str
    example: str


@dataclass(frozen=True, slots=True)
class SecretSetting:
    """A setting that is stored sealed, and only ever shown as set or not set."""

    name: str
    rule: str
    parse: Callable[[object], Secret]
    about: str


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value.encode()) > _MAX_TEXT:
        raise ValueError
    return value


def _line(value: object) -> str:
    line = _text(value)
    if not line.isprintable():
        raise ValueError
    return line


def _password(value: object) -> Secret:
    return Secret(_line(value))


def _matching(pattern: re.Pattern[str]) -> Callable[[object], str]:
    def parse(value: object) -> str:
        line = _line(value)
        if not pattern.fullmatch(line):
            raise ValueError
        return line

    return parse


def _whole_number(lowest: int, highest: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise ValueError
        return value

    return parse


def _each(parse_one: Callable[[object], str]) -> Callable[[object], tuple[str, ...]]:
    """Accept a JSON array, or a text with commas; keep the order, drop repetitions."""

    def parse(value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")] if value.strip() else []
        items = msgspec.convert(value, list[str])
        return tuple(dict.fromkeys(parse_one(item) for item in items))

    return parse


def _host(value: object) -> str:
    line = _line(value).lower()
    if "%" in line:  # an address with a zone, "fe80::1%eth0", means something on one machine only
        raise ValueError
    try:
        return str(ipaddress.ip_address(line))
    except ValueError:
        if not _HOST.fullmatch(line) or line.rpartition(".")[2].isdigit():
            raise
        return line


def _url(value: object) -> str:
    parts = urlsplit(_line(value).strip())
    host = _host(parts.hostname)
    _ = parts.port  # raises ValueError when it is none
    extras = (parts.username, parts.password, parts.query, parts.fragment, parts.path.strip("/"))
    loopback = host in {"localhost", "127.0.0.1", "::1"}
    if any(extras) or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise ValueError
    return f"{parts.scheme}://{parts.netloc.removesuffix(':')}"  # not an empty "?" or "#"


def _mailbox(value: object) -> str:
    line = _line(value)
    found = _MAILBOX.fullmatch(line)
    address = _ADDRESS.fullmatch((found["inner"] or found["bare"]) if found else "")
    if not address:
        raise ValueError
    _host(address["host"])
    return line


def _ssh_public_key(value: object) -> str:
    line = _line(value).strip()
    kind, _, rest = line.partition(" ")
    try:
        blob = base64.b64decode(rest.partition(" ")[0], validate=True)
    except binascii.Error:
        raise ValueError from None
    # RFC 4253, 6.6: the blob repeats the kind as its first string.
    name = kind.encode()
    if not name or not blob.startswith(len(name).to_bytes(4, "big") + name) or len(blob) < 32:
        raise ValueError
    return line


def _cloud_config(value: object) -> str:
    text = _text(value)
    parse_cloud_config(text)
    return text


def _powershell(value: object) -> str:
    text = _text(value)
    if not text.startswith("#ps1"):
        raise ValueError
    return text


def _source(value: object) -> str:
    try:
        return str(ipaddress.ip_network(_line(value)))
    except ValueError:
        return _host(value)


PUBLIC_URL: Final = Setting[str | None](
    "public_url",
    "an https:// URL without path (http:// on loopback only)",
    _url,
    None,
    "Where users and guests reach this cluster; the base of links in mails and metadata.",
    "https://kowabunga.example.org",
)
KAHUNA_NAMES: Final = Setting[tuple[str, ...]](
    "kahuna.names",
    "DNS names or addresses, separated by commas",
    _each(_host),
    (),
    "Further names in the certificate of every Kahuna, besides those of its node.",
    "kowabunga.example.org,192.0.2.10",
)
SMTP_HOST: Final = Setting[str | None](
    "smtp.host",
    "a DNS name or an address",
    _host,
    None,
    "Mail server. Nothing sends mail yet: kept for when it does.",
    "smtp.example.org",
)
SMTP_PORT: Final = Setting(
    "smtp.port",
    "a port from 1 to 65535",
    _whole_number(1, 65535),
    587,
    "Port of the mail server; 465 means TLS from the start, others STARTTLS.",
    "587",
)
SMTP_USERNAME: Final = Setting[str | None](
    "smtp.username",
    "one line of text",
    _line,
    None,
    "Name to log in to the mail server with.",
    "kowabunga",
)
SMTP_PASSWORD: Final = SecretSetting(
    "smtp.password",
    "one line of text",
    _password,
    "Password to log in to the mail server with.",
)
SMTP_FROM: Final = Setting[str | None](
    "smtp.from",
    "a mail address, with or without a name before it",
    _mailbox,
    None,
    "Sender of the cluster's mails.",
    "Kowabunga <kowabunga@example.org>",
)
BOOTSTRAP_USER: Final = Setting(
    "bootstrap.user",
    "a Unix user name of at most 32 characters",
    _matching(_USER),
    "kowabunga",
    "Service account that guests are made with, unless their project names another.",
    "kowabunga",
)
BOOTSTRAP_PUBLIC_KEY: Final = Setting[str | None](
    "bootstrap.public_key",
    "one OpenSSH public key: kind, base64, comment",
    _ssh_public_key,
    None,
    "Public key that may log in to guests as the service account.",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f admin",
)
CLOUD_INIT_LINUX: Final = Setting[str | None](
    "cloud_init.linux",
    "cloud-config: a YAML mapping without aliases and tags, of at most 64 KiB",
    _cloud_config,
    None,
    "Added to the cloud-init user data of Linux guests: lists are joined, the rest replaced.",
    "#cloud-config\npackages: [htop]\n",
)
CLOUD_INIT_WINDOWS: Final = Setting[str | None](
    "cloud_init.windows",
    "a PowerShell script of at most 64 KiB whose first line begins with #ps1",
    _powershell,
    None,
    "Run by Cloudbase-Init at the end of the first start of Windows guests.",
    "#ps1_sysnative\nWrite-Output hello\n",
)
CLOUD_INIT_PACKAGES: Final = Setting[tuple[str, ...]](
    "cloud_init.packages",
    "names of packages, separated by commas; an empty text for none",
    _each(_matching(_PACKAGE)),
    ("qemu-guest-agent", "ca-certificates", "curl"),
    "Installed in Linux guests at their first start. Without any, guests fetch nothing by"
    " themselves: for sites without the Internet.",
    "qemu-guest-agent,curl",
)
REQUEST_BYTES: Final = Setting(
    "limits.request_bytes",
    "a whole number from 16384 to 67108864",
    _whole_number(16 * 1024, 64 * 1024 * 1024),
    1024 * 1024,
    "Largest body of a request to the API; read when Kahuna starts.",
    "1048576",
)
TEMPLATE_SOURCES: Final = Setting[tuple[str, ...]](
    "templates.allowed_sources",
    "host names, addresses or networks (CIDR), separated by commas",
    _each(_source),
    (),
    "Internal places that templates may be downloaded from, although such are refused otherwise.",
    "images.internal.example.org,10.1.0.0/24",
)
MAX_SESSION_HOURS: Final = 168
SESSION_HOURS: Final = Setting(
    "session.hours",
    f"a whole number from 1 to {MAX_SESSION_HOURS}",
    _whole_number(1, MAX_SESSION_HOURS),
    12,
    "How long a log-in by password lasts.",
    "12",
)
OPERATION_DAYS: Final = Setting(
    "retention.operation_days",
    "a whole number from 1 to 3650",
    _whole_number(1, 3650),
    30,
    "How long finished operations are kept, but for the last 1000; read when Kahuna starts.",
    "30",
)
SETTINGS: Final[dict[str, Setting[object] | SecretSetting]] = {
    setting.name: setting
    for setting in (
        PUBLIC_URL, KAHUNA_NAMES, SMTP_HOST, SMTP_PORT, SMTP_USERNAME, SMTP_PASSWORD, SMTP_FROM,
        BOOTSTRAP_USER, BOOTSTRAP_PUBLIC_KEY, CLOUD_INIT_LINUX, CLOUD_INIT_WINDOWS,
        CLOUD_INIT_PACKAGES, REQUEST_BYTES, TEMPLATE_SOURCES, SESSION_HOURS, OPERATION_DAYS,
    )
}  # fmt: skip


def parse_secret(setting: SecretSetting, value: object) -> Secret:
    """Return the value as the setting wants it.

    Raises:
        Invalid: names the setting and the rule, and never the value.
    """
    try:
        return setting.parse(value)
    except ValueError:
        raise Invalid(
            f"{setting.name} must be {setting.rule}; the value is not shown", field=setting.name
        ) from None


def parse_setting(setting: Setting[T_co], value: object) -> T_co:
    """Return the value as the setting wants it.

    Raises:
        Invalid: names the setting, the rule, the value and an example.
    """
    try:
        return setting.parse(value)
    except ValueError:  # msgspec.ValidationError is one
        shown = repr(value) if len(repr(value)) <= 200 else f"{repr(value)[:200]}..."
        raise Invalid(
            f"{setting.name} must be {setting.rule}, not {shown}",
            hint=f"for example: {setting.example!r}",
            field=setting.name,
        ) from None
