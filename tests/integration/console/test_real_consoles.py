"""The consoles of a real QEMU below a real libvirtd, through a real agent and Kahuna over TLS.

The machine's rows are written by hand and nothing reconciles them: consoles alone are tested here.
"""

import asyncio
import ssl
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from appliance.agent.client import AgentClient
from appliance.agent.compute import compute_handlers
from appliance.agent.consoles import console_streams
from appliance.agent.dial import WebSocketDialer
from appliance.agent.dispatch import Dispatcher
from appliance.agent.fences import FenceBook
from appliance.api.agents import agent_socket
from appliance.api.app import as_asgi, create_app
from appliance.api.authenticate import by_credential
from appliance.api.edge import Edge
from appliance.api.listener import Limits, Listener, bind_tcp, server_tls
from appliance.api.services import Services
from appliance.core import crypto, x509
from appliance.core.clock import SystemClock
from appliance.model.agent import AgentType
from appliance.model.domain_state import Power
from appliance.resources.kaktus import KAKTUSES, Kaktus
from appliance.resources.region import REGIONS, Region
from appliance.resources.zone import ZONES, Zone
from appliance.roles.kahuna import KahunaConfig, open_kahuna
from appliance.rpc.hello import Greeting
from appliance.rpc.proof import HmacCredential
from tests.contract.drivers.rig import Rig
from tests.contract.drivers.rig_libvirt import libvirt_rig
from tests.support.libvirtd import Libvirtd, private_libvirtd
from tests.support.small_guest import BECOME_DEAF, DEAF
from tests.support.wait import until
from tests.unit.resources.samples import add_row

pytestmark = pytest.mark.timeout(300)
_CLOCK = SystemClock()
_WAIT_S = 100.0


@dataclass(frozen=True, slots=True)
class Place:
    """A Kahuna that serves at `url`, and a domain that runs on its only node."""

    url: str
    ca_file: Path
    key_file: Path
    rig: Rig
    instance: str

    @property
    def client(self) -> httpx.AsyncClient:
        key = self.key_file.read_text().strip()
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"x-api-key": key},
            verify=ssl.create_default_context(cafile=self.ca_file),
            trust_env=False,
            timeout=_WAIT_S,
        )

    async def console(self, kind: str) -> str:
        async with self.client as client:
            path = f"/api/ext/v1/instances/{self.instance}/console"
            answer = await client.post(path, params={"kind": kind})
        assert answer.status_code == 201, answer.text
        url: str = answer.json()["url"]
        return url

    def dial(self, url: str) -> connect:
        """Return a socket as noVNC opens it."""
        assert url.startswith(self.url.replace("https", "wss"))
        tls = ssl.create_default_context(cafile=self.ca_file)
        return connect(
            url, ssl=tls, subprotocols=[Subprotocol("binary")], compression=None, proxy=None
        )


@asynccontextmanager
async def serving(services: Services, directory: Path) -> AsyncGenerator[str]:
    """Serve the API over TLS, without the work of a Kahuna that goes on behind it."""
    authority = x509.make_authority("test")
    issued = x509.issue_server_certificate(authority, ["127.0.0.1"], _CLOCK.now_ms())
    (directory / "ca.pem").write_text(authority.certificate_pem)
    (directory / "server.pem").write_text(issued.certificate_pem)
    (directory / "server.key").write_bytes(issued.key_pem.reveal())
    fingerprint = x509.fingerprint(issued.certificate_pem)
    edge = Edge(
        as_asgi(create_app(services, [agent_socket(services.hub, lambda: fingerprint)])),
        authenticate=by_credential(services.api_keys, services.sessions),
        hosts=frozenset({"127.0.0.1"}),
        clock=_CLOCK,
    )
    sock = bind_tcp("127.0.0.1", 0)
    tls = server_tls(directory / "server.pem", directory / "server.key")
    listener = Listener(edge, sock, limits=Limits(graceful_stop_s=2), tls=tls)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(listener.serve())
        await listener.listening.wait()
        yield f"127.0.0.1:{sock.getsockname()[1]}"
        services.stopping.set()
        running.cancel()


@asynccontextmanager
async def agent(
    services: Services, agent_id: str, rig: Rig, kahuna: str, directory: Path
) -> AsyncGenerator[None]:
    """Keep an agent with the rig's compute driver connected."""
    await services.agents.issue_key(agent_id)
    key = await services.agents.collect_key(agent_id)
    verifier = crypto.derive_verifier(key.reveal_text())
    handlers = compute_handlers(rig.compute, lambda _: None)
    async with (
        FenceBook.open(directory / "fences.db") as fences,
        Dispatcher(handlers, fences) as dispatcher,
        asyncio.TaskGroup() as tasks,
    ):
        client = AgentClient(
            [f"wss://{kahuna}"],
            Greeting(agent_id, AgentType.KAKTUS, HmacCredential(verifier), "boot", "test"),
            dispatcher,
            dialer=WebSocketDialer(directory / "ca.pem"),
            clock=_CLOCK,
            stream_kinds=console_streams(rig.compute, _CLOCK),
        )
        running = tasks.create_task(client.run())
        await until(lambda: services.hub.reachable(agent_id), timeout_s=_WAIT_S)
        yield
        running.cancel()


async def write_rows(services: Services, domain_id: str) -> str:
    """Write the machine and what it needs; return the agent of its host."""
    agent_id = (await services.agents.register("kaktus-1", AgentType.KAKTUS)).id
    region = await services.catalog.create(REGIONS, Region(name="eu", domain="eu.example"))
    zone = await services.catalog.create(ZONES, Zone(name="eu-a"), REGIONS, str(region.id))
    kaktus = await services.catalog.create(
        KAKTUSES, Kaktus(name="host-1", agents=[agent_id]), ZONES, str(zone.id)
    )
    store = services.store
    project = await add_row(store, "project", name="acme", tags="[]", metadatas="[]")
    pool = await add_row(
        store, "storage_pool", region_id=str(region.id), name="ssd", currency="EUR"
    )
    await add_row(
        store,
        "instance",
        id=domain_id,
        project_id=project,
        kaktus_id=str(kaktus.id),
        seed_pool_id=pool,
        name="web",
        memory_bytes=1,
        vcpus=1,
        power="running",
        phase="ready",
    )
    return agent_id


@pytest.fixture(scope="module")
def libvirtd() -> Generator[Libvirtd]:
    with private_libvirtd() as libvirtd:
        yield libvirtd


@pytest_asyncio.fixture
async def place(libvirtd: Libvirtd, tmp_path: Path) -> AsyncGenerator[Place]:
    state = tmp_path / "state"
    config = KahunaConfig(state=state, host="127.0.0.1", port=0, node_name="n1", plain=True)
    async with (
        libvirt_rig(libvirtd, tmp_path) as rig,
        open_kahuna(config, _CLOCK) as kahuna,
        serving(kahuna.services, tmp_path) as address,
    ):
        spec = await rig.spec()
        await rig.compute.ensure_domain(spec)
        await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
        agent_id = await write_rows(kahuna.services, spec.domain_id)
        async with agent(kahuna.services, agent_id, rig, address, tmp_path):
            yield Place(
                f"https://{address}",
                tmp_path / "ca.pem",
                state / "master.key",
                rig,
                spec.domain_id,
            )


async def command(place: Place, *words: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "appliance", "instance", "console", place.instance, *words,
        "--url", place.url, "--api-key-file", str(place.key_file),
        "--ca-file", str(place.ca_file),
        stdin=PIPE, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip


async def test_the_screen_of_a_guest_is_vnc_through_a_url_that_works_once(place: Place) -> None:
    url = await place.console("vnc")
    async with place.dial(url) as socket:
        got = b""

        async def take(length: int) -> bytes:
            nonlocal got
            while len(got) < length:
                got += await socket.recv(decode=False)
            head, got = got[:length], got[length:]
            return head

        async with asyncio.timeout(_WAIT_S):
            assert await take(12) == b"RFB 003.008\n"
            await socket.send(b"RFB 003.008\n")
            assert (
                await take(2) == b"\x01\x01"
            )  # one kind of security: none, for the socket is ours
            await socket.send(b"\x01")
            assert await take(4) == bytes(4)
            await socket.send(b"\x01")  # shared
            size = await take(4)
            width, height = int.from_bytes(size[:2], "big"), int.from_bytes(size[2:], "big")
            assert width >= 640
            assert height >= 400
            *_, length = await take(20)  # how pixels are written, and the name's length
            await take(length)
            await socket.send(b"\x03\x00" + bytes(4) + width.to_bytes(2, "big") + b"\x00\x01")
            assert (await take(1)) == b"\x00"  # a piece of the picture
    with pytest.raises(InvalidStatus):
        async with place.dial(url):
            pass


async def test_the_serial_line_is_heard_and_spoken_to_through_the_command_line(
    place: Place,
) -> None:
    process = await command(place, "--linger", "600")
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(_WAIT_S):
        process.stdin.write(BECOME_DEAF)
        assert await process.stdout.readexactly(len(DEAF)) == DEAF
        process.stdin.close()
        await place.rig.compute.ensure_power(place.instance, Power.STOPPED)
        assert await process.wait() == 0
        assert process.stderr is not None
        assert b"the console has ended" in await process.stderr.read()


async def test_a_line_is_taken_over_from_who_vanished(place: Place) -> None:
    async with asyncio.timeout(_WAIT_S):
        async with place.dial(await place.console("serial")) as first:
            await first.send(BECOME_DEAF)
            assert await first.recv(decode=False) == DEAF
            for _ in range(3):
                async with place.dial(await place.console("serial")) as second:
                    await second.send(BECOME_DEAF)
                    assert await second.recv(decode=False) == DEAF
            with pytest.raises(ConnectionClosed):
                await first.recv()


async def test_a_qemu_that_is_killed_ends_its_consoles(place: Place) -> None:
    async with asyncio.timeout(_WAIT_S):
        async with (
            place.dial(await place.console("serial")) as serial,
            place.dial(await place.console("vnc")) as screen,
        ):
            await screen.recv()
            await place.rig.kill_domain(place.instance)
            for socket in (serial, screen):
                async for _ in socket:
                    pass  # to the end, which is in order
                assert (socket.close_code, socket.close_reason) == (1000, "the console has ended")
        async with place.client as client:
            path = f"/api/v1/instance/{place.instance}/connect"
            assert (await client.get(path)).status_code == 404
