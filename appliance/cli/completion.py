"""`kowabunga completion`: the script that makes a shell complete our commands."""

import click
from click.shell_completion import get_completion_class


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
    click.echo(made.source_template % made.source_vars())
