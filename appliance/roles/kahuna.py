"""The Kahuna role: opens the state, joins the services to each other, and serves.

A composition root: it wires and starts, it decides nothing.
"""

import asyncio
import resource
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from appliance.api.agents import agent_socket
from appliance.api.app import as_asgi, create_app
from appliance.api.authenticate import by_credential, by_peer
from appliance.api.certificate import ClusterCertificate, OwnerCertificate, ServerCertificate
from appliance.api.edge import Edge
from appliance.api.listener import Limits, Listener, bind_local, bind_tcp
from appliance.api.services import Reach, Services
from appliance.core.aio import BlockingPool, supervise
from appliance.core.clock import Clock, SystemClock
from appliance.core.errors import Invalid
from appliance.core.files import ensure_private_directory
from appliance.core.ids import new_id
from appliance.model.node import is_loopback
from appliance.model.setting import OPERATION_DAYS, REQUEST_BYTES
from appliance.operations.engine import Engine
from appliance.operations.equipment import EngineSettings
from appliance.rpc.directory import AgentDirectory
from appliance.rpc.hub import Hub
from appliance.rpc.methods import Event
from appliance.services.access import Access
from appliance.services.adapters import Adapters
from appliance.services.agents import Agents
from appliance.services.alarms import Alarms
from appliance.services.authority import Authority
from appliance.services.catalog import Catalog
from appliance.services.cluster import ensure_cluster, keep_order
from appliance.services.compute import COMPUTE_KINDS, Compute
from appliance.services.key_files import KeyFiles
from appliance.services.keyring import Keyring
from appliance.services.master_key import ApiKeys, MasterKey
from appliance.services.node_identity import ensure_node_identity
from appliance.services.passwords import Passwords
from appliance.services.projects import Projects
from appliance.services.recovery import Recovery
from appliance.services.rotation import Rotation
from appliance.services.secrets import Secrets
from appliance.services.sessions import Sessions
from appliance.services.settings import Settings
from appliance.services.simulation import Simulation, Stage
from appliance.services.users import Users
from appliance.store.base import Store
from appliance.store.sqlite import SqliteStore

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)

LOCAL_SOCKET: Final = Path("run/api.sock")  # below the state directory
DATABASE: Final = "state.db"
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
# How this machine reaches itself when it listens everywhere.
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
_LIMITS: Final = Limits()


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


async def run_kahuna(
    config: KahunaConfig,
    *,
    ready: Callable[[Ready], None],
    store_of: Callable[[Store], Store] = lambda store: store,
) -> None:
    """Serve until cancelled; then let go of claims and close within 10 s.

    `store_of` puts something before the state that it uses.

    Raises:
        Invalid: the configuration cannot be served (plain HTTP beyond loopback, bad TLS files).
        Conflict: another process holds the state directory or the address.
        Corrupt: the state cannot be trusted, or was written by a newer release.
    """
    async with open_kahuna(config, SystemClock(), store_of=store_of) as kahuna:
        await kahuna.serve(ready)


@asynccontextmanager
async def open_kahuna(
    config: KahunaConfig,
    clock: Clock,
    *,
    directory_of: Callable[[Agents], AgentDirectory] = lambda agents: agents,
    stage: Stage | None = None,
    store_of: Callable[[Store], Store] = lambda store: store,
) -> AsyncGenerator["Kahuna"]:
    """Open the state and wire everything, without serving yet; raises as `run_kahuna` does.

    `directory_of` puts something between the hub and the agents' rows, and `stage` plays their
    nodes: the simulation does.
    """
    if config.plain and not is_loopback(config.host):
        raise Invalid(
            f"plain HTTP on {config.host} would send keys in clear text",
            hint="listen on 127.0.0.1, or with TLS",
            field="listen",
        )
    async with AsyncExitStack() as cleanup:
        ensure_private_directory(config.state)
        store = store_of(await SqliteStore.open(config.state / DATABASE, clock=clock))
        cleanup.push_async_callback(store.close)
        tcp = cleanup.enter_context(bind_tcp(config.host, config.port))
        await ensure_cluster(store, clock)
        await keep_order(store)
        keys = config.state / "keys"
        keyring = Keyring(store, KeyFiles(keys / "data"), ensure_node_identity(keys), clock)
        await keyring.open(config.node_name)
        secrets = Secrets(store, keyring)
        agents = Agents(store, secrets, clock)
        alarms = Alarms(store, clock)
        authority = Authority(store, secrets, clock)
        await authority.ensure()
        master_key = MasterKey(store, clock)
        api_key_file = config.api_key_file or config.state / "master.key"
        key_file = await master_key.ensure(api_key_file)
        _log.info("master_key_file", file=str(api_key_file), state=key_file)
        catalog = Catalog(store, clock)

        async def on_event(agent_id: str, event: Event) -> None:
            await compute.reconciler.on_event(agent_id, event)

        hub = Hub(
            directory_of(agents),
            kahuna=new_id(),
            clock=clock,
            alarm=alarms.raise_alarm,
            on_event=on_event,
        )
        rotation = Rotation(keyring, secrets)
        settings = Settings(store, secrets, clock)
        kept = EngineSettings(keep_finished_s=await settings.get(OPERATION_DAYS) * 86_400.0)
        kinds = [rotation.kind, *COMPUTE_KINDS]
        engine = Engine(store, hub, kinds, clock=clock, settings=kept, alone=True, vault=secrets)
        compute = Compute.joined(
            store, engine, hub, catalog, secrets, alarm=alarms.raise_alarm, clock=clock
        )
        hub.on_connected(engine.agent_connected)
        hub.on_connected(compute.reconciler.agent_connected)
        passphrases = BlockingPool("passphrase", 1)
        cleanup.callback(passphrases.close)
        passwords = Passwords()
        cleanup.callback(passwords.close)
        services = Services(
            clock=clock,
            reach=_reach(config, tcp.getsockname()[1]),
            store=store,
            engine=engine,
            hub=hub,
            access=Access(store),
            api_keys=ApiKeys(store, clock),
            sessions=Sessions(store, secrets, settings, passwords, clock),
            users=Users(store, catalog, secrets, passwords, clock),
            agents=agents,
            alarms=alarms,
            authority=authority,
            catalog=catalog,
            projects=Projects(store, catalog, secrets, clock),
            adapters=Adapters(store, catalog, clock),
            compute=compute,
            settings=settings,
            master_key=master_key,
            rotation=rotation,
            recovery=Recovery(store, keyring, clock, passphrases),
            stopping=asyncio.Event(),
            simulation=None if stage is None else Simulation(store, stage, hub.reachable, clock),
        )
        yield Kahuna(config, services, api_key_file, tcp)


class Kahuna:
    """Everything wired; `serve` opens the doors."""

    def __init__(
        self,
        config: KahunaConfig,
        services: Services,
        api_key_file: Path,
        tcp: socket.socket,
    ) -> None:
        self.services: Final = services
        self._config = config
        self._api_key_file = api_key_file
        self._tcp = tcp

    async def serve(self, ready: Callable[[Ready], None], limits: Limits = _LIMITS) -> None:
        """Answer requests until cancelled. A listener that fails ends the process."""
        _raise_file_limit()
        config, services = self._config, self.services
        certificate = None if config.plain else await self._open_certificate()
        sockets = agent_socket(
            services.hub, lambda: certificate.fingerprint if certificate else b""
        )
        max_body_bytes = await services.settings.get(REQUEST_BYTES)
        app = as_asgi(create_app(services, [sockets], max_body_bytes=max_body_bytes))
        local_socket = config.state / LOCAL_SOCKET
        with bind_local(local_socket) as local:
            by_key = Edge(
                app,
                authenticate=by_credential(services.api_keys, services.sessions),
                hosts=self._hosts(),
                clock=services.clock,
            )
            by_kernel = Edge(app, authenticate=by_peer, hosts=None, clock=services.clock)
            tls = None if certificate is None else certificate.context
            listeners = (
                Listener(by_key, self._tcp, limits=limits, tls=tls),
                Listener(by_kernel, local, limits=limits),
            )
            port: int = self._tcp.getsockname()[1]
            async with asyncio.TaskGroup() as group:
                try:
                    self._supervise(group, "hub", services.hub.run)
                    self._supervise(group, "engine", services.engine.run)
                    self._supervise(group, "reconciler", services.compute.reconciler.run)
                    self._supervise(group, "rotation", services.rotation.run)
                    if certificate is not None:
                        self._supervise(group, "certificate", certificate.keep)
                    for listener in listeners:
                        group.create_task(listener.serve())
                    for listener in listeners:
                        await listener.listening.wait()
                    url = (
                        f"{'http' if config.plain else 'https'}://{_authority(config.host)}:{port}"
                    )
                    _log.info("kahuna_ready", url=url, local_socket=str(local_socket))
                    ready(Ready(url, local_socket, self._api_key_file))
                    await asyncio.Event().wait()
                finally:
                    services.stopping.set()  # before the listeners wait for open answers

    def _supervise(
        self, group: asyncio.TaskGroup, name: str, service: Callable[[], Awaitable[None]]
    ) -> None:
        group.create_task(supervise(name, service, clock=self.services.clock), name=name)

    async def _open_certificate(self) -> ServerCertificate:
        tls = self._config.tls
        if tls is not None:
            return OwnerCertificate(tls.certificate, tls.key)
        made = ClusterCertificate(
            self.services.authority,
            self.services.settings,
            self.services.clock,
            directory=self._config.state / "tls",
            names=self._names(),
        )
        await made.open()
        return made

    def _names(self) -> tuple[str, ...]:
        """Return by which names this Kahuna is reached; its agents here use the loopback ones."""
        host = self._config.host
        own = () if host in _ANY_ADDRESS else (host,)
        return tuple(
            dict.fromkeys((self._config.node_name, *own, *self._config.names, *_LOOPBACK_NAMES))
        )

    def _hosts(self) -> frozenset[str] | None:
        """Return the Host headers to answer to; None beyond loopback: proxies have other names."""
        if not is_loopback(self._config.host):
            return None
        return frozenset(name.lower() for name in self._names())


def _raise_file_limit() -> None:
    """Take what the system grants: each connection is an open file, and 1024 are few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _reach(config: KahunaConfig, port: int) -> Reach:
    if config.tls is not None and config.names:
        host = config.names[0]  # the owner's certificate hardly names a loopback address
    else:
        host = _ANY_ADDRESS.get(config.host, config.host)
    scheme = "ws" if config.plain else "wss"
    return Reach(
        f"{scheme}://{_authority(host)}:{port}", config.tls.certificate if config.tls else None
    )


def _authority(host: str) -> str:
    return f"[{host}]" if ":" in host else host
