"""A whole Kahuna on real services, asked without a network."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from appliance.api.app import as_asgi, create_app
from appliance.api.asgi import AsgiApp, Scope
from appliance.api.authenticate import by_credential
from appliance.api.edge import Edge
from appliance.api.services import Services
from appliance.core.clock import SystemClock
from appliance.model.principal import Principal
from appliance.roles.kahuna import KahunaConfig, open_kahuna

EXT = "/api/ext/v1"


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncGenerator[Services]:
    config = KahunaConfig(
        state=tmp_path / "state", host="127.0.0.1", port=0, node_name="n1", plain=True
    )
    async with open_kahuna(config, SystemClock()) as kahuna:
        yield kahuna.services


@pytest_asyncio.fixture
async def engine(services: Services) -> AsyncGenerator[None]:
    """Let operations be done."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(services.engine.run())
        yield
        task.cancel()


@pytest.fixture
def master_key(services: Services, tmp_path: Path) -> str:
    assert services.store is not None
    return (tmp_path / "state/master.key").read_text().strip()


@pytest.fixture(scope="session")
def shared_app() -> tuple[AsgiApp, Services]:
    """One application for all tests, and its services: to make it takes longer than most tests."""
    held = object.__new__(Services)
    return as_asgi(create_app(held)), held


@pytest.fixture
def app(shared_app: tuple[AsgiApp, Services], services: Services) -> AsgiApp:
    app, held = shared_app
    for field in dataclasses.fields(services):
        object.__setattr__(held, field.name, getattr(services, field.name))
    return app


@pytest_asyncio.fixture
async def stranger(services: Services, app: AsgiApp) -> AsyncGenerator[httpx.AsyncClient]:
    """A client without a credential."""
    edge = Edge(
        app,
        authenticate=by_credential(services.api_keys, services.sessions),
        hosts=frozenset({"kahuna"}),
        clock=services.clock,
    )
    transport = httpx.ASGITransport(app=edge, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://kahuna") as client:
        yield client


@pytest_asyncio.fixture
async def master(stranger: httpx.AsyncClient, master_key: str) -> httpx.AsyncClient:
    """The same client with the master key."""
    stranger.headers["x-api-key"] = master_key
    return stranger


def client_as(services: Services, principal: Principal | None) -> httpx.AsyncClient:
    """Return a client that is taken for `principal`."""

    async def authenticate(scope: Scope) -> Principal | None:
        del scope
        return principal

    edge = Edge(
        as_asgi(create_app(services)), authenticate=authenticate, hosts=None, clock=services.clock
    )
    transport = httpx.ASGITransport(app=edge, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://kahuna")
