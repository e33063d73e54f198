"""`kowabunga serve`: run the roles of the node file, or a simulated cloud."""

import os
from pathlib import Path

import click

from appliance.cli.options import FILE
from appliance.cli.program import this_program
from appliance.core.clock import SystemClock
from appliance.core.errors import Invalid
from appliance.core.logs import configure_logs
from appliance.core.service import run_service
from appliance.model.node import is_loopback, split_address
from appliance.roles.node_file import CONFIG, RUNTIME, NodeFiles

DIRECTORY = click.Path(path_type=Path, file_okay=False)
_ONLY_SIMULATE = ("listen", "state", "api_key_file", "simulate_nodes")
_MOST_NODES = 10_000
_NEVER_SIMULATE = ("config", "runtime")


@click.command()
@click.option("--config", type=FILE, default=CONFIG, show_default=True, help="The node file.")
@click.option(
    "--runtime", type=DIRECTORY, default=RUNTIME, show_default=True, help="Run directory."
)
@click.option("--simulate", is_flag=True, help="A Kahuna with simulated agents, no node file.")
@click.option(
    "--listen", help="With --simulate: loopback ADDRESS:PORT for plain HTTP.", metavar="ADDRESS"
)
@click.option("--state", type=DIRECTORY, help="With --simulate: state directory.")
@click.option(
    "--api-key-file", type=FILE, help="With --simulate: the master key; made when missing."
)
@click.option(
    "--simulate-nodes",
    type=click.IntRange(0, _MOST_NODES),
    default=0,
    help="With --simulate: have a region with this many Kaktus nodes in up to 3 zones.",
)
@click.pass_context
def serve(
    context: click.Context,
    config: Path,
    runtime: Path,
    *,
    simulate: bool,
    listen: str | None,
    state: Path | None,
    api_key_file: Path | None,
    simulate_nodes: int,
) -> None:
    r"""Run the roles of this node until told to end.

    A change of the node file is noticed and applied; a broken one is refused, and the old one
    stays in force.

    \b
    Example: kowabunga serve
    Example: kowabunga serve --simulate --listen 127.0.0.1:8080 --state DIR --api-key-file FILE
    """
    foreign = _NEVER_SIMULATE if simulate else _ONLY_SIMULATE
    for name in foreign:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = f"--{name.replace('_', '-')}"
            rule = "does not go with" if simulate else "needs"
            raise click.UsageError(f"{option} {rule} --simulate")
    configure_logs()
    if simulate:
        _simulate(listen, state, api_key_file, simulate_nodes)
    else:
        _supervise(NodeFiles(config.absolute(), runtime.absolute()))


def _supervise(files: NodeFiles) -> None:
    from appliance.roles.supervisor import Launch, Supervisor  # noqa: PLC0415 - simulating has none

    program = this_program()
    os.chdir("/")  # nobody's directory stays in use because of us
    launch = Launch((program.executable, "role", "run"), program.environment)
    run_service(Supervisor(files, launch, clock=SystemClock()).run())


def _simulate(
    listen: str | None, state: Path | None, api_key_file: Path | None, nodes: int
) -> None:
    if listen is None or state is None:
        raise click.UsageError("--simulate needs --listen and --state")
    try:
        host, port = split_address(listen)
    except ValueError:
        raise Invalid(
            f"--listen {listen} is not ADDRESS:PORT", hint="for instance 127.0.0.1:8080"
        ) from None
    if not is_loopback(host):
        raise Invalid(
            f"--listen {listen}: plain HTTP is for loopback addresses only",
            hint="listen on 127.0.0.1, or set up a node: kowabunga role set kahuna",
        )
    from appliance.roles.kahuna import KahunaConfig, Ready  # noqa: PLC0415 - 0.5 s
    from appliance.roles.simulate import run_simulation  # noqa: PLC0415
    from appliance.services.simulated_region import REGION, SimulatedRegion  # noqa: PLC0415

    config = KahunaConfig(
        state=state.absolute(),
        host=host,
        port=port,
        node_name="simulated",
        plain=True,
        api_key_file=api_key_file.absolute() if api_key_file else None,
    )

    def ready(answer: Ready) -> None:
        click.echo(f"serving {answer.url}, key in {answer.api_key_file}", err=True)

    def furnished(region: SimulatedRegion) -> None:
        click.echo(
            f"simulating {region.nodes} Kaktus nodes ({region.made} of them new) in "
            f"{', '.join(region.zones)}; region {REGION} is {region.region_id}",
            err=True,
        )

    run_service(run_simulation(config, ready=ready, nodes=nodes, furnished=furnished))
