"""The Kahuna role: opens the state, joins the services to each other, and serves.

A composition root: it wires and starts, it decides nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The owner's own certificate chain and key (PEM); read again when they change."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class KahunaConfig:
    """What one Kahuna process needs to know; everything else is in its state directory.

    Attributes:
        state: the state directory, made when missing (0700).
        host: address to listen on.
        port: 0 takes a free one; `ready` tells which.
        node_name: how this node calls itself in the cluster.
        names: further host names and addresses by which clients reach this Kahuna; they go into
            its certificate and are the Host headers it answers to.
        plain: plain HTTP instead of TLS; refused unless `host` is a loopback address.
        tls: the owner's certificate; None takes one of the cluster's authority.
        api_key_file: where the first start leaves the master key (0600). None:
            `master.key` in the state directory.
    """

    state: Path
    host: str
    port: int
    node_name: str
    names: tuple[str, ...] = ()
    plain: bool = False
    tls: TlsFiles | None = None
    api_key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """Given to the readiness callback once requests are answered."""

    url: str
    local_socket: Path
    api_key_file: Path


async def run_kahuna(config: KahunaConfig, *, ready: Callable[[Ready], None]) -> None:
    """Serve until cancelled; then let go of claims and close within 10 s.

    Raises:
        Invalid: the configuration cannot be served (plain HTTP beyond loopback, bad TLS files).
        Conflict: another process holds the state directory or the address.
        Corrupt: the state cannot be trusted, or was written by a newer release.
    """
    raise NotImplementedError
