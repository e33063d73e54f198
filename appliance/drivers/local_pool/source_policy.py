"""Where a template may come from.

A node must not become a way into itself or into its cluster: whoever may create a template could
otherwise read what answers on loopback, a link (a cloud's metadata service) or an internal network.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from appliance.core.errors import Invalid
from appliance.model.storage import TemplateSource

Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network
_NAT64: Final = IPv6Network("64:ff9b::/96")
_THIS_NETWORK: Final = IPv4Network("0.0.0.0/8")
# Where clouds tell a machine its secrets, link-local addresses aside.
_METADATA: Final = frozenset(
    map(ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192"))
)
_SAFE: Final = ":/?#[]@!$&'()*+,;=%~"


class SourcePolicy:
    """What one template may be asked from: URLs by their form, hosts by their address."""

    def __init__(self, source: TemplateSource) -> None:
        self._has_checksum = source.sha256 is not None
        self._hosts: set[str] = set()
        self._allowed: list[_Network] = []
        for entry in source.allowed_sources:
            network = _network(entry)
            if network is None:
                self._hosts.add(entry.lower().rstrip("."))
            else:
                self._allowed.append(network)
        self._refused = _networks(source.refused_networks)

    def check_url(self, url: str) -> str:
        """Return the URL as it can be sent.

        Raises:
            Invalid: it is no http(s) URL, or holds a password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as bad:
            raise Invalid(f"{url!r} is no URL", field="url") from bad
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise Invalid(f"{url!r} is no http or https URL", field="url")
        if "@" in parts.netloc:
            raise Invalid("the URL of a template holds a user name or a password", field="url")
        return quote(parts._replace(fragment="").geturl(), safe=_SAFE)

    def follow(self, url: str, location: str) -> str:
        """Return where a redirect leads.

        Raises:
            Invalid: it leads to what is no URL, or from https to http while nothing else, such as
                a checksum, proves the content.
        """
        target = self.check_url(urljoin(url, location))
        if url.startswith("https:") and target.startswith("http:") and not self._has_checksum:
            raise Invalid(
                f"{url} redirects from https to {target}",
                hint="give the checksum of the image, or another URL",
                field="url",
            )
        return target

    def admits(self, host: str, address: str) -> bool:
        """Whether a host may be asked at one of its addresses."""
        reached = _reached(ip_address(address.partition("%")[0]))
        if host.lower().rstrip(".") in self._hosts or _is_in(reached, self._allowed):
            return True
        return not _is_internal(reached) and not _is_in(reached, self._refused)


def _reached(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _is_internal(address: Address) -> bool:
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
        or address in _THIS_NETWORK
        or address in _METADATA
    )


def _is_in(address: Address, networks: Sequence[_Network]) -> bool:
    return any(address in network for network in networks)


def _network(text: str) -> _Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _networks(texts: Sequence[str]) -> list[_Network]:
    try:
        return [ip_network(text, strict=False) for text in texts]
    except ValueError as bad:
        raise Invalid(f"{bad}", field="refused_networks") from bad
