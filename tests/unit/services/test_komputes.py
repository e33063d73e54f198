"""Komputes on the real engine, store and dispatchers, before simulated nodes."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from appliance.core.clock import SystemClock
from appliance.core.errors import (
    Conflict,
    DriverError,
    InsufficientResource,
    Invalid,
    NotFound,
    Unavailable,
)
from appliance.model.compute import ObservedDomain
from appliance.model.domain_state import DomainState
from appliance.model.storage import ObservedImage, RbdPool
from appliance.resources.kompute import KOMPUTES, Kompute
from appliance.services.durable import Asked
from appliance.services.komputes import KomputeOptions
from appliance.store.sqlite import SqliteStore
from tests.support.cloud import ASKED, GIB, Cloud, cloud_on, kompute


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    clock = SystemClock()
    store = await SqliteStore.open(tmp_path / "state.db", clock=clock)
    try:
        async with cloud_on(store, tmp_path, clock) as cloud:
            yield cloud
    finally:
        await store.close()


async def test_a_kompute_is_whole_when_its_create_is_answered(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web", data_disk=2 * GIB)
    assert isinstance(made.id, str)
    assert made.ip == "10.1.0.2"
    assert (made.disk, made.data_disk, made.memory, made.vcpus) == (GIB, 2 * GIB, GIB, 1)
    assert await cloud.catalog.get(KOMPUTES, made.id) == made
    domains = [await cloud.nodes[agent].node.compute.list_domains() for agent in cloud.agents]
    (running,) = [domain for host in domains for domain in host]
    assert running.state is DomainState.RUNNING
