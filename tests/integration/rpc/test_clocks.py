"""Certificates and clocks: whom a wrong one keeps out, and what is said then."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509 as native
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from appliance.agent.dial import WebSocketDialer
from appliance.api.listener import server_tls
from appliance.cli.client import ApiClient, Connection
from appliance.core import x509
from appliance.core.clock import SystemClock
from appliance.core.crypto import generate_api_key
from appliance.core.errors import Unavailable
from appliance.core.files import write_atomic
from tests.support.faults import What, Where, breaks

DAY = timedelta(days=1)
WRONG = breaks(
    What.CLOCK,
    "by the clock of a machine, Kahuna's certificate is not valid yet, or not any more",
    expected="its agent and its command line say so, with the time of their own clock",
    where=Where.HOST,
)


@asynccontextmanager
async def server(pair: Path) -> AsyncGenerator[int]:
    """Serve TLS with a key and its certificate; give the port."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", ssl=server_tls(pair, pair))
    async with listening:
        yield int(listening.sockets[0].getsockname()[1])


def write_pair(directory: Path, begin: datetime, end: datetime) -> Path:
    """Write a self-signed certificate for that time, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = native.Name([native.NameAttribute(NameOID.COMMON_NAME, "kahuna")])
    certificate = (
        native.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(native.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(
            native.SubjectAlternativeName([native.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    file = directory / "pair.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    file.chmod(0o600)
    return file


@WRONG
@pytest.mark.parametrize(
    ("begin", "end", "says"), [(DAY, 2 * DAY, "not yet valid"), (-2 * DAY, -DAY, "has expired")]
)
async def test_what_a_clock_speaks_against_is_refused_with_the_time_of_that_clock(
    tmp_path: Path, begin: timedelta, end: timedelta, says: str
) -> None:
    now = datetime.now(UTC)
    pair = write_pair(tmp_path, now + begin, now + end)
    async with server(pair) as port:
        with pytest.raises(Unavailable, match=says) as refused:
            async with WebSocketDialer(pair).dial(f"wss://127.0.0.1:{port}"):
                pass
        assert f"by the clock of this machine it is {now:%Y-%m-}" in str(refused.value)
        key = tmp_path / "api.key"
        write_atomic(key, generate_api_key().reveal(), mode=0o600)
        line = Connection(url=f"https://127.0.0.1:{port}", api_key_file=key, ca_file=pair)
        with ThreadPoolExecutor(1) as pool, pytest.raises(Unavailable, match=says) as refused:
            await asyncio.get_running_loop().run_in_executor(pool, ask, line)
        assert "by the clock of this machine it is" in str(refused.value)


def ask(connection: Connection) -> None:
    with ApiClient(connection) as client:
        client.call("GET", "/health")


@breaks(
    What.CLOCK,
    "agent and Kahuna disagree by a day, or by a year",
    expected="the agent is connected and works: nothing between them depends on the time of day",
    where=Where.SIMULATED,
)
@pytest.mark.parametrize("days", [-20, -1, 1, 366])
async def test_a_certificate_made_under_another_clock_is_trusted(tmp_path: Path, days: int) -> None:
    """Made by a Kahuna whose clock is ahead of ours by so many days."""
    authority = x509.make_authority("test")
    made = x509.issue_server_certificate(
        authority, ["127.0.0.1"], SystemClock().now_ms() + days * 86_400_000
    )
    pair, ca = tmp_path / "pair.pem", tmp_path / "ca.pem"
    pair.write_bytes(made.key_pem.reveal() + made.certificate_pem.encode())
    ca.write_text(authority.certificate_pem)
    context = ssl.create_default_context(cafile=str(ca))
    async with server(pair) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        assert writer.get_extra_info("ssl_object").version() is not None
        writer.close()
