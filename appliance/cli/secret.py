"""`kowabunga secret`: the data key under which all secrets of the cluster are sealed."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import click

from appliance.cli.client import ApiClient
from appliance.cli.operation import follow
from appliance.cli.options import FILE, output, passphrase_file, remote, state_directory, wait
from appliance.cli.output import Format, field, show_one
from appliance.cli.secret_files import passphrase, require_absent, write_new
from appliance.core.aio import BlockingPool
from appliance.core.clock import SystemClock
from appliance.core.secret import Secret
from appliance.services.key_files import KeyFiles
from appliance.services.keyring import Keyring
from appliance.services.node_identity import ensure_node_identity
from appliance.services.recovery import Recovery
from appliance.store.sqlite import SqliteStore


@click.group()
def secret() -> None:
    """The data key: all secrets in the database are sealed with it."""


@secret.command(epilog="Example: kowabunga secret rotate --wait")
@wait
@output
@remote
def rotate(client: ApiClient, form: Format, wait: bool) -> None:  # noqa: FBT001
    """Seal every secret with a new data key. Make a new export afterwards."""
    answer = client.call("POST", "/secrets/rotate-data-key", headers={"prefer": "respond-async"})
    if wait:
        follow(client, answer["operation"], form)
    else:
        show_one(answer, (field("OPERATION", "operation"),), form, "operation")


@secret.command(epilog="Example: kowabunga secret export --output /media/usb/recovery.json")
@click.option("--output", "file", type=FILE, required=True, help="New file (0600).")
@passphrase_file
@remote
def export(client: ApiClient, file: Path, passphrase_file: Path | None) -> None:
    """Write the recovery export: with a backup of the database it is the whole cluster.

    Keep it in another place than the backups, and the passphrase in a third.
    """
    require_absent(file)
    body = {"passphrase": passphrase(passphrase_file, confirm=True)}
    write_new(file, client.call_raw("POST", "/recovery/export", body=body))
    click.echo(f"The recovery export is in {file}.", err=True)


@secret.command("import", epilog="Example: kowabunga secret import recovery.json --node-name n1")
@click.argument("file", type=FILE)
@click.option("--node-name", required=True, help="The name of this node in the cluster.")
@state_directory
@passphrase_file
def import_(file: Path, node_name: str, state: Path, passphrase_file: Path | None) -> None:
    """Make a restored database readable on this node. The Kahuna must not run meanwhile."""
    secret_of = Secret(passphrase(passphrase_file, confirm=False))
    epoch = asyncio.run(_import(file.read_bytes(), secret_of, state, node_name))
    click.echo(f"The database in {state} is readable here; its epoch is {epoch}.", err=True)


async def _import(content: bytes, passphrase: Secret, state: Path, node_name: str) -> int:
    clock = SystemClock()
    async with AsyncExitStack() as cleanup:
        store = await SqliteStore.open(state / "state.db", clock=clock)
        cleanup.push_async_callback(store.close)
        pool = BlockingPool("passphrase", 1)
        cleanup.callback(pool.close)
        node = ensure_node_identity(state / "keys")
        keyring = Keyring(store, KeyFiles(state / "keys" / "data"), node, clock)
        recovery = Recovery(store, keyring, clock, pool)
        restored = await recovery.restore(content, passphrase, node.public(), node_name)
        return restored.epoch
