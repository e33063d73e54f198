"""Host and domain names, as texts: nothing here asks a resolver."""

import re
from typing import Final

from appliance.core.errors import Invalid
from appliance.resources.names import check_name, quoted

# A Kompute's name is the beginning of the names of its volumes and adapters, and of its DNS record
# under the project's domain: half of what DNS has (RFC 1035, 2.3.4: 255 octets on the wire).
MAX_HOST_NAME_LENGTH: Final = 127
MAX_DOMAIN_LENGTH: Final = 253

# The underscore is not of RFC 1123 but existing machines have it.
_HOST_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_DOMAIN_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def check_host_name(name: str, field: str = "name") -> None:
    """Accept the name of a machine: labels joined by dots, in the case that was sent.

    Raises:
        Invalid: not a host name, over 127 characters, or one that would be read as an address.
    """
    check_name(name, field)
    if len(name) > MAX_HOST_NAME_LENGTH:
        raise Invalid(
            f"{field} has {len(name)} characters, {MAX_HOST_NAME_LENGTH} are allowed", field=field
        )
    _check_labels(name.split("."), _HOST_LABEL, name, field, what="host name")


def check_domain(domain: str, field: str = "domain", *, min_labels: int) -> None:
    """Accept a DNS domain, with or without the final dot.

    Raises:
        Invalid: not a domain, fewer labels than asked for, or over 253 characters.
    """
    labels = domain.removesuffix(".").split(".")
    if len(domain) > MAX_DOMAIN_LENGTH:
        raise Invalid(
            f"{field} has {len(domain)} characters, {MAX_DOMAIN_LENGTH} are allowed", field=field
        )
    _check_labels(labels, _DOMAIN_LABEL, domain, field, what="domain")
    if len(labels) < min_labels:
        raise Invalid(
            f"{field} {quoted(domain)} needs at least {min_labels} labels joined by dots",
            field=field,
        )


def longest_host_name(domain: str) -> int:
    """Return how long a machine's name may be under a domain; "" is none."""
    return MAX_DOMAIN_LENGTH - 1 - len(domain.removesuffix("."))


def check_fits_domain(host_name: str, domain: str) -> None:
    """Accept a machine's name if its DNS record's name under the domain is not too long.

    Raises:
        Invalid: over 253 characters together.
    """
    if len(host_name) > longest_host_name(domain):
        length = len(host_name) + 1 + len(domain.removesuffix("."))
        raise Invalid(
            f"name {quoted(host_name)} with the project's domain has {length} characters, "
            f"{MAX_DOMAIN_LENGTH} are allowed",
            field="name",
        )


def _check_labels(
    labels: list[str], label_form: re.Pattern[str], text: str, field: str, *, what: str
) -> None:
    if not all(label_form.fullmatch(label) for label in labels):
        raise Invalid(
            f"{field} {quoted(text)} is not a {what}",
            field=field,
            hint="labels of 1 to 63 letters, digits and inner hyphens, joined by dots",
        )
    if labels[-1].isdigit():
        # Resolvers read "10.0.0.1", and even "123", as an address.
        raise Invalid(f"{field} {quoted(text)} would be read as an address", field=field)
