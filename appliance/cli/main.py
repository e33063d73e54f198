"""The command tree: noun, verb, name, options. Each noun is imported when it is used.

`--version` and `--help` must stay quick: nothing but click is imported here.
"""

import os
import sys
from typing import Final

import click

from appliance.cli.lazy import Branch, LazyGroup
from appliance.cli.nouns import NOUNS
from appliance.core.version import VERSION, version_line

_BRANCHES: Final = {
    **{
        noun.name: Branch(noun.where, noun.about, None if noun.is_made_by_hand else noun)
        for noun in NOUNS.values()
    },
    "alarm": Branch("appliance.cli.alarm:alarm", "What the cluster wants its owner to look at."),
    "completion": Branch("appliance.cli.completion:completion", "Completion for a shell."),
    "explain": Branch("appliance.cli.explain:explain", "What the fields of a noun mean."),
    "master-key": Branch(
        "appliance.cli.master_key:master_key", "Rotate or disable the master key."
    ),
    "operation": Branch(
        "appliance.cli.operation:operation", "Durable work: watch, retry, abandon."
    ),
    "role": Branch("appliance.cli.role:role", "What this node is."),
    "secret": Branch("appliance.cli.secret:secret", "Rotate, export and restore the data key."),
    "serve": Branch("appliance.cli.serve:serve", "Run the roles of this node."),
    "settings": Branch("appliance.cli.settings:settings", "Settings of the whole cluster."),
    "sim": Branch("appliance.cli.sim:sim", "Trouble for the nodes of a simulated cloud."),
    "state": Branch("appliance.cli.state:state", "The state database of this node."),
}


@click.group(
    cls=LazyGroup,
    branches=_BRANCHES,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: kowabunga agent list -o wide",
)
@click.version_option(VERSION, message=version_line())
def root() -> None:
    """Run and operate a Kowabunga cloud."""


def main() -> None:
    """Run the command line of this process, and exit with a code of `exit_code.ExitCode`."""
    if "_KOWABUNGA_COMPLETE" in os.environ:  # a shell asks what could come next
        root.main(prog_name="kowabunga")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors are told on standard error."""
    try:
        result = root.main(arguments, prog_name="kowabunga", standalone_mode=False)
    except Exception as error:
        from appliance.cli.failure import tell  # noqa: PLC0415 - only failures pay for it

        return tell(error, debug="--debug" in arguments)
    except KeyboardInterrupt:
        return 130
    except SystemExit:
        return 0  # click's way to end quietly when whoever read our output has left
    return result if isinstance(result, int) else 0
