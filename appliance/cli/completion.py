"""`kowabunga completion`: the script that makes a shell complete our commands."""

from typing import Final

import click
from click.shell_completion import get_completion_class

# Bash puts on the command line what it is given, where zsh and fish quote it: a name may hold
# anything that a shell would run. And it would read the name as a pattern of files.
_BARE: Final = ("read type value", "COMPREPLY+=($value)")
_QUOTED: Final = ("read -r type value", 'COMPREPLY+=("$(printf \'%%q\' "$value")")')


@click.command(epilog='Example: eval "$(kowabunga completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    # Not `source()`: for bash that would start a process to ask for its version.
    made = kind(context.find_root().command, {}, "kowabunga", "_KOWABUNGA_COMPLETE")
    template = made.source_template
    for bare, quoted in zip(_BARE, _QUOTED, strict=True):
        template = template.replace(bare, quoted)
    click.echo(template % made.source_vars())
