"""`kowabunga state`: the state database."""

import asyncio
from pathlib import Path

import click

from appliance.cli.client import ApiClient
from appliance.cli.exit_code import ExitCode
from appliance.cli.failure import Failed
from appliance.cli.options import DIRECTORY, output, remote
from appliance.cli.output import Format, field, show_list
from appliance.core.clock import SystemClock
from appliance.core.errors import NotFound

_LIMIT_S = 3600.0


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


async def _verify(directory: Path) -> list[str]:
    from appliance.services.invariants import verify_rows  # noqa: PLC0415 - loads much
    from appliance.store.sqlite import SqliteStore  # noqa: PLC0415 - for a stopped Kahuna only
    from appliance.store.verify import verify as verify_store  # noqa: PLC0415

    path = directory / "state.db"
    if not path.exists():
        raise NotFound(f"there is no database {path}", field="state")
    clock = SystemClock()
    store = await SqliteStore.open(path, clock=clock, statement_limit_s=_LIMIT_S)
    try:
        return [*await verify_store(store), *await verify_rows(store)]
    finally:
        await store.close()
