"""The node file: which roles a machine plays and what each needs. No input or output here.

Everything that concerns the whole cluster is a row in the store (`kowabunga settings`), never
here. Secrets are paths, never values.
"""

import ipaddress
import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from appliance.core.config import BrokenRule
from appliance.core.logs import LogLevel
from appliance.model.agent import AgentType
from appliance.model.fields import InterfaceName

DEFAULT_PORT: Final = 8443
NODE_NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z"
_LOCAL_LIBVIRT: Final = re.compile(r"qemu:///system|qemu\+unix:///system\?socket=/[^&?#\s]+")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


class Role(StrEnum):
    KAHUNA = "kahuna"  # orchestrator: the API and the agents' hub
    KAKTUS = "kaktus"  # computing and storage
    KIWI = "kiwi"  # router, firewall, DHCP, DNS and VPN of a region
    KAWAII = "kawaii"  # a project's Internet gateway, in a service VM
    KONVEY = "konvey"  # a project's load balancer, in a service VM


AGENT_TYPES: Final = {Role.KAKTUS: AgentType.KAKTUS, Role.KIWI: AgentType.KIWI}

AbsolutePath = Annotated[
    str, Meta(pattern=r"^/[^\x00-\x1f]*\Z", description="an absolute path", examples=["/etc/ssl/x"])
]
NodeName = Annotated[
    str, Meta(pattern=NODE_NAME_PATTERN, description="a host name without dots, in lower case")
]


class TlsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The owner's own certificate; read again when the files change."""

    certificate: Annotated[AbsolutePath, Meta(description="Certificate chain, PEM.")]
    key: Annotated[AbsolutePath, Meta(description="Its private key, PEM, mode 0600.")]


class KahunaSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Used by the role `kahuna`."""

    listen: Annotated[
        str, Meta(description="`ADDRESS:PORT` of the API; an IPv6 address stands in brackets.")
    ] = f"0.0.0.0:{DEFAULT_PORT}"
    names: Annotated[
        tuple[str, ...],
        Meta(description="Further host names and addresses by which clients reach this Kahuna."),
    ] = ()
    plain_http: Annotated[
        bool, Meta(description="HTTP without TLS: only where `listen` is a loopback address.")
    ] = False
    tls: Annotated[
        TlsSection | None,
        Meta(description="The owner's own certificate; without it, one of the cluster's."),
    ] = None
    api_key_file: Annotated[
        AbsolutePath | None,
        Meta(description="Where the first start leaves the master key; `master.key` in `state`."),
    ] = None


class AgentSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Used by the roles that are agents of a Kahuna: `kaktus`, `kiwi`."""

    kahunas: Annotated[
        tuple[str, ...],
        Meta(description="`wss://HOST:PORT/ws` of every Kahuna; empty: the Kahuna of this node."),
    ] = ()
    ca_file: Annotated[
        AbsolutePath | None,
        Meta(description="Certificates by which to know the Kahunas; the system's by default."),
    ] = None
    credential_file: Annotated[
        AbsolutePath | None,
        Meta(
            description="What `kowabunga agent credential` wrote, mode 0600; without it the node "
            "makes a key pair and enrols it with its own Kahuna."
        ),
    ] = None


class Acceleration(StrEnum):
    """On what guests run."""

    AUTO = "auto"  # KVM if a guest was seen to run under it, else emulated
    KVM = "kvm"
    TCG = "tcg"  # emulated: slow, but everywhere


class KaktusSection(AgentSection, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Used by the role `kaktus`."""

    uplink: Annotated[
        InterfaceName | None,
        Meta(
            description="The link that carries the VLANs of virtual networks; it is only used, "
            "never changed. Without it each network stays on this node."
        ),
    ] = None
    pool_roots: Annotated[
        tuple[AbsolutePath, ...],
        Meta(description="Directories below which local pools may lie; `pools` in `state`."),
    ] = ()
    libvirt_uri: Annotated[
        str, Meta(description="The libvirt of this node: `qemu:///system`, or `qemu+unix:///...`.")
    ] = "qemu:///system"
    acceleration: Annotated[
        Acceleration,
        Meta(description="`auto` takes KVM where a guest was seen to run under it, else TCG."),
    ] = Acceleration.AUTO


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What this node is. It is checked as a whole and applied as a whole."""

    roles: Annotated[
        tuple[Role, ...], Meta(description="What runs here; a role not built yet says so.")
    ] = ()
    name: Annotated[
        NodeName | None, Meta(description="The node's name in the cluster; its host name.")
    ] = None
    state: Annotated[
        AbsolutePath, Meta(description="Directory of everything that the node must not lose.")
    ] = "/var/lib/kowabunga"
    log_level: Annotated[LogLevel, Meta(description="What is worth a line.")] = LogLevel.INFO
    kahuna: Annotated[KahunaSection, Meta(description="The orchestrator.")] = KahunaSection()
    kaktus: Annotated[KaktusSection, Meta(description="Computing and storage.")] = KaktusSection()
    kiwi: Annotated[AgentSection, Meta(description="The network of a region.")] = AgentSection()

    def agent(self, role: Role) -> AgentSection:
        return {Role.KAKTUS: self.kaktus, Role.KIWI: self.kiwi}[role]

    def check(self) -> None:
        for index, role in enumerate(self.roles):
            if role in self.roles[:index]:
                raise BrokenRule(f"roles[{index}]", f"{role} stands here twice")
        _check_kahuna(self.kahuna)
        _check_kaktus(self.kaktus)
        for role in AGENT_TYPES:
            _check_agent(role, self.agent(role), chosen=self.roles)


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "ADDRESS:PORT".

    Raises:
        ValueError: it is not an IP address (IPv6 in brackets) and a port.
    """
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    version = ipaddress.ip_address(bare).version
    if (version == 6) != (host != bare) or not port.isdecimal() or not int(port) < 2**16:
        raise ValueError(address)
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Whether nobody beyond this machine can reach it; a name counts only if it is localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_kahuna(section: KahunaSection) -> None:
    try:
        host, _ = split_address(section.listen)
    except ValueError:
        raise BrokenRule(
            "kahuna.listen",
            f"{section.listen!r} is not ADDRESS:PORT",
            f"for instance 0.0.0.0:{DEFAULT_PORT}, or [::]:{DEFAULT_PORT}",
        ) from None
    if section.plain_http and not is_loopback(host):
        raise BrokenRule(
            "kahuna.plain_http",
            f"plain HTTP is for loopback addresses only, and {host} is none",
            "listen on 127.0.0.1, or leave plain_http out",
        )
    if section.plain_http and section.tls:
        raise BrokenRule("kahuna.tls", "plain HTTP has no certificate", "choose one of the two")
    for index, name in enumerate(section.names):
        if not _is_host(name):
            raise BrokenRule(f"kahuna.names[{index}]", f"{name!r} is no host name or address")


def _check_kaktus(section: KaktusSection) -> None:
    for index, root in enumerate(section.pool_roots):
        if PurePosixPath(root) == PurePosixPath("/") or ".." in PurePosixPath(root).parts:
            raise BrokenRule(
                f"kaktus.pool_roots[{index}]",
                f"{root!r} is no directory of its own: no pool may lie just anywhere",
                "for instance /srv/pools",
            )
    if not _LOCAL_LIBVIRT.fullmatch(section.libvirt_uri):
        raise BrokenRule(
            "kaktus.libvirt_uri",
            f"{section.libvirt_uri!r} is not the QEMU of this node",
            "qemu:///system, or qemu+unix:///system?socket=/PATH",
        )


def _check_agent(role: Role, section: AgentSection, *, chosen: Iterable[Role]) -> None:
    for index, url in enumerate(section.kahunas):
        if not _is_hub(url):
            raise BrokenRule(
                f"{role}.kahunas[{index}]",
                f"{url!r} is not wss://HOST:PORT/ws",
                "ws:// is for loopback addresses only",
            )
    if role not in chosen:
        return
    if not section.kahunas and Role.KAHUNA not in chosen:
        raise BrokenRule(
            f"{role}.kahunas",
            f"is needed: no Kahuna runs on this node for {role} to connect to",
            "list the Kahunas as wss://HOST:PORT/ws",
        )
    if section.kahunas and not section.credential_file:
        raise BrokenRule(
            f"{role}.credential_file",
            f"is needed: only the Kahuna of the same node enrols {role} by itself",
            "run: kowabunga agent credential ID --output FILE",
        )


def _is_hub(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    secure = parts.scheme == "wss" or (parts.scheme == "ws" and is_loopback(host or ""))
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    return secure and plain and parts.path == "/ws" and _is_host(host or "") and port != 0


def _is_host(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(_HOST_NAME.fullmatch(name)) and ".." not in name
    return True
