"""`kowabunga state verify`: what is looked at, and what the exit code tells."""

import asyncio
from pathlib import Path

import pytest

from appliance.cli.exit_code import ExitCode
from appliance.core.clock import SystemClock
from appliance.drivers.fake.world import World
from appliance.roles.kahuna import Ready
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore
from tests.unit.cli.conftest import Cli
from tests.unit.cli.world import ask, build_cloud, new, ok


def test_a_running_kahuna_asks_its_nodes_and_tells_what_they_lack(cli: Cli, cloud: Ready) -> None:
    build_cloud(cli)
    new(cli, "kompute web --project shop --zone eu-a --vcpus 1 --memory 1GiB --disk 2GiB")
    ok(cli("state", "verify"))
    agent, (machine,) = ask(cli, "agent", "show", "k1")["id"], ask(cli, "instance", "list")
    with World(cloud.local_socket.parent.parent / "simulation/world.db") as world:
        world.remove(f"node/{agent}", "domain", machine["id"])
    verified = cli("state", "verify")
    assert verified.code == ExitCode.DEGRADED
    assert f"instance/{machine['id']}: its domain is not on its host" in verified.out
    assert "a card is plugged, and its domain is gone" in verified.out
    assert "2 findings" in verified.err


def test_a_node_that_cannot_be_asked_is_a_finding(cli: Cli, cloud: Ready) -> None:
    assert cloud.url
    build_cloud(cli)
    ok(cli("sim", "cut", "k1"))
    verified = cli("state", "verify")
    assert verified.code == ExitCode.DEGRADED
    assert "(not looked at)" in verified.out


def write(state: Path, *statements: str) -> None:
    """Write to the state of a Kahuna that is stopped, references unchecked."""

    async def work() -> None:
        store = await SqliteStore.open(state / "state.db", clock=SystemClock())
        try:
            await store.batch([Statement(each) for each in statements])
        finally:
            await store.close()

    asyncio.run(work())


_REGION = (
    "INSERT INTO region (id, name, description, domain, created_at_ms, updated_at_ms)"
    f" VALUES ('{'a' * 24}', 'eu', '', 'eu.example.org', 0, 0)"
)
_POOL = (
    "INSERT INTO storage_pool (id, region_id, name, description, pool, ceph_address,"
    " ceph_secret_uuid, ceph_port, price, currency, created_at_ms, updated_at_ms)"
    f" VALUES ('{'b' * 24}', '{'a' * 24}', 'ssd', '', 'rbd', '', '', 0, '0', '', 0, 0)"
)
_TEMPLATE = (
    "INSERT INTO template (id, storage_pool_id, name, description, os, source, phase,"
    " created_at_ms, updated_at_ms)"
    f" VALUES ('{'c' * 24}', '{'b' * 24}', 'debian', '', 'linux', '', 'ready', 0, 0)"
)


@pytest.mark.parametrize("damage", [False, True])
def test_of_a_stopped_kahuna_only_the_database_is_checked(
    cli: Cli, tmp_path: Path, damage: bool
) -> None:
    # No node has the image of this template: with nobody to ask, that is no finding.
    write(tmp_path, _REGION, _POOL, _TEMPLATE)
    if damage:
        write(tmp_path, "INSERT INTO txn_guard SELECT 1")
    verified = cli("state", "verify", "--state", tmp_path)
    if damage:
        assert verified.code == ExitCode.DEGRADED
        assert "txn_guard" in verified.out
    else:
        assert verified.code == ExitCode.DONE
        assert "the nodes were not asked" in verified.err
