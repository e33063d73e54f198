import pytest

from appliance.resources.host_name import check_domain, check_fits_domain, check_host_name
from tests.unit.resources.expect import refused


@pytest.mark.parametrize(
    "name", ["web9", "Web-9", "web_1", "a", "9a", "web.front", "a" * 63, ("a" * 63 + ".") * 1 + "b"]
)
def test_host_name_is_accepted(name: str) -> None:
    check_host_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "name is empty"),
        ("my web", "name 'my web' is not a host name"),
        ("web-", "not a host name"),
        ("_web", "not a host name"),
        ("web.", "not a host name"),
        (".web", "not a host name"),
        ("a..b", "not a host name"),
        ("a" * 64, "not a host name"),
        ("wéb", "not a host name"),
        ("web;reboot", "not a host name"),
        ("$(id)x", "not a host name"),
        ("<web>", "not a host name"),
        ("web\n", "not printable"),
        ("-web", "begins with a hyphen"),
        ("10.0.0.1", "would be read as an address"),
        ("123", "would be read as an address"),
        (".".join(["a" * 32] * 4), "name has 131 characters, 127 are allowed"),
    ],
)
def test_host_name_is_refused(name: str, message: str) -> None:
    refused(lambda: check_host_name(name), "name", message)


@pytest.mark.parametrize(
    ("domain", "min_labels"),
    [
        ("acme.local", 2), ("acme.local.", 2), ("ACME.Local", 2), ("eu-west.acme.com", 2),
        ("1.2.example", 2), ("xn--caf-dma.fr", 2), ("lab", 1), (".".join(["a" * 49] * 5), 2),
    ],
)  # fmt: skip
def test_domain_is_accepted(domain: str, min_labels: int) -> None:
    check_domain(domain, min_labels=min_labels)


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ("", "not a domain"),
        (".", "not a domain"),
        ("local", "needs at least 2 labels"),
        ("local.", "needs at least 2 labels"),
        ("acme..local", "not a domain"),
        ("acme.local..", "not a domain"),
        ("acme_x.local", "not a domain"),
        ("acme.lo cal", "not a domain"),
        ("acme.local\n", "not a domain"),
        ("-a.local", "not a domain"),
        ("10.0.0.1", "would be read as an address"),
        (".".join(["a" * 50] * 5), "domain has 254 characters, 253 are allowed"),
    ],
)
def test_domain_is_refused(domain: str, message: str) -> None:
    refused(lambda: check_domain(domain, min_labels=2), "domain", message)


def test_host_name_and_domain_must_fit_a_dns_name_together() -> None:
    domain = ".".join(["d" * 49] * 5)  # 249 characters
    check_fits_domain("abc", domain)
    check_fits_domain("abc", domain + ".")
    check_fits_domain("x" * 127, "")
    refused(lambda: check_fits_domain("abcd", domain), "name", "has 254 characters, 253 are")
