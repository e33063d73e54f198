"""Where templates may come from."""

import pytest

from appliance.core.errors import Invalid
from appliance.drivers.local_pool.source_policy import SourcePolicy
from appliance.model.storage import TemplateSource


def policy(
    *, allowed: tuple[str, ...] = (), refused: tuple[str, ...] = (), sha256: str | None = None
) -> SourcePolicy:
    return SourcePolicy(
        TemplateSource(
            template_id="a" * 24,
            url="https://images.example/a",
            sha256=sha256,
            allowed_sources=allowed,
            refused_networks=refused,
        )
    )


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::",
        "fd00:ec2::254", "100.100.100.200",
    ],
)  # fmt: skip
def test_internal_addresses_are_refused(address: str) -> None:
    assert not policy().admits("images.example", address)


@pytest.mark.parametrize(
    "address", ["151.101.2.132", "10.1.2.3", "192.168.1.1", "2a04:4e42::644", "64:ff9b::101:101"]
)
def test_others_are_admitted(address: str) -> None:
    assert policy().admits("images.example", address)


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203"])
def test_networks_of_the_cluster_are_refused_in_every_form(address: str) -> None:
    assert not policy(refused=("10.1.0.0/16",)).admits("images.example", address)


@pytest.mark.parametrize(
    ("entry", "host", "address", "admitted"),
    [
        ("mirror.example", "mirror.example", "10.1.2.3", True),
        ("Mirror.Example.", "mirror.example", "127.0.0.1", True),
        ("mirror.example", "mirror.example.", "10.1.2.3", True),
        ("mirror.example", "other.mirror.example", "10.1.2.3", False),
        ("10.1.2.3", "images.example", "10.1.2.3", True),
        ("10.1.2.0/24", "images.example", "10.1.2.3", True),
        ("10.1.3.0/24", "images.example", "10.1.2.3", False),
        ("127.0.0.0/8", "localhost", "127.0.0.1", True),
        ("127.0.0.0/8", "localhost", "::1", False),
    ],
)
def test_what_is_allowed_goes_before_what_is_refused(
    entry: str, host: str, address: str, *, admitted: bool
) -> None:
    rules = policy(allowed=(entry,), refused=("10.0.0.0/8",))
    assert rules.admits(host, address) is admitted


@pytest.mark.parametrize(
    "url",
    [
        "", "images.example/a", "ftp://images.example/a", "file:///etc/passwd", "http://", "http:///a",
        "http://images.example:0/a", "http://images.example:99999/a", "http://[::1/a",
        "http://user@images.example/a", "http://user:secret@images.example/a",
    ],
)  # fmt: skip
def test_urls_of_another_form_are_refused(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        policy().check_url(url)
    assert refused.value.context["field"] == "url"
    assert "secret" not in refused.value.detail


def test_urls_are_sent_escaped_and_without_fragment() -> None:
    assert policy().check_url("http://h.example/a b\r\nX:ü%20#part") == (
        "http://h.example/a%20bX:%C3%BC%20"
    )


def test_a_redirect_is_relative_to_where_it_was_found() -> None:
    assert policy().follow("https://a.example/x/y", "../z") == "https://a.example/z"
    assert policy().follow("http://a.example/x", "//b.example/y") == "http://b.example/y"


def test_a_redirect_gives_tls_up_only_for_what_a_checksum_proves() -> None:
    with pytest.raises(Invalid):
        policy().follow("https://a.example/x", "http://a.example/x")
    proven = policy(sha256="0" * 64)
    assert proven.follow("https://a.example/x", "http://a.example/x") == "http://a.example/x"


def test_a_refused_network_that_is_none_is_told() -> None:
    with pytest.raises(Invalid):
        policy(refused=("everything",))
