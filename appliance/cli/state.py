"""`kowabunga state`: the state database."""

import asyncio
from pathlib import Path

import click

from appliance.cli.client import ApiClient
from appliance.cli.exit_code import ExitCode
from appliance.cli.failure import Failed
from appliance.cli.options import DEFAULT_STATE, DIRECTORY, FILE, output, remote, state_directory
from appliance.cli.output import Format, field, show_list
from appliance.core.clock import SystemClock
from appliance.core.errors import NotFound

_LIMIT_S = 3600.0
_DATABASE = "state.db"


@click.group()
def state() -> None:
    """The state database."""


@state.command(epilog="Example: kowabunga state verify --state /var/lib/kowabunga")
@click.option("--state", type=DIRECTORY, help="Check this directory, of a Kahuna that is stopped.")
@output
@remote
def verify(client: ApiClient, state: Path | None, form: Format) -> None:
    """Check the whole database, and whether the nodes have what is in it, and nothing else.

    With --state, the nodes cannot be asked: only the database is checked.
    """
    if state is None:
        findings = [str(finding) for finding in client.call("POST", "/state/verify")["findings"]]
    else:
        findings = asyncio.run(_verify(state))
    rows = [{"finding": finding} for finding in findings]
    # A table would cut the sentences short.
    whole = Format.NAME if form in (Format.TABLE, Format.WIDE) else form
    show_list(rows, (field("FINDING", "finding"),), whole, "finding")
    if findings:
        raise Failed(f"not all is well: {len(findings)} findings", ExitCode.DEGRADED)
    nodes = "and the nodes have what is in it" if state is None else "the nodes were not asked"
    click.echo(f"The database is sound, {nodes}.", err=True)


@state.command(epilog="Example: kowabunga state backup /backup/kowabunga-2026-11-23.db")
@click.argument("file", type=FILE)
@click.option(
    "--state", type=DIRECTORY, default=DEFAULT_STATE, show_default=True, help="State directory."
)
def backup(file: Path, state: Path) -> None:
    """Write all that is committed now into a new file (0600), on the node of a Kahuna.

    The Kahuna may run meanwhile. The file is one SQLite database. It lacks the data keys: keep the
    recovery export (kowabunga secret export) in another place.
    """
    from appliance.store.backup import back_up  # noqa: PLC0415 - on the node of a Kahuna only

    back_up(state / _DATABASE, file)
    click.echo(f"The backup is in {file}. It does not hold the data keys.", err=True)


@state.command(epilog="Example: kowabunga state restore /backup/kowabunga-2026-11-23.db")
@click.argument("file", type=FILE)
@state_directory
def restore(file: Path, state: Path) -> None:
    """Put a backup in the place of the database of a Kahuna that is stopped.

    What it replaces is kept beside it. Look at the alarms of the Kahuna that is started then:
    machines and disks that the backup does not know go on as they are, and are reported.
    """
    from appliance.services.restore import restore as restore_state  # noqa: PLC0415 - see above

    restored = asyncio.run(restore_state(file, state / _DATABASE, SystemClock()))
    click.echo(
        f"{state / _DATABASE} is cluster {restored.cluster_id} as it was backed up,"
        f" with {restored.instances} machines; its epoch is {restored.epoch}.",
        err=True,
    )
    if restored.unfinished:
        click.echo(f"It will go on with {restored.unfinished} operations.", err=True)
    if restored.lacking_keys:
        raise Failed(
            f"this node lacks {len(restored.lacking_keys)} data keys of the backup"
            f" ({', '.join(restored.lacking_keys)}): import the recovery export before the Kahuna"
            " starts (kowabunga secret import)",
            ExitCode.DEGRADED,
        )


async def _verify(directory: Path) -> list[str]:
    from appliance.services.invariants import verify_rows  # noqa: PLC0415 - loads much
    from appliance.store.sqlite import SqliteStore  # noqa: PLC0415 - for a stopped Kahuna only
    from appliance.store.verify import verify as verify_store  # noqa: PLC0415

    path = directory / _DATABASE
    if not path.exists():
        raise NotFound(f"there is no database {path}", field="state")
    clock = SystemClock()
    store = await SqliteStore.open(path, clock=clock, statement_limit_s=_LIMIT_S)
    try:
        return [*await verify_store(store), *await verify_rows(store)]
    finally:
        await store.close()
